"""Keeping a model to one thread.

A worker calls its model with batches of a few hundred events, thousands of times a minute. At that
size handing work to threads costs more than the work: `n_jobs=4` made a forest of 100 trees 5 times
slower at 1 row and 3 times at 256, and four OpenMP threads stalled boosting for seconds when the
cores were busy. One thread a worker, and more workers, is faster and steadier.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from eventml.models.graph import attributes, reachable

_limited = threading.local()


def single_threaded() -> None:
    """Limit the numeric libraries to one thread, for good; call it in the thread that calls the model.

    BLAS (linear models, numpy) is limited for the whole process; OpenMP (histogram boosting,
    nearest neighbours, k-means) only for the calling thread, because that is how OpenMP counts.
    So call it in every thread that predicts, after the model is loaded: a library that is loaded
    later is not limited. The first call in a thread takes milliseconds, the others nothing.

    Not promised: BLAS stays as it is where another living thread has set threadpoolctl's limit
    before: its recent versions let only one thread decide.

    Without threadpoolctl (it comes with scikit-learn) this does nothing; set `OMP_NUM_THREADS=1`
    in the environment then.
    """
    if getattr(_limited, "done", False):
        return
    _limited.done = True
    try:
        import threadpoolctl  # type: ignore[import-untyped]  # noqa: PLC0415 - untyped; the core works without it
    except ImportError:
        return
    threadpoolctl.threadpool_limits(limits=1)


def one_job(model: Any) -> None:
    """Set `n_jobs=None` on every scikit-learn estimator inside `model`, wherever it sits.

    Found by walking the object and not by `get_params`, which sees the templates of an ensemble
    and not what was fitted from them. Changes the estimators in place.
    """
    base = sys.modules.get("sklearn.base")
    if base is None:
        return
    for one in reachable(model):
        if issubclass(type(one), base.BaseEstimator) and attributes(one).get("n_jobs") is not None:
            one.n_jobs = None
