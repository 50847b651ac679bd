"""`Artefact` and `Model`: what to load, and a loaded model; and versions for models that have none."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from eventml.errors import ModelError

_DIGITS: Final = 12  # of a version: 48 bits tell a team's models apart, and keep ids short

UNVERSIONED: Final = "unversioned"
"""Version of an object that cannot be pickled."""


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
"""What a handler's `model=` accepts: see `load`."""


def keeps_threads(source: ModelSource) -> bool:
    """Whether the model keeps its threads (`Artefact.keep_threads`)."""
    return isinstance(source, Artefact) and source.keep_threads


def version_of_digest(sha256: str) -> str:
    """The version of a file: the first 12 digits of its hex digest."""
    return sha256[:_DIGITS]


def version_of_object(model: Any) -> str:
    """The version of an object: a hash of its pickled state, or "unversioned" if it cannot be pickled.

    Promised: the same version in every process with the same versions of Python, the model's libraries and
    joblib, for models whose state is numbers, text, arrays and containers of them. Not promised: the same
    version with other versions of those, or for two trainings that predict alike. Without joblib (part of
    the extra `sklearn`) the version of a model that contains sets of text may differ between processes.

    Predictions of two models with the version "unversioned" cannot be told apart by their ids.
    """
    try:
        return _hash(model)[:_DIGITS]
    except Exception:  # noqa: BLE001 - the pickling code of an object's class can raise anything
        return UNVERSIONED


def _hash(model: Any) -> str:
    try:
        # joblib sorts sets and dictionaries and merges equal strings; a plain pickle differs between
        # processes in all three.
        import joblib  # noqa: PLC0415 - optional
    except ImportError:
        return hashlib.sha256(pickle.dumps(model, protocol=5)).hexdigest()
    return str(joblib.hash(model))
