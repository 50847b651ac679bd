"""Limiting a model to one thread.

A worker calls its model with batches of a few hundred events, thousands of times a minute. At that
size, distributing work to threads costs more than the work: `n_jobs=4` made a forest of 100 trees 5 times
slower at 1 row and 3 times slower at 256 rows, and four OpenMP threads blocked boosting for seconds when the
cores were busy. One thread per worker, and more workers, are faster and steadier.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from eventml.models.object_graph import attributes, reachable

_limited = threading.local()


def single_threaded() -> None:
    """Limit numeric libraries to one thread, permanently. Call it in each thread that predicts.

    BLAS (linear models, numpy) is limited for the whole process, OpenMP (histogram boosting, nearest
    neighbours, k-means) only for the calling thread. Call it after the model is loaded: a library that is
    loaded later is not limited. The first call in a thread takes milliseconds; further calls cost nothing.

    Not promised: the limit of BLAS, if another running thread has set a limit with threadpoolctl
    before; its recent versions let only one thread decide.

    Without threadpoolctl (part of the extra `sklearn`) this does nothing; set `OMP_NUM_THREADS=1`
    in the environment then.
    """
    if getattr(_limited, "done", False):
        return
    _limited.done = True
    try:
        import threadpoolctl  # type: ignore[import-untyped]  # noqa: PLC0415 - untyped; optional
    except ImportError:
        return
    threadpoolctl.threadpool_limits(limits=1)


def use_one_job(model: Any) -> None:
    """Set `n_jobs=None` on every scikit-learn estimator inside `model`, in place.

    The estimators are found by walking the object, because `get_params` returns the unfitted template of an
    ensemble and not its fitted estimators.
    """
    base = sys.modules.get("sklearn.base")
    if base is None:
        return
    for one in reachable(model):
        if issubclass(type(one), base.BaseEstimator) and attributes(one).get("n_jobs") is not None:
            one.n_jobs = None
