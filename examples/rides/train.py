"""Train the two models of the example and save them: `python -m examples.rides.train --help`."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]  # it ships no types
import sklearn
import skops.io
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from eventml.errors import EventMLError
from examples.monitoring import profiles
from examples.rides.features import features, monitored_columns
from examples.rides.folder import locked, models_folder, replace
from examples.rides.generator import generate
from examples.rides.targets import DURATION, TARGETS, Target, rmse
from examples.rides.tlc import read
from examples.rides.trips import TripsError, rides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.rides.trips import Floats, Trips

GENERATED: Final = 50_000
"""Default number of generated trips to train on."""

_HELD_OUT: Final = 0.2
_FEWEST: Final = 10
_CHUNK: Final = 65_536
_PROFILED: Final = 20_000


class Report(msgspec.Struct, frozen=True):
    """How a model was trained, and its error on trips that it was not trained on.

    Attributes:
        trained_on: Description of the trips.
        trips: Number of trips that it was trained on.
        scored: Number of these that were held out to score it; the saved model is trained on them too.
        rmse: Root mean squared error on the held-out trips, in `unit`.
        baseline_rmse: The same for always predicting the mean of the other trips.
        mean: Mean of all trips: the prediction of this baseline for other data.
        sklearn: Version of scikit-learn.
        version: Version of the model: a digest of its weights, so that the same training gives the same
            version, and predictions have the same ids everywhere. A digest of the file would differ: skops
            writes memory addresses and times into it.
    """

    trained_on: str
    trips: int
    scored: int
    unit: str
    rmse: float
    baseline_rmse: float
    mean: float
    sklearn: str
    version: str


def train(
    trips: Trips, to: Path, *, trained_on: str, seed: int = 0, targets: Sequence[Target] = TARGETS
) -> dict[str, Report]:
    """Train a model for each target and save it in a folder, with its report in `models.json`.

    `profile.json`, a profile of the trips to detect drift by, is saved with the duration model.

    A fifth of the usable trips, chosen by the seed, is held out and the rest trained on for the report;
    the model that is saved is then trained on all. Each file is replaced in one step, and one training
    at a time writes to a folder, so that readers always find complete files.

    Returns:
        The report of each target by name, as in `models.json`.

    Raises:
        TripsError: Too few trips are usable for a target. Nothing is saved.
        ModelError: The folder cannot be written to.
    """
    with locked(to):
        return _train(trips, to, trained_on, seed, targets)


def ensure_models(folder: Path | None = None, *, events: int = GENERATED, seed: int = 0) -> Path:
    """Train those of the two models that a folder lacks, on generated trips, with a line on standard error.

    Existing models are not changed. Several processes may call this at the same time: one trains, and the
    others wait.

    Args:
        folder: Folder of the models; `$RIDES_MODELS` or the user's cache if None.
        events: Number of trips to generate.
        seed: Seed of the trips.

    Returns:
        The folder, with `duration.skops` and `tip.skops`.

    Raises:
        ModelError: The folder cannot be written to.
    """
    to = models_folder() if folder is None else folder
    if not _missing(to):
        return to
    with locked(to):
        if missing := _missing(to):
            names = " and ".join(target.name for target in missing)
            _print(f"rides: no model of {names} in {to}: training on {events:,} generated trips ...")
            begin = time.perf_counter()
            _train(generate(events, seed), to, _generated(events, seed), seed, missing)
            _print(f"rides: trained in {time.perf_counter() - begin:.1f} s")
    return to


def _train(
    trips: Trips, to: Path, trained_on: str, seed: int, targets: Sequence[Target]
) -> dict[str, Report]:
    possible = trips.take(trips.is_ride)
    matrix = _matrix(possible)
    files: dict[str, bytes] = {}
    reports: dict[str, Report] = {}
    for target in targets:
        usable = np.flatnonzero(target.usable(possible))
        if len(usable) < _FEWEST:
            raise TripsError(
                f"cannot train {target.name}: of {len(trips)} trips {len(usable)} are usable, "
                f"and at least {_FEWEST} are needed"
            )
        x, y = matrix[usable], target.truth(possible)[usable]
        scores = _score(target, x, y, seed)
        model = _fitted(x, y)
        if target is DURATION:
            files["profile.json"] = _profile(possible, model)
        files[f"{target.name}.skops"] = skops.io.dumps(model)
        reports[target.name] = Report(
            trained_on,
            len(y),
            unit=target.unit,
            mean=float(y.mean()),
            sklearn=sklearn.__version__,
            version=_digest(model),
            **scores,
        )
    for name, file in files.items():
        replace(to / name, file)
    _save_reports(to / "models.json", reports)
    return reports


def model_version(folder: Path, name: str) -> str | None:
    """Return the version of a model in a folder; None if `models.json` does not have it."""
    try:
        reports = msgspec.json.decode((folder / "models.json").read_bytes(), type=dict[str, Report])
    except (OSError, msgspec.DecodeError):
        return None
    return reports[name].version if name in reports else None


def _digest(model: Ridge) -> str:
    learnt = np.append(model.coef_, model.intercept_)
    return hashlib.sha256(learnt.astype("<f8").tobytes()).hexdigest()[:12]


def _fitted(x: sp.csr_array, y: Floats) -> Ridge:
    """Train a linear model: its error is within 2% of boosted trees, at a fraction of their cost (README).

    One thread adds up sums in a fixed order, so that a training repeats to the last bit.
    """
    with threadpool_limits(1):
        return Ridge(alpha=10.0, solver="lsqr").fit(x, y)


def _score(target: Target, x: sp.csr_array, y: Floats, seed: int) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(len(y))
    unseen, seen = np.split(order, [int(len(y) * _HELD_OUT)])
    predicted = np.maximum(_fitted(x[seen], y[seen]).predict(x[unseen]), target.least)
    baseline = rmse(float(y[seen].mean()), y[unseen])
    return {"scored": len(unseen), "rmse": rmse(predicted, y[unseen]), "baseline_rmse": baseline}


def _matrix(trips: Trips) -> sp.csr_array:
    """Return the features of the trips' events: training and consumers use the same code."""
    starts = range(0, max(len(trips), 1), _CHUNK)
    return sp.vstack([features(rides(trips.take(slice(at, at + _CHUNK)))) for at in starts], format="csr")


