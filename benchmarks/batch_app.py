"""The predictors and the hand-written scripts that `benchmarks/batch.py` compares.

`python -m benchmarks.batch_app SCRIPT SOURCE TARGET MODEL` runs a script: `pandas` processes the whole
table at once, `chunked` a piece of it at a time.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import skops.io

from eventml import Artefact, Bus

FEATURES: Final = ["trip_distance", "pickup_location_id", "dropoff_location_id", "passenger_count"]
COLUMNS: Final = ["ride_id", *FEATURES]
FOLDER: Final = Path(os.environ.get("BATCH_BENCHMARK", "."))


class RideStarted(msgspec.Struct, gc=False):
    """The columns of the source that the models read, five of eight."""

    ride_id: str
    trip_distance: float
    pickup_location_id: int
    dropoff_location_id: int
    passenger_count: int


bus = Bus("batch")
bus.topic("rides", event_type=RideStarted, id_field="ride_id")


def _predictors(model: str) -> None:
    import numpy as np  # noqa: PLC0415 - scikit-learn has loaded it
    import pyarrow as pa  # noqa: PLC0415 - what each side loads counts

    artefact = Artefact(FOLDER / f"{model}.skops", name=model, version="1")

    def of_structs(rides: list[RideStarted], model: Any) -> Any:
        rows = [
            (r.trip_distance, r.pickup_location_id, r.dropoff_location_id, r.passenger_count) for r in rides
        ]
        return model.predict(np.array(rows))

    def of_table(rides: pa.Table, model: Any) -> Any:
        return model.predict(np.column_stack([rides[name].to_numpy() for name in FEATURES]))

    of_table.__annotations__["rides"] = pa.Table
    bus.predictor("rides", to="structs", model=artefact, name=f"{model}_structs")(of_structs)
    bus.predictor("rides", to="table", model=artefact, name=f"{model}_table", event_type=RideStarted)(
        of_table
    )


def by_hand(source: str, target: str, model: str, chunk: int | None) -> None:
    """Read with pandas, predict, write with pandas: the whole table at once, or in chunks."""
    import pandas as pd  # noqa: PLC0415 - what each side loads counts

    trusted = ["sklearn.tree._tree.Tree"] if model == "forest" else []  # made by benchmarks/batch.py
    estimator = skops.io.load(FOLDER / f"{model}.skops", trusted=trusted)

    def scored(rides: pd.DataFrame) -> pd.DataFrame:
        result = pd.DataFrame(
            {
                "id": rides["ride_id"],
                "value": estimator.predict(rides[FEATURES].to_numpy()),
                "prediction_id": rides["ride_id"] + f"/{model}@1",
            }
        )
        return result.assign(predictor=model, model=model, model_version="1")

    if target.endswith(".parquet"):
        scored(pd.read_parquet(source, columns=COLUMNS)).to_parquet(target, index=False)
        return
    import sqlalchemy as sa  # noqa: PLC0415 - what each side loads counts

    reading, writing = sa.create_engine(f"sqlite:///{source}"), sa.create_engine(f"sqlite:///{target}")
    query = f"SELECT {', '.join(COLUMNS)} FROM rides"  # noqa: S608 - our own
    if chunk is None:
        scored(pd.read_sql(query, reading)).to_sql("predictions", writing, index=False)
        return
    for rides in pd.read_sql(query, reading, chunksize=chunk):
        scored(rides).to_sql("predictions", writing, index=False, if_exists="append")


if __name__ == "__main__":
    script, source, target, model = sys.argv[1:]
    for name in ("pandas", "pyarrow.parquet", "sqlalchemy"):  # loading them is not what is measured
        importlib.import_module(name)
    begun = time.perf_counter()
    by_hand(source, target, model, None if script == "pandas" else 16_384)
    print(f'{{"seconds": {time.perf_counter() - begun}}}')
else:
    for _model in ("linear", "forest"):
        _predictors(_model)
