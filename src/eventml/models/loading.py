"""Loading a model from a path, an `Artefact`, or a function."""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from eventml.errors import EventMLError, ModelError, ModelNotFoundError, ModelTamperedError
from eventml.models.artefact import Artefact, Model, ModelSource, version_of_digest, version_of_object
from eventml.models.onnx_files import read_onnx
from eventml.models.sklearn_files import read_pickle, read_skops
from eventml.models.threads import use_one_job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_READERS: Final[Mapping[str, Callable[[bytes, Artefact], Any]]] = MappingProxyType(
    {
        ".skops": read_skops,
        ".joblib": read_pickle,
        ".pkl": read_pickle,
        ".pickle": read_pickle,
        ".onnx": read_onnx,
    }
)


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
        ModelTamperedError: The file's sha256 differs from the artefact's.
        UntrustedModelError: Loading it would run code, or create types, that are not trusted.
        ModelError: The file cannot be read, is damaged, or the function failed.
        MissingExtraError: The format needs an extra that is not installed.

    Warns:
        ModelVersionWarning: The file was saved with another version of scikit-learn.
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


def _load_file(artefact: Artefact) -> Model:
    path = Path(artefact.path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ModelError(
            f"{path}: {path.suffix or 'a file without suffix'} is not a known model format; "
            f"known are {', '.join(_READERS)}"
        )
    data = _read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if artefact.sha256 is not None and artefact.sha256.lower() != digest:
        raise ModelTamperedError(
            f"{path} is not the expected file: its sha256 is {digest}, not {artefact.sha256}. "
            "If it was replaced on purpose, change sha256 in its Artefact"
        )
    model = read(data, artefact)
    if not artefact.keep_threads:
        use_one_job(model)
    return Model(
        object=model,
        name=path.stem if artefact.name is None else artefact.name,
        version=version_of_digest(digest) if artefact.version is None else artefact.version,
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise ModelNotFoundError(f"there is no model at {path} (looked for {path.absolute()})") from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a null character
        raise ModelError(f"the model at {path} cannot be read: {exc}") from exc


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
    return Model(object=made, name=name, version=version_of_object(made))
