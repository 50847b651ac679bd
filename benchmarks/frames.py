"""A pipeline with a ColumnTransformer, called with a frame, and with what a list of events is made into.

    python -m benchmarks.frames [--events N] [--rounds N]

Every case streams the same rides through memory and calls the same model: a predictor of
`pandas.DataFrame`; predictors of `list[RideStarted]` that make the frame by hand, from columns or from
records; and one that takes the frame and calls the model in blocks.
"""

from __future__ import annotations

import argparse
import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from benchmarks.measuring import RideStarted, interleave, machine, report, rides
from benchmarks.memory import with_eventml
from eventml.models import in_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS = RideStarted.__struct_fields__


def predicted_from_columns(batch: list[RideStarted]) -> Any:
    frame = pd.DataFrame({name: [getattr(ride, name) for ride in batch] for name in FIELDS})
    return model().predict(frame)


def predicted_from_records(batch: list[RideStarted]) -> Any:
    return model().predict(pd.DataFrame([msgspec.structs.asdict(ride) for ride in batch]))


def predicted(batch: pd.DataFrame) -> Any:
    return model().predict(batch)


def predicted_in_blocks(batch: pd.DataFrame) -> Any:
    return in_blocks(model().predict, batch)


@cache
def model() -> Any:
    frame = pd.DataFrame([msgspec.structs.asdict(ride) for ride in rides(5_000)])
    words = [name for name in FIELDS if frame[name].dtype == "str" and name != "ride_id"]
    numbers = [name for name in FIELDS if frame[name].dtype in ("int64", "float64")]
    columns = ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore", max_categories=50), words),
            ("numbers", StandardScaler(), numbers),
        ],
        sparse_threshold=1,
    )
    return make_pipeline(columns, Ridge()).fit(frame, frame[numbers[0]])


def cases(events: list[RideStarted]) -> dict[str, Callable[[], float]]:
    return {
        "pandas.DataFrame": lambda: with_eventml(events, predicted, event_type=RideStarted),
        "pandas.DataFrame, in blocks": lambda: with_eventml(
            events, predicted_in_blocks, event_type=RideStarted
        ),
        "list, a frame of columns": lambda: with_eventml(events, predicted_from_columns),
        "list, a frame of records": lambda: with_eventml(events, predicted_from_records),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    print(machine("pandas", "pyarrow", "scikit-learn"))
    with threadpool_limits(1):
        figures = interleave(cases(rides(chosen.events)), chosen.rounds)
    report(f"{chosen.events:,} rides through memory, a pipeline of columns", figures, "pandas.DataFrame")


if __name__ == "__main__":
    main()
