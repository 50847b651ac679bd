"""Pickles, plain or joblib's: only on request, because loading one runs the code it holds."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventml.errors import MissingExtraError, ModelError, UntrustedModelError
from eventml.models.versions import one_warning_a_model

if TYPE_CHECKING:
    from eventml.models.artefact import Artefact


def read(data: bytes, artefact: Artefact) -> Any:
    """The object in a pickle, whose sha256 has been checked.

    Raises:
        UntrustedModelError: The artefact does not opt in.
        MissingExtraError: A `.joblib` file, and joblib is not installed.
        ModelError: It cannot be loaded here.
    """
    path = str(artefact.path)
    if not artefact.pickle or artefact.sha256 is None:
        raise UntrustedModelError(
            f"{path} is a pickle, and loading a pickle runs whatever code it holds. "
            "Save the model with skops, or, if you know who made this file and noted its sha256 then, "
            f"opt in with both: Artefact({path!r}, pickle=True, sha256='<its 64 hex digits>')"
        )
    load = _loader(path)
    with one_warning_a_model(path):
        try:
            return load(io.BytesIO(data))
        except Exception as exc:
            raise ModelError(f"{path} cannot be loaded: {type(exc).__name__}: {exc}") from exc


def _loader(path: str) -> Any:
    try:
        import joblib  # noqa: PLC0415 - a plain pickle does without it
    except ImportError as exc:
        if Path(path).suffix.lower() == ".joblib":
            raise MissingExtraError("sklearn", f"loading {path}") from exc
        return pickle.load
    # joblib reads plain pickles too, and many a .pkl was written by joblib.
    return joblib.load
