"""The formats of model files: what a format is, and how that of a file is found.

A format is a function, named in the entry point group `eventml.model_formats` by the suffix of its
files without the dot. eventml's own are registered like those of other packages.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from eventml.entry_points import registered
from eventml.errors import EventMLError, MissingExtraError, ModelError
from eventml.models.artefacts import Artefact

_GROUP: Final = "eventml.model_formats"
_FOLDERS: Final = {"MLmodel": "mlflow", "config.json": "transformers"}  # by a file in the folder


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, or a folder, for a format to load.

    Attributes:
        path: Where it is; for messages, and for reading a folder.
        data: The bytes whose sha256 was checked, empty for a folder: load these, not the file again.
        artefact: What its user trusts; the file's digest is in the code or the settings if it has a `sha256`.
        may_unpickle: Whether its user asked for a pickle, and a pin was checked.
    """

    path: Path
    data: bytes
    artefact: Artefact
    may_unpickle: bool = False


class ModelFormat(Protocol):
    """A function that loads the files of a format.

    Its keyword-only parameters are the `options` that an `Artefact` of the format takes. It may raise any
    exception for a damaged file. If loading runs code in the file, it must refuse a file without `sha256`.
    """

    def __call__(self, file: ModelFile, /, **options: Any) -> Any:
        """Return the model in the file; it need not be limited to one thread."""


def import_extra(module: str, extra: str, feature: str) -> Any:
    """Import a module of an extra; a MissingExtraError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MissingExtraError(extra, feature) from exc


def format_name(path: Path, artefact: Artefact) -> str:
    """The format of a file by its suffix, and of a folder by its content, unless the artefact names it."""
    if artefact.format is None and path.is_dir():
        if found := [name for file, name in _FOLDERS.items() if (path / file).is_file()]:
            return found[0]
        raise ModelError(f"the model at {path} cannot be read: there is no {' or '.join(_FOLDERS)} in it")
    name = path.suffix.lower()[1:] if artefact.format is None else artefact.format.lower()
    if name not in registered(_GROUP):
        shown = artefact.format or path.suffix or "a file without suffix"
        known = ", ".join(sorted(registered(_GROUP)))
        raise ModelError(f"{path}: {shown} is not a known model format; format= names one of {known}")
    return name


def read_model(file: ModelFile, name: str) -> Any:
    """Load a file in a format. Whatever its library raises is a ModelError."""
    options = dict(file.artefact.options)
    try:
        return registered(_GROUP)[name].load()(file, **options)
    except EventMLError:
        raise
    except Exception as exc:
        given = f"{name} with options={options!r}" if options or isinstance(exc, TypeError) else name
        raise ModelError(f"{file.path} cannot be loaded as {given}: {type(exc).__name__}: {exc}") from exc
