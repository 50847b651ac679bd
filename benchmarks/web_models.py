"""The models of `benchmarks.web` and `benchmarks.models`, and their features: numpy and sklearn only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("pickup_location_id", "dropoff_location_id", "trip_distance", "passenger_count")
MODELS = ("linear", "forest")
TREES = int(os.environ.get("BENCHMARK_TREES", "100"))


def model_path(suffix: str) -> Path:
    """Return the path of the model `$WEB_MODEL` in the folder `$WEB_MODELS`."""
    return Path(os.environ["WEB_MODELS"]) / f"{os.environ['WEB_MODEL']}.{suffix}"


def load() -> Any:
    return joblib.load(model_path("joblib"))


def features(rides: Sequence[Any]) -> Any:
    """Return a row for each ride; rides have the columns as attributes."""
    return np.array([[getattr(ride, column) for column in COLUMNS] for ride in rides])


def train(folder: Path) -> dict[str, Any]:
    """Train a linear regression, a forest and boosting of 100 trees; save them in a folder."""
    rng = np.random.default_rng(0)
    zones = (rng.integers(1, 264, 5_000), rng.integers(1, 264, 5_000))
    rows = np.column_stack([*zones, rng.random(5_000) * 20, rng.integers(1, 5, 5_000)])
    minutes = rows[:, 2] * 3 + rows[:, 0] % 7
    models = {
        "linear": LinearRegression().fit(rows, minutes),
        "forest": RandomForestRegressor(n_estimators=TREES, max_depth=12, random_state=0).fit(rows, minutes),
        "boosting": HistGradientBoostingRegressor(max_iter=TREES, random_state=0).fit(rows, minutes),
    }
    for name, model in models.items():
        joblib.dump(model, folder / f"{name}.joblib")
    return models
