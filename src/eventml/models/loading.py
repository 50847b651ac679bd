"""`Artefact` and `Model`, and loading a model from a path, an `Artefact` or a function."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from eventml.errors import EventMLError, ModelError, ModelNotFoundError, ModelTamperedError
from eventml.models.onnx_models import read_onnx
from eventml.models.sklearn_models import read_pickle, read_skops
from eventml.models.threads import use_one_job

_DIGITS: Final = 12  # of a version: 48 bits tell a team's models apart, and keep ids short
_SUFFIXES: Final = (".skops", ".joblib", ".pkl", ".pickle", ".onnx")
_BESIDE: Final = ".sha256"  # behind a model's path: the file with its digest
_PIN: Final = re.compile(rb"\\?([0-9a-fA-F]{64})(?:[ \t][^\n]*)?\s*")  # a line of sha256sum, or its digits
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)  # not on Windows
_PIN_SIZE: Final = 8192  # bytes to read; one line is shorter


class Model(msgspec.Struct, frozen=True, eq=False):
    """A loaded model.

    Attributes:
        object: The model itself: the object in the file, or the one that the function returned.
        name: Sent with every prediction, in the header `ce_model`.
        version: Sent in the header `ce_modelversion`, and part of a prediction's id: two models that
            predict differently need different versions, or their predictions look like duplicates.
    """

    object: Any
    name: str
    version: str


class Artefact(msgspec.Struct, frozen=True):
    """A model file, and what may be trusted in it.

    If there is a file `<path>.sha256`, as sha256sum writes it (also beside the file that a link leads to),
    the model must have that digest too. It does not permit a pickle: whoever can replace the model can
    replace that file as well.

    Attributes:
        path: Path of the file. Its suffix decides the format: `.skops`, `.joblib`, `.pkl`, `.pickle`,
            `.onnx`.
        name: Name of the model, or None for the file's name without its suffix.
        version: Version of the model, or None for the first 12 hex digits of the file's sha256.
        trusted: Full names of types and functions that may be loaded from a skops file, in addition
            to eventml's reviewed list. The author of the file chooses the arguments that they are called
            with: trust only what is harmless with any arguments.
        sha256: The file's expected digest, 64 hex digits, checked for every format.
        pickle: Whether to load a pickle. Loading runs any code in the file, so `sha256` is required too.
        keep_threads: Whether to keep `n_jobs` and ONNX Runtime's threads. By default a model is limited
            to one thread, because more make a stream slower; see `docs/models.md`.

    Raises:
        ModelError: `trusted` is a str and not a tuple.
    """

    path: str | os.PathLike[str]
    name: str | None = None
    version: str | None = None
    trusted: tuple[str, ...] = ()
    sha256: str | None = None
    pickle: bool = False
    keep_threads: bool = False

    def __post_init__(self) -> None:
        """Refuse a str as `trusted`, which would trust its single letters."""
        if isinstance(self.trusted, str):
            raise ModelError(f"Artefact.trusted is a tuple of names: write trusted=({self.trusted!r},)")


ModelSource: TypeAlias = str | os.PathLike[str] | Artefact | Model | Callable[[], Any]
"""Types that a handler's `model=` accepts: see `load`."""


def load(source: ModelSource, *, name: str) -> Model:
    """Load a model. It blocks, for a large model for long: call it in a thread.

    A path is loaded according to its suffix, and only types on eventml's reviewed list are trusted; an
    `Artefact` can say more. A `Model` is returned as it is. A function is called without arguments: if it
    returns a `Model`, that is kept; a path or an `Artefact` is loaded; any other object becomes the model,
    limited to one thread, with a version computed from its pickled state ("unversioned" if it cannot be
    pickled: return a `Model` with a version of your own then).

    The file is read once: the bytes that are hashed are the bytes that are loaded.

    Args:
        source: The model's path, `Artefact`, `Model` or function.
        name: Name of the model if the source has none; a file's name, without its suffix, comes first.

    Raises:
        ModelNotFoundError: There is no file at the path.
        ModelTamperedError: The file's sha256 differs from the artefact's, or from that in `<path>.sha256`.
        UntrustedModelError: Loading it would run code, or create types, that are not trusted.
        ModelError: The file cannot be read, is damaged, or the function failed.
        MissingExtraError: The format needs an extra that is not installed.

    Warns:
        sklearn.exceptions.InconsistentVersionWarning: The file was saved with another version of
            scikit-learn. Where a filter makes this an error, the model is refused with a ModelError.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, str | os.PathLike):
        return _load_file(Artefact(source))
    if isinstance(source, Artefact):
        return _load_file(source)
    if callable(source):
        return _load_from_function(source, name)
    raise ModelError(
        f"model {name!r}: a model is a path, an Artefact, a Model or a function that returns one, "
        f"not {type(source).__name__}; pass an object by a function: model=lambda: the_object"
    )


def current_version(source: ModelSource) -> str | None:
    """The version that the model at a source has now, without loading it; None if it cannot change.

    A pinned file cannot, nor one whose `version` the code gives, nor what a function makes. It reads a file
    only if the file has changed.

    Raises:
        ModelNotFoundError: There is no file at the path.
        ModelError: The file cannot be read.
    """
    artefact = _unpinned(source)
    if artefact is None:
        return None
    path = os.fspath(artefact.path)
    try:
        found = os.stat(path)  # noqa: PTH116 - with its type, as `_read` takes it
        return _digest(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)[:_DIGITS]
    except FileNotFoundError as exc:
        raise ModelNotFoundError(f"there is no model at {path} any more") from exc
    except (OSError, ValueError) as exc:
        raise ModelError(f"the model at {path} cannot be read: {exc}") from exc


def can_change(source: ModelSource) -> bool:
    """Whether the model at a source can have another version later: see `current_version`."""
    return _unpinned(source) is not None


def _unpinned(source: ModelSource) -> Artefact | None:
    """The file of a source that can change, or None."""
    if isinstance(source, _Replacement):
        source = source.path
    artefact = Artefact(source) if isinstance(source, str | os.PathLike) else source
    if not isinstance(artefact, Artefact) or artefact.sha256 is not None or artefact.version is not None:
        return None
    return artefact


@lru_cache(maxsize=64)
def _digest(path: str, *_found: int) -> str:
    return hashlib.sha256(_read(path)).hexdigest()


def replacement(source: ModelSource | None, path: str, sha256: str | None = None) -> ModelSource:
    """The source of a model file that a setting puts in the place of `source`.

    Code that pins its model, or makes it itself, decides what runs, so the file needs a pin too: `sha256`, or
    the file `<path>.sha256`. Without one `load` raises a ModelError. In the place of a file without a pin it
    needs none.
    """
    if source is None or sha256 is not None:
        return Artefact(path, sha256=sha256)
    return _Replacement(source, path)


class _Replacement(msgspec.Struct, frozen=True):
    """Loads the model at a path in the place of a source's, which says whether the file needs a pin."""

    source: ModelSource
    path: str

    def __call__(self) -> Model:
        replaced = Artefact(self.source) if isinstance(self.source, str | os.PathLike) else self.source
        pinned = not isinstance(replaced, Artefact) or replaced.sha256 or _pins_beside(Path(replaced.path))
        if pinned and not _pins_beside(Path(self.path)):
            raise ModelError(
                f"{self.path} replaces a model that the code pins or makes, so it needs a pin too: set "
                f"model_sha256, or run sha256sum {self.path} > {self.path}.sha256 when you make the model"
            )
        return _load_file(Artefact(self.path))


