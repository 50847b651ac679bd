"""What to load, on whose trust, and what comes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from eventml.errors import ModelError


class Model(msgspec.Struct, frozen=True, eq=False):
    """A loaded model.

    Attributes:
        object: The model itself: whatever the file held or the factory made.
        name: Travels with every prediction as the header `ce_model`.
        version: Travels as `ce_modelversion` and is part of a prediction's id: two models that
            predict differently must not share it, or the later predictions look like repeats.
    """

    object: Any
    name: str
    version: str


class Artefact(msgspec.Struct, frozen=True):
    """A model file, and what the one who names it vouches for.

    Attributes:
        path: The file. Its suffix says the format: `.skops`, `.joblib`, `.pkl`, `.pickle`, `.onnx`.
        name: The model's name, or None for the file's name without its suffix.
        version: The model's version, or None for the first 12 hex digits of the file's sha256.
        trusted: Types and functions, by full name, that may be loaded from a skops file in addition
            to those that eventml has reviewed. Whoever wrote the file may call them with what they
            like: trust only what is harmless whatever it is given.
        sha256: The digest that the file must have, 64 hex digits, checked for every format.
        pickle: Load a pickle. It runs whatever code the file holds, so `sha256` is required too.
        keep_threads: Leave `n_jobs` and ONNX Runtime's threads as they are. By default a model is
            kept to one thread: more make a stream slower, see `docs/models.md`.

    Raises:
        ModelError: `trusted` is one text, and not a tuple of texts.
    """

    path: str | os.PathLike[str]
    name: str | None = None
    version: str | None = None
    trusted: tuple[str, ...] = ()
    sha256: str | None = None
    pickle: bool = False
    keep_threads: bool = False

    def __post_init__(self) -> None:
        """Catch the slip that would trust single letters and refuse what was meant."""
        if isinstance(self.trusted, str):
            raise ModelError(f"Artefact.trusted is a tuple of names: write trusted=({self.trusted!r},)")


ModelSource: TypeAlias = str | os.PathLike[str] | Artefact | Model | Callable[[], Any]
"""What a predictor may be given as its model: see `load`."""


def keeps_threads(source: ModelSource) -> bool:
    """Whether whoever names the model wants its threads left as they are."""
    return isinstance(source, Artefact) and source.keep_threads
