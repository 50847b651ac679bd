"""Which scikit-learn a model was saved with, and the warning when it is another one here."""

from __future__ import annotations

import sys
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class ModelVersionWarning(UserWarning):
    """A model was saved with another scikit-learn than the one it is loaded with.

    It may predict differently, or fail later. Save it again with the version that serves it, or
    install the version that saved it. Warned once a model, whatever it is made of.
    """


# `warnings.catch_warnings` swaps state of the whole process, and models are loaded in threads.
_CATCHING = threading.RLock()


@contextmanager
def one_warning_a_model(path: str) -> Iterator[None]:
    """Turn scikit-learn's warnings, one for every nested estimator, into one of ours.

    Every other warning raised inside is warned again afterwards, so that the caller's filters
    judge it. Warnings of other threads that fall into the same moment take that way too.

    Args:
        path: What is being loaded, for the message.
    """
    with _CATCHING:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        theirs = getattr(sys.modules.get("sklearn.exceptions"), "InconsistentVersionWarning", None)
    saved: set[str] = set()
    for one in caught:
        message: Any = one.message
        if theirs is not None and isinstance(message, theirs):
            saved.add(message.original_sklearn_version)
        else:
            warnings.warn_explicit(message, one.category, one.filename, one.lineno, source=one.source)
    if saved:
        warnings.warn(
            f"{path} was saved with scikit-learn {' and '.join(sorted(saved))} and is loaded with {here()}: "
            "it may predict differently. Save it again with this version, or install that one",
            ModelVersionWarning,
            stacklevel=2,
        )


def here() -> str:
    """The version of scikit-learn in this process, which must have been imported."""
    return str(sys.modules["sklearn"].__version__)
