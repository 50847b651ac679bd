"""From what a predictor was given to a loaded model."""

from __future__ import annotations

import hashlib
import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from eventml.errors import EventMLError, ModelError, ModelNotFoundError, ModelTamperedError
from eventml.models.artefact import Artefact, Model
from eventml.models.fingerprint import of_digest, of_object
from eventml.models.threads import one_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventml.models.artefact import ModelSource


class _Format(Protocol):
    """A module that reads one format. It imports what it needs when it is called."""

    def read(self, data: bytes, artefact: Artefact) -> Any: ...


_FORMATS: Final = {
    ".skops": "eventml.models.from_skops",
    ".joblib": "eventml.models.from_pickle",
    ".pkl": "eventml.models.from_pickle",
    ".pickle": "eventml.models.from_pickle",
    ".onnx": "eventml.models.from_onnx",
}


def load(source: ModelSource, *, name: str) -> Model:
    """Load a model. Blocking, and for a large model slow: call it in a thread.

    A path is loaded by its suffix, with eventml's reviewed list as the only trust; an `Artefact`
    says more. A `Model` is returned as it is. A function is called without arguments: a `Model`
    that it returns is kept as it is, a path or an `Artefact` is loaded, and any other object becomes
    the model, kept to one thread, its version the fingerprint of its pickled state ("unversioned"
    where it cannot be pickled: return a `Model` with a version of your own then).

    The file is read once: what is hashed is what is loaded.

    Args:
        source: The model.
        name: Its name where the source says none; a file has its own, without the suffix.

    Raises:
        ModelNotFoundError: There is no file at the path.
        ModelTamperedError: The file's sha256 is not the artefact's.
        UntrustedModelError: Loading it would run code, or make types, that nobody has trusted.
        ModelError: It cannot be read, is broken, or the function failed.
        MissingExtraError: The format needs an extra that is not installed.

    Warns:
        ModelVersionWarning: The file was saved with another scikit-learn than this one.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, str | os.PathLike):
        return _from_file(Artefact(source))
    if isinstance(source, Artefact):
        return _from_file(source)
    if callable(source):
        return _from_factory(source, name)
    raise ModelError(
        f"model {name!r}: a model is a path, an Artefact, a Model or a function that makes one, "
        f"not {type(source).__name__}; for an object at hand pass a function: model=lambda: it"
    )


def _from_file(artefact: Artefact) -> Model:
    path = Path(artefact.path)
    format_ = _FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise ModelError(
            f"{path}: {path.suffix or 'no suffix'} is no model format; known are {', '.join(_FORMATS)}"
        )
    data = _bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if artefact.sha256 is not None and artefact.sha256.lower() != digest:
        raise ModelTamperedError(
            f"{path} is not the file that was expected: its sha256 is {digest}, not {artefact.sha256}. "
            "If it was replaced on purpose, change the sha256 where the artefact is named"
        )
    model = cast("_Format", import_module(format_)).read(data, artefact)
    if not artefact.keep_threads:
        one_job(model)
    return Model(
        object=model,
        name=path.stem if artefact.name is None else artefact.name,
        version=of_digest(digest) if artefact.version is None else artefact.version,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise ModelNotFoundError(f"there is no model at {path} (looked for {path.absolute()})") from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a null character
        raise ModelError(f"the model at {path} cannot be read: {exc}") from exc


def _from_factory(factory: Callable[[], Any], name: str) -> Model:
    said = getattr(factory, "__qualname__", type(factory).__name__)
    try:
        made = factory()
    except EventMLError:
        raise
    except Exception as exc:
        raise ModelError(f"model {name!r}: {said} failed: {type(exc).__name__}: {exc}") from exc
    if inspect.iscoroutine(made):
        made.close()
        raise ModelError(f"model {name!r}: {said} is async; a model is made by a plain function, in a thread")
    if made is None:
        raise ModelError(f"model {name!r}: {said} returned None; it has to return the model")
    if isinstance(made, Model | Artefact | str | os.PathLike):
        return load(made, name=name)
    one_job(made)
    return Model(object=made, name=name, version=of_object(made))
