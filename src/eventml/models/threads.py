"""Limiting a model to one thread.

A worker calls its model with batches of a few hundred events, thousands of times a minute. At that
size, distributing work to threads costs more than the work: `n_jobs=4` made a forest of 100 trees 5 times
slower at 1 row and 3 times slower at 256 rows, and four OpenMP threads blocked boosting for seconds when the
cores were busy. One thread per worker, and more workers, are faster and steadier.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import Any, Final

from eventml.models.object_graph import attributes, reachable

_CATBOOST: Final = frozenset({"predict", "predict_proba", "predict_log_proba"})
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
    """Limit `model`, and the models inside it, to one thread, in place.

    They are found by walking the object, because `get_params` returns the unfitted template of an
    ensemble and not its fitted estimators. PyTorch has one limit for the process.
    """
    for one in reachable(model):
        kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(one).__mro__}
        if "sklearn.BaseEstimator" in kinds:
            # None is one job in scikit-learn, and all cores elsewhere.
            if kinds & {"xgboost.XGBModel", "lightgbm.LGBMModel"}:
                one.n_jobs = 1
            elif attributes(one).get("n_jobs") is not None:
                one.n_jobs = None
        elif "xgboost.Booster" in kinds:
            one.set_param("nthread", 1)
        elif "lightgbm.Booster" in kinds:
            one.predict = partial(one.predict, num_threads=1)
        elif "catboost.CatBoost" in kinds:
            for method in _CATBOOST & set(dir(one)):
                setattr(one, method, partial(getattr(one, method), thread_count=1))
        elif "torch.Module" in kinds:
            sys.modules["torch"].set_num_threads(1)
