"""An HTML report that compares predicted durations with the trips: `python -m examples.rides.report --help`.

It reads the predictions that `eventml score` wrote to a table, and the finished trips.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from eventml.errors import ConfigError, EventMLError
from examples.monitoring import profiles
from examples.monitoring.alarms import Crossing, call_alarm, drifted, find_alarm
from examples.monitoring.drift import drifts
from examples.monitoring.report import Report, Truth, worst, write
from examples.rides.features import monitored_columns
from examples.rides.generator import generate
from examples.rides.targets import DURATION, rmse
from examples.rides.tlc import read
from examples.rides.train import ensure_models
from examples.rides.trips import rides

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from examples.rides.trips import Trips

_NOT_BETTER: Final = (
    "the RMSE of the predictions is {:.1f} minutes, and that of always predicting the median {:.1f}"
)


def examine(trips: Trips, predictions: Mapping[str, float], title: str) -> Report:
    """Compare predicted minutes with the finished trips, and the trips with the training sample.

    Args:
        trips: The trips that were predicted. Impossible ones count as predictions, and have no true value.
        predictions: Minutes by ride id. Other rides are ignored.
        title: Title of the page.

    Raises:
        ProfileError: The training sample's profile cannot be read.
    """
    profile = profiles.load(ensure_models() / "profile.json")
    known = trips.take(trips.is_ride)
    found = drifts(profile, profiles.counted(profile, monitored_columns(rides(known))))
    every = np.array([predictions.get(ride, np.nan) for ride in trips.ride_ids()])
    predicted = np.array([predictions.get(ride, np.nan) for ride in known.ride_ids()])
    answered = np.isfinite(predicted)
    truth = _truth(known.take(answered), predicted[answered]) if answered.any() else None
    return Report(
        title=title,
        facts={"rides": f"{len(trips):,}", "predicted": f"{np.isfinite(every).sum():,}"},
        predictions=every[np.isfinite(every)],
        unit=DURATION.unit,
        reference=np.array(profile.predictions),
        drifts=found,
        crossings=[*(_worse(truth) if truth else []), *drifted(found)],
        truth=truth,
    )


def read_predictions(target: str) -> dict[str, float]:
    """Read the predicted minutes of each ride from a table of a database.

    Args:
        target: SQLAlchemy URL, `#` and the name of the table, as for `eventml score`.

    Raises:
        ConfigError: It cannot be read, or is not a table of predicted durations.
    """
    url, _, name = target.partition("#")
    try:
        engine = sa.create_engine(url)
        try:
            with engine.connect() as connection:
                table = sa.table(name, sa.column("ride_id"), sa.column("minutes"))
                return {row.ride_id: row.minutes for row in connection.execute(sa.select(table))}
        finally:
            engine.dispose()
    except (sa.exc.SQLAlchemyError, ImportError) as exc:
        raise ConfigError(f"--predictions: {getattr(exc, 'orig', None) or exc}") from exc


def _truth(trips: Trips, predicted: Any) -> Truth:
    actual = trips.minutes
    shown = {
        "ride": trips.ride_ids(),
        "picked up": [str(time)[:16].replace("T", " ") for time in trips.pickup_datetime],
        "from zone": trips.pickup_location_id.astype(int).tolist(),
        "to zone": trips.dropoff_location_id.astype(int).tolist(),
        "miles": trips.trip_distance.tolist(),
    }
    return Truth(
        rows=worst(shown, predicted, actual),
        facts={
            "rides": f"{len(actual):,}",
            "error (RMSE)": f"{rmse(predicted, actual):.2f} minutes",
            "median absolute error": f"{np.median(np.abs(predicted - actual)):.1f} minutes",
            "error of always predicting the median": f"{rmse(float(np.median(actual)), actual):.2f} minutes",
        },
        predicted=predicted,
        actual=actual,
    )


def _worse(truth: Truth) -> list[Crossing]:
    """Return an alarm if a constant prediction would have had no larger error."""
    error = rmse(truth.predicted, truth.actual)
    limit = rmse(float(np.median(truth.actual)), truth.actual)
    if error <= limit:
        return []
    return [Crossing("RMSE", error, limit, _NOT_BETTER.format(error, limit))]


def finish(report: Report, file: Path, alarm: str) -> None:
    """Write the page, then call the alarm if any limit was crossed: the last step of a job."""
    function = find_alarm(alarm)
    write(report, file)
    call_alarm(function, report.crossings)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if the page was written, with or without an alarm, 2 if not."""
    parser = argparse.ArgumentParser("python -m examples.rides.report", description=__doc__)
    parser.add_argument("--predictions", required=True, metavar="URL#TABLE", help="table of predictions")
    parser.add_argument(
        "--trips", nargs="+", type=Path, metavar="FILE", help="TLC files with the finished trips"
    )
    parser.add_argument(
        "--events",
        type=int,
        default=20_000,
        help="number of generated trips without --trips (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated trips")
    parser.add_argument("--to", type=Path, default=Path("build/rides/report.html"), metavar="FILE")
    parser.add_argument(
        "--alarm", default="examples.monitoring.alarms:print_alarm", metavar="MODULE:FUNCTION"
    )
    options = parser.parse_args(args)
    try:
        trips = read(options.trips) if options.trips else generate(options.events, options.seed, part="live")
        report = examine(trips, read_predictions(options.predictions), "Durations of rides")
        finish(report, options.to, options.alarm)
    except EventMLError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print(f"report: {options.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
