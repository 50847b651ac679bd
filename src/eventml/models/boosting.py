"""Boosted trees in the formats of XGBoost, LightGBM and CatBoost. The files are data: loading one runs no code in it.

Their readers are not written for damaged files, and may end the process: what can be seen to be cut off is
refused first.
"""

from __future__ import annotations

import json
from typing import Any, Final

from eventml.models.formats import ModelFile, import_extra

_WRAPPERS: Final = {"regressor": "XGBRegressor", "classifier": "XGBClassifier", "ranker": "XGBRanker"}


def read_xgboost(file: ModelFile, /) -> Any:
    """Load a model of XGBoost, `.ubj` or `.json`.

    Returns:
        An estimator if the file was saved by one (`XGBRegressor.save_model`), else a `Booster`, whose
        `inplace_predict` takes arrays.
    """
    xgboost = import_extra("xgboost", "xgboost", f"loading {file.path}")
    if not (file.data.startswith(b"{") and file.data.rstrip().endswith(b"}")):
        raise ValueError("it is cut off, or no model of XGBoost")
    booster = xgboost.Booster()
    booster.load_model(bytearray(file.data))
    kind = json.loads(booster.attr("scikit_learn") or "{}").get("_estimator_type")
    if kind not in _WRAPPERS:
        return booster
    estimator = getattr(xgboost, _WRAPPERS[kind])()
    estimator.load_model(bytearray(file.data))
    return estimator


def read_lightgbm(file: ModelFile, /) -> Any:
    """Load a model of LightGBM, `.txt`, as a `lightgbm.Booster`."""
    lightgbm = import_extra("lightgbm", "lightgbm", f"loading {file.path}")
    if not (file.data.startswith(b"tree\n") and b"\nend of trees\n" in file.data):
        raise ValueError("it is cut off, or no model of LightGBM")
    return lightgbm.Booster(model_str=file.data.decode())


def read_catboost(file: ModelFile, /) -> Any:
    """Load a model of CatBoost, `.cbm`: a classifier if it knows classes, else a regressor."""
    catboost = import_extra("catboost", "catboost", f"loading {file.path}")
    model = catboost.CatBoostClassifier()
    model.load_model(blob=file.data)
    if not len(model.classes_):
        model = catboost.CatBoostRegressor()
        model.load_model(blob=file.data)
    return model
