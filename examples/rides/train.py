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
from examples.rides.features import features
from examples.rides.folder import locked, models_folder, replace
from examples.rides.generator import generate
from examples.rides.targets import DURATION, TARGETS, Target, rmse
from examples.rides.tlc import read
from examples.rides.trips import TripsError, rides
from examples.rides.watched import watched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.rides.trips import Floats, Trips

GENERATED: Final = 50_000
"""How many trips are generated to learn from where nobody says."""

_HELD_OUT: Final = 0.2
_FEWEST: Final = 10
_CHUNK: Final = 65_536
_PROFILED: Final = 20_000


class Report(msgspec.Struct, frozen=True):
    """How a model was trained, and how well it does on trips not trained on.

    Attributes:
        trained_on: The trips, in words.
        trips: How many of them it learnt from.
        scored: How many of these were held out to score it; the saved model has then seen them too.
        rmse: The root of the mean squared error on the held-out trips, in `unit`.
        baseline_rmse: The same of always guessing the mean of the others.
        mean: The mean of all: what such a baseline guesses elsewhere.
        sklearn: The version it was trained with.
        version: The model's: a digest of what it learnt, so that the same training gives the same version,
            and a prediction's id the same wherever it is made. A digest of the file would not do: skops
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
    """Train a model for each target and save it in a folder, along with `models.json`.

    With the duration model goes `profile.json`: what its trips look like, to tell drift by.

    A fifth of the usable trips, chosen by the seed, is held out and the rest trained on for the report;
    the model that is saved is then trained on all. Each file is replaced in one step, and one training
    at a time writes to a folder, so readers find whole files whenever they come.

    Returns:
        The report of each target by name, as in `models.json`.

    Raises:
        TripsError: Too few trips are usable for a target. Nothing is saved.
        ModelError: The folder cannot be written to.
    """
    with locked(to):
        return _train(trips, to, trained_on, seed, targets)


def ensure_models(folder: Path | None = None, *, events: int = GENERATED, seed: int = 0) -> Path:
    """Train what a folder lacks of the two models, on generated trips, and say so on stderr.

    A model that is there stays as it is. Several processes may call this at once: one trains, the
    others wait for it.

    Args:
        folder: Where they are; `$RIDES_MODELS`, or the user's cache, if None.
        events: How many trips to generate.
        seed: Chooses them.

    Returns:
        The folder, holding `duration.skops` and `tip.skops`.

    Raises:
        ModelError: The folder cannot be written to.
    """
    to = models_folder() if folder is None else folder
    if not _missing(to):
        return to
    with locked(to):
        if missing := _missing(to):
            names = " and ".join(target.name for target in missing)
            _say(f"rides: no model of {names} in {to}: training on {events:,} generated trips ...")
            begin = time.perf_counter()
            _train(generate(events, seed), to, _generated(events, seed), seed, missing)
            _say(f"rides: trained in {time.perf_counter() - begin:.1f} s")
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
                f"cannot learn {target.name}: of {len(trips)} trips {len(usable)} are usable, "
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
    _note(to / "models.json", reports)
    return reports


def model_version(folder: Path, name: str) -> str | None:
    """The version that a model in a folder was given when it was trained; None where nobody noted it."""
    try:
        reports = msgspec.json.decode((folder / "models.json").read_bytes(), type=dict[str, Report])
    except (OSError, msgspec.DecodeError):
        return None
    return reports[name].version if name in reports else None


def _digest(model: Ridge) -> str:
    learnt = np.append(model.coef_, model.intercept_)
    return hashlib.sha256(learnt.astype("<f8").tobytes()).hexdigest()[:12]


def _fitted(x: sp.csr_array, y: Floats) -> Ridge:
    """A linear model: its error is within 2% of boosted trees', at a fraction of their cost (README).

    One thread, for then sums are added up in one order and a training repeats to the last bit.
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
    """The features of the trips' own events: training sees what a consumer sees, by the same code."""
    starts = range(0, max(len(trips), 1), _CHUNK)
    return sp.vstack([features(rides(trips.take(slice(at, at + _CHUNK)))) for at in starts], format="csr")


def _profile(trips: Trips, model: Ridge) -> bytes:
    """What the rides look like that were learnt from, and what the model says of them; of many, of some."""
    some = rides(trips.take(np.linspace(0, len(trips) - 1, min(len(trips), _PROFILED)).astype(np.int64)))
    predictions = np.maximum(model.predict(features(some)), DURATION.least)
    return profiles.encoded(profiles.profile(watched(some), predictions))


def _missing(folder: Path) -> list[Target]:
    return [target for target in TARGETS if not (folder / f"{target.name}.skops").exists()]


def _note(path: Path, reports: dict[str, Report]) -> None:
    """Add to the reports that are there, of models that stayed as they were."""
    try:
        there = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, msgspec.DecodeError):
        there = {}
    replace(path, msgspec.json.format(msgspec.json.encode(there | reports)) + b"\n")


def _generated(events: int, seed: int) -> str:
    return f"{events} generated trips, seed {seed}"


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _natural(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m examples.rides.train", description=__doc__)
    parser.add_argument("--trips", nargs="+", metavar="FILE", type=Path, help="TLC files, CSV or Parquet")
    parser.add_argument(
        "--seed", type=_natural, default=0, help="of the generated trips and of those held out"
    )
    parser.add_argument(
        "--events",
        type=int,
        help=f"so many trips: generated ({GENERATED:,} if not said), or at most from FILEs",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to save, $RIDES_MODELS if not said")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """The command: 0 when both models are saved, 2 when the trips or the folder would not do."""
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
        _say(f"error: {exc}")
        return 2
    for name, report in reports.items():
        print(
            f"{name}: off by {report.rmse:.2f} {report.unit} (rmse on {report.scored:,} trips held out of "
            f"{report.trips:,}); always guessing the mean: {report.baseline_rmse:.2f}"
        )
    print(f"saved in {to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
