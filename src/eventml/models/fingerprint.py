"""A version for a model that was not given one: the same content, the same fingerprint."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any, Final

LENGTH: Final = 12
"""Hex digits of a fingerprint: 48 bits, enough to tell a team's models apart, short in every id."""

UNVERSIONED: Final = "unversioned"
"""The version of an object that has no fingerprint."""


def of_digest(sha256: str) -> str:
    """The fingerprint of a file, from its hex digest."""
    return sha256[:LENGTH]


def of_object(model: Any) -> str:
    """The fingerprint of an object's pickled state, or "unversioned" where it cannot be pickled.

    Promised: the same in every process with the same versions of Python, the model's libraries and
    joblib, for models whose state is numbers, text, arrays and containers of them. Not promised:
    across versions of those, or that two trainings that predict alike have the same fingerprint.
    Without joblib (it comes with scikit-learn) a model that holds sets of text may differ from
    process to process.

    "unversioned" is honest but weak: two such models cannot be told apart by a prediction's id.
    """
    try:
        return _hashed(model)[:LENGTH]
    except Exception:  # noqa: BLE001 - an object's own pickling code can raise anything
        return UNVERSIONED


def _hashed(model: Any) -> str:
    try:
        # joblib orders sets and dictionaries and takes equal texts for one: a plain pickle differs
        # from process to process in all three.
        import joblib  # noqa: PLC0415 - the core works without it
    except ImportError:
        return hashlib.sha256(pickle.dumps(model, protocol=5)).hexdigest()
    return str(joblib.hash(model))