def _profile(trips: Trips, model: Ridge) -> bytes:
    """Return the profile of a sample of the trips and of their predictions."""
    some = rides(trips.take(np.linspace(0, len(trips) - 1, min(len(trips), _PROFILED)).astype(np.int64)))
    predictions = np.maximum(model.predict(features(some)), DURATION.least)
    return profiles.encoded(profiles.profile(monitored_columns(some), predictions))


def _missing(folder: Path) -> list[Target]:
    return [target for target in TARGETS if not (folder / f"{target.name}.skops").exists()]


def _save_reports(path: Path, reports: dict[str, Report]) -> None:
    """Add reports to those of the models that were not trained now."""
    try:
        there = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, msgspec.DecodeError):
        there = {}
    replace(path, msgspec.json.format(msgspec.json.encode(there | reports)) + b"\n")


def _generated(events: int, seed: int) -> str:
    return f"{events} generated trips, seed {seed}"


def _print(line: str) -> None:
    print(line, file=sys.stderr)


def _natural(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m examples.rides.train", description=__doc__)
    parser.add_argument("--trips", nargs="+", metavar="FILE", type=Path, help="TLC files, CSV or Parquet")
    parser.add_argument(
        "--seed", type=_natural, default=0, help="seed of the generated trips and of the held-out trips"
    )
    parser.add_argument(
        "--events",
        type=int,
        help=f"number of generated trips (default: {GENERATED:,}), or highest number of trips from FILEs",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder to save in (default: $RIDES_MODELS)")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if both models were saved, 2 if the trips or the folder cannot be used."""
    options = _options(args)
    to = models_folder() if options.to is None else options.to
    try:
        if options.trips is None:
            events = GENERATED if options.events is None else options.events
            trips, trained_on = generate(events, options.seed), _generated(events, options.seed)
        else:
            each = None if options.events is None else -(-options.events // len(options.trips))
            trips = read(options.trips, at_most=each)
            trained_on = ", ".join(file.name for file in options.trips)
        reports = train(trips, to, trained_on=trained_on, seed=options.seed)
    except EventMLError as exc:
        _print(f"error: {exc}")
        return 2
    for name, report in reports.items():
        print(
            f"{name}: RMSE {report.rmse:.2f} {report.unit} (on {report.scored:,} trips held out of "
            f"{report.trips:,}); baseline, the mean: {report.baseline_rmse:.2f}"
        )
    print(f"saved in {to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
