"""The formats of model files: what a format is, and how the format of a file is found.

A format is a function, named in the entry point group `eventml.model_formats` by the suffix of its files without
the dot. Ours are registered in the way a third party's are.
"""

from __future__ import annotations

import importlib
import inspect
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from eventml.errors import EventMLError, MissingExtraError, ModelError, UntrustedModelError
from eventml.models.artefacts import Artefact

_GROUP: Final = "eventml.model_formats"
_FOLDERS: Final = {"MLmodel": "mlflow", "config.json": "transformers"}
"""Formats of folders, by a file in them."""


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, or a folder, for a format to load.

    Attributes:
        path: Where it is; for messages, and for reading a folder.
        data: The bytes whose sha256 was checked: load these and not the file, which may have been replaced
            since. Empty for a folder.
        artefact: The trust and the options that its user stated.
        may_unpickle: Whether its user asked for a pickle, and its digest was checked.
    """

    path: Path
    data: bytes
    artefact: Artefact
    may_unpickle: bool = False

    @property
    def pinned(self) -> bool:
        """Whether its sha256 is in the code or the settings, so that it is the file that its user meant."""
        return self.artefact.sha256 is not None

    def need_pin(self, what: str) -> None:
        """Refuse a file of a format that runs the file's code, unless it is pinned.

        Raises:
            UntrustedModelError: It is not pinned. The message says how to pin it.
        """
        if not self.pinned:
            raise UntrustedModelError(
                f"{self.path} is {what}, and loading it runs code in it. If you know who made the file and noted "
                f"its sha256 then, give it: Artefact({str(self.path)!r}, sha256='<its 64 hex digits>')"
            )


class ModelFormat(Protocol):
    """A function that loads the files of a format.

    Its keyword-only parameters are the `options` that an `Artefact` of the format takes. It imports the
    model's library itself, limits nothing to one thread, and raises any exception for a damaged file.
    A format that runs code in a file calls `need_pin` first.
    """

    def __call__(self, file: ModelFile, /, **options: Any) -> Any:
        """Return the model in the file."""


def registered(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of a group by name.

    Raises:
        ModelError: Two packages register one name.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=group):
        if found.setdefault(point.name, point).value != point.value:
            both = " and ".join(sorted({found[point.name].value, point.value}))
            raise ModelError(f"{point.name} is registered twice in {group}, as {both}; uninstall one")
    return found


def import_extra(module: str, extra: str, feature: str) -> Any:
    """Import a module of an extra.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MissingExtraError(extra, feature) from exc


def format_name(path: Path, artefact: Artefact) -> str:
    """The name of a file's format: that in the artefact, or its suffix; of a folder by its content.

    Raises:
        ModelError: It is not known.
    """
    formats = registered(_GROUP)
    if artefact.format is None and path.is_dir():
        for file, name in _FOLDERS.items():
            if (path / file).is_file():
                return name
        raise ModelError(
            f"the model at {path} cannot be read: a folder with neither {' nor '.join(_FOLDERS)}"
        )
    name = path.suffix.lower()[1:] if artefact.format is None else artefact.format
    if name not in formats:
        shown = artefact.format or path.suffix or "a file without suffix"
        known = ", ".join(sorted(formats))
        raise ModelError(
            f"{path}: {shown} is not a known model format; known are {known}: Artefact(..., format=)"
        )
    return name


def read_model(file: ModelFile, name: str) -> Any:
    """Load a file with the format of a name.

    Raises:
        ModelError: The file is damaged or not trusted, or an option is unknown or missing.
        MissingExtraError: The format's library is not installed.
    """
    try:
        read: ModelFormat = registered(_GROUP)[name].load()
        inspect.signature(read).bind(file, **file.artefact.options)
    except TypeError as exc:
        takes = ", ".join(list(inspect.signature(read).parameters)[1:]) or "none"
        raise ModelError(
            f"{file.path}: Artefact.options of the format {name}: {exc}; it takes {takes}"
        ) from exc
    try:
        return read(file, **file.artefact.options)
    except EventMLError:
        raise
    except Exception as exc:
        raise ModelError(f"{file.path} cannot be loaded as {name}: {type(exc).__name__}: {exc}") from exc
