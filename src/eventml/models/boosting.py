"""Boosted trees: XGBoost, LightGBM and CatBoost. Their files are data: loading one runs no code in it.

The libraries' readers are not written for damaged files, and may end the process; what can be seen
to be cut off is refused first.
"""

from __future__ import annotations

import json
from typing import Any, Final

from eventml.models.formats import ModelFile, import_extra

_ESTIMATORS: Final = {"regressor": "XGBRegressor", "classifier": "XGBClassifier", "ranker": "XGBRanker"}


def read_xgboost(file: ModelFile, /) -> Any:
    """Load a model of XGBoost: as the estimator that saved it, or as the `Booster` that a Booster saved."""
    xgboost = import_extra("xgboost", "xgboost", f"loading {file.path}")
    if not (file.data.startswith(b"{") and file.data.rstrip().endswith(b"}")):
        raise ValueError("it is cut off, or no model of XGBoost")
    model = xgboost.Booster()
    model.load_model(bytearray(file.data))
    kind = json.loads(model.attr("scikit_learn") or "{}").get("_estimator_type")
    if kind in _ESTIMATORS:
        model = getattr(xgboost, _ESTIMATORS[kind])()
        model.load_model(bytearray(file.data))
    return model


def read_lightgbm(file: ModelFile, /) -> Any:
    """Load a model of LightGBM as a `lightgbm.Booster`, whatever saved it."""
    lightgbm = import_extra("lightgbm", "lightgbm", f"loading {file.path}")
    if not (file.data.startswith(b"tree\n") and b"\nend of trees\n" in file.data):
        raise ValueError("it is cut off, or no model of LightGBM")
    return lightgbm.Booster(model_str=file.data.decode())


def read_catboost(file: ModelFile, /) -> Any:
    """Load a model of CatBoost: as a classifier if it knows classes, else as a regressor."""
    catboost = import_extra("catboost", "catboost", f"loading {file.path}")
    # The length of the trees follows the first four bytes. The library reads that far, whatever is there.
    if not file.data.startswith(b"CBM1") or len(file.data) < 8 + int.from_bytes(file.data[4:8], "little"):
        raise ValueError("it is cut off, or no model of CatBoost")
    model = catboost.CatBoostClassifier().load_model(blob=file.data)
    return model if len(model.classes_) else catboost.CatBoostRegressor().load_model(blob=file.data)
