"""`Model` and `Artefact`: a loaded model, and what a handler's `model=` says of one that is not loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from eventml.errors import ModelError


class Model(msgspec.Struct, frozen=True, eq=False):
    """A loaded model.

    Attributes:
        object: The model itself: the object in the file, or the one that the function returned.
        name: Sent with every prediction, in the header `ce_model`.
        version: Sent in the header `ce_modelversion`, and part of a prediction's id: two models that
            predict differently need different versions, or their predictions look like duplicates.
        compared: For a compiled model, the object that predicts the golden rows: it calls the original
            too, and raises a ModelError where the two differ. None once the rows are checked.
    """

    object: Any
    name: str
    version: str
    compared: Any = None


class Artefact(msgspec.Struct, frozen=True):
    """A model file, or a model in a registry, and what may be trusted in it.

    If there is a file `<path>.sha256`, as sha256sum writes it (also beside the file that a link leads to),
    the model must have that digest too.

    Attributes:
        path: Path of a file or a folder, whose suffix or content decides the format; or the model's name in
            a registry, such as `mlflow:models:/duration@champion`. See `docs/models.md` for both lists.
        name: Name of the model, or None for the file's name without its suffix, or that in the registry.
        version: Version of the model, or None for the first 12 hex digits of the file's sha256.
        trusted: Full names of types and functions that may be loaded from a skops file, in addition
            to eventml's reviewed list. The author of the file chooses the arguments that they are called
            with: trust only what is harmless with any arguments.
        sha256: The expected digest, 64 hex digits, checked for every format.
        pickle: Whether to load a pickle. Loading runs any code in the file, so it needs a pin too: `sha256`,
            or a file `<path>.sha256`.
        keep_threads: Whether to keep `n_jobs` and the threads of the model's library. By default a model is
            limited to one thread, because more make a stream slower; see `docs/models.md`.
        format: A format by its name, in the place of the suffix: `ubj` for a file `model.xgb`.
        options: Keyword arguments for the format, such as `providers` of ONNX and `factory` of safetensors.
        compile: "onnx" runs a model of scikit-learn by ONNX Runtime, if it predicts the same within
            `compile_tolerance`. The version ends in `-onnx` then, because the last digits differ.
        compile_tolerance: The largest difference of a compiled model's predictions, relative for numbers and
            absolute for probabilities.

    Raises:
        ModelError: `trusted` is a str and not a tuple; `compile` is not "onnx"; `compile_tolerance` is no
            number from 0 on.
    """

    path: str | os.PathLike[str]
    name: str | None = None
    version: str | None = None
    trusted: tuple[str, ...] = ()
    sha256: str | None = None
    pickle: bool = False
    keep_threads: bool = False
    format: str | None = None
    options: Mapping[str, Any] = {}
    compile: Literal["onnx"] | None = None
    compile_tolerance: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse a str as `trusted`, which would trust its letters, and what would compile unchecked."""
        if isinstance(self.trusted, str):
            raise ModelError(f"Artefact.trusted is a tuple of names: write trusted=({self.trusted!r},)")
        if self.compile not in (None, "onnx"):
            raise ModelError(f'Artefact.compile is "onnx" or None, not {self.compile!r}')
        if not (isinstance(self.compile_tolerance, int | float) and self.compile_tolerance >= 0):
            raise ModelError(
                f"Artefact.compile_tolerance is a number from 0 on, not {self.compile_tolerance!r}"
            )


ModelSource: TypeAlias = str | os.PathLike[str] | Artefact | Model | Callable[[], Any]
"""Types that a handler's `model=` accepts: see `load`."""