def _pins_beside(path: Path) -> dict[str, str]:
    """The digests in the files `<path>.sha256`, by path, also beside the file it is a link to.

    Empty if there is no such file.
    """
    pins = {}
    for place in dict.fromkeys((str(path), os.path.realpath(path))):
        beside = f"{place}{_BESIDE}"
        try:
            found = _PIN.fullmatch(_read(beside, _PIN_SIZE))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as exc:
            raise ModelError(f"{beside} cannot be read: {exc}") from exc
        if found is None:
            raise ModelError(f"{beside}: expected one line, as sha256sum writes it: 64 hex digits and a name")
        pins[beside] = found[1].decode()
    return pins


def _read(path: str | Path, size: int = -1) -> bytes:
    """The content of a file, up to `size` bytes. A pipe, which could block forever, is an OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        return file.read(size)


def _load_file(artefact: Artefact) -> Model:
    path = Path(artefact.path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ModelError(
            f"{path}: {path.suffix or 'a file without suffix'} is not a known model format; "
            f"known are {', '.join(_SUFFIXES)}"
        )
    try:
        data = _read(path)
    except FileNotFoundError as exc:
        raise ModelNotFoundError(f"there is no model at {path} (looked for {path.absolute()})") from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a null character
        raise ModelError(f"the model at {path} cannot be read: {exc}") from exc
    digest = hashlib.sha256(data).hexdigest()
    given = "sha256 in its Artefact, or the setting model_sha256"
    for where, pin in {given: artefact.sha256, **_pins_beside(path)}.items():
        if pin is not None and pin.lower() != digest:
            raise ModelTamperedError(
                f"{path} is not the expected file: its sha256 is {digest}, not {pin}. "
                f"If it was replaced on purpose, change {where}"
            )
    pinned = artefact.sha256 is not None
    if suffix == ".skops":
        model = read_skops(data, str(path), artefact.trusted, pinned=pinned)
    elif suffix == ".onnx":
        model = read_onnx(data, str(path), keep_threads=artefact.keep_threads, pinned=pinned)
    else:
        model = read_pickle(data, str(path), allowed=artefact.pickle and pinned)
    if not artefact.keep_threads:
        use_one_job(model)
    return Model(
        object=model,
        name=path.stem if artefact.name is None else artefact.name,
        version=digest[:_DIGITS] if artefact.version is None else artefact.version,
    )


def _load_from_function(function: Callable[[], Any], name: str) -> Model:
    shown = getattr(function, "__qualname__", type(function).__name__)
    try:
        made = function()
    except EventMLError:
        raise
    except Exception as exc:
        raise ModelError(f"model {name!r}: {shown} failed: {type(exc).__name__}: {exc}") from exc
    if inspect.iscoroutine(made):
        made.close()
        raise ModelError(f"model {name!r}: {shown} is async; use a plain function, which runs in a thread")
    if made is None:
        raise ModelError(f"model {name!r}: {shown} returned None; it must return the model")
    if isinstance(made, Model | Artefact | str | os.PathLike):
        return load(made, name=name)
    use_one_job(made)
    return Model(object=made, name=name, version=_version_of(made))


def _version_of(model: Any) -> str:
    """The version of an object: a hash of its pickled state, or "unversioned" if it cannot be pickled.

    Without joblib the version of a model that contains sets of text may differ between processes.
    """
    try:
        try:
            # joblib sorts sets and dictionaries and merges equal strings; a plain pickle differs between
            # processes in all three.
            import joblib  # noqa: PLC0415 - optional
        except ImportError:
            return hashlib.sha256(pickle.dumps(model, protocol=5)).hexdigest()[:_DIGITS]
        return str(joblib.hash(model))[:_DIGITS]
    except Exception:  # noqa: BLE001 - the pickling code of an object's class can raise anything
        return "unversioned"
