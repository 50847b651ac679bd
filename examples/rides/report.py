"""How predictions of ride durations turned out, as a page: `python -m examples.rides.report --help`.

For what `eventml score` wrote to a table, and whose trips are over, so that the truth is known.
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
from examples.monitoring.alarms import Crossing, drifted, find_alarm, ring
from examples.monitoring.drift import drifts
from examples.monitoring.report import Report, Truth, worst, write
from examples.rides.generator import generate
from examples.rides.targets import DURATION, rmse
from examples.rides.tlc import read
from examples.rides.train import ensure_models
from examples.rides.trips import rides
from examples.rides.watched import watched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from examples.rides.trips import Trips

_NO_BETTER: Final = "predictions are off by {:.1f} minutes, and always saying the median by {:.1f}"


def examine(trips: Trips, predictions: Mapping[str, float], title: str) -> Report:
    """Compare predicted minutes with the trips as they were, and the trips with the training sample.

    Args:
        trips: Those that were predicted, finished. Impossible ones count as predictions, not as truth.
        predictions: Minutes by ride id. Those of other rides are passed over.
        title: Of the page.

    Raises:
        ProfileError: The training sample's profile cannot be read.
    """
    profile = profiles.load(ensure_models() / "profile.json")
    known = trips.take(trips.is_ride)
    found = drifts(profile, profiles.counted(profile, watched(rides(known))))
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


def predictions_in(place: str) -> dict[str, float]:
    """What a table of a database says of each ride.

    Args:
        place: SQLAlchemy's URL, `#` and the table, as for `eventml score`.

    Raises:
        ConfigError: It cannot be read, or is no table of predicted durations.
    """
    url, _, name = place.partition("#")
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
            "error (rmse)": f"{rmse(predicted, actual):.2f} minutes",
            "half are off by less than": f"{np.median(np.abs(predicted - actual)):.1f} minutes",
            "always saying the median": f"{rmse(float(np.median(actual)), actual):.2f} minutes",
        },
        predicted=predicted,
        actual=actual,
    )


def _worse(truth: Truth) -> list[Crossing]:
    """An alarm where a constant would have done as well."""
    error = rmse(truth.predicted, truth.actual)
    limit = rmse(float(np.median(truth.actual)), truth.actual)
    if error <= limit:
        return []
    return [Crossing("rmse", error, limit, _NO_BETTER.format(error, limit))]


def finish(report: Report, file: Path, alarm: str) -> None:
    """The last step of a job: write the page, then ring the alarm if anything crossed its limit."""
    ring_for = find_alarm(alarm)
    write(report, file)
    ring(ring_for, report.crossings)


def main(args: Sequence[str] | None = None) -> int:
    """The command: 0 when the page is written, alarm or not; 2 when it is not."""
    parser = argparse.ArgumentParser("python -m examples.rides.report", description=__doc__)
    parser.add_argument("--predictions", required=True, metavar="URL#TABLE", help="what was predicted")
    parser.add_argument("--trips", nargs="+", type=Path, metavar="FILE", help="TLC files: how it was")
    parser.add_argument(
        "--events", type=int, default=20_000, help="so many generated trips instead (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated trips")
    parser.add_argument("--to", type=Path, default=Path("build/rides/report.html"), metavar="FILE")
    parser.add_argument("--alarm", default="examples.monitoring.alarms:say", metavar="MODULE:FUNCTION")
    options = parser.parse_args(args)
    try:
        trips = read(options.trips) if options.trips else generate(options.events, options.seed, part="live")
        report = examine(trips, predictions_in(options.predictions), "Durations of rides")
        finish(report, options.to, options.alarm)
    except EventMLError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print(f"report: {options.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
