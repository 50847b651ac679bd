"""Training: models that beat the baseline, and files that are complete with concurrent trainings."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import skops.io
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from eventml.errors import ModelError
from examples.rides import train as training
from examples.rides.features import features
from examples.rides.folder import locked, models_folder, replace
from examples.rides.generator import generate
from examples.rides.targets import DURATION, TARGETS, TIP, Target, rmse
from examples.rides.train import Report, ensure_models, main, train
from examples.rides.trips import Trips, TripsError, rides

ROOT = Path(__file__).parents[2]


def reports(folder: Path) -> dict[str, Report]:
    return msgspec.json.decode((folder / "models.json").read_bytes(), type=dict[str, Report])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    train(generate(20_000, seed=3), folder, trained_on="generated trips")
    return folder


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_model_beats_the_baseline_on_held_out_trips(trained: Path, target: Target) -> None:
    live = generate(5000, seed=3, part="live")
    scored = live.take(target.usable(live))

    model = skops.io.load(trained / f"{target.name}.skops")
    predicted = np.maximum(model.predict(features(rides(scored))), target.least)

    baseline = rmse(reports(trained)[target.name].mean, target.truth(scored))
    assert rmse(predicted, target.truth(scored)) < 0.8 * baseline


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_model_file_needs_no_trusted_types(trained: Path, target: Target) -> None:
    assert skops.io.get_untrusted_types(file=trained / f"{target.name}.skops") == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_prediction_is_finite(trained: Path, target: Target) -> None:
    model = skops.io.load(trained / f"{target.name}.skops")

    predicted = model.predict(features(rides(generate(5000, part="live"))))

    assert predicted.shape == (5000,)
    assert np.isfinite(predicted).all()


def test_report_has_training_data_and_errors(trained: Path) -> None:
    trips = generate(20_000, seed=3)
    noted = reports(trained)

    assert set(noted) == {"duration", "tip"}
    assert noted["duration"].trips == trips.is_ride.sum()
    assert noted["tip"].trips == trips.is_tipped.sum()
    assert noted["duration"].trained_on == "generated trips"
    assert noted["duration"].mean == pytest.approx(trips.minutes[trips.is_ride].mean())
    for report in noted.values():
        assert 0 < report.scored < report.trips
        assert report.rmse < report.baseline_rmse


def test_impossible_trips_are_not_trained_on(tmp_path: Path) -> None:
    trips = generate(5000)
    train(trips, tmp_path / "all", trained_on="all")
    train(trips.take(trips.is_ride), tmp_path / "rides", trained_on="rides only")

    for target in TARGETS:
        models = [skops.io.load(tmp_path / name / f"{target.name}.skops") for name in ("all", "rides")]
        assert models[0].coef_.tobytes() == models[1].coef_.tobytes()


def test_trips_that_cannot_be_decoded_are_not_trained_on(tmp_path: Path) -> None:
    trips = generate(5000)
    lost = np.arange(5000) % 7 == 0
    broken = dataclasses.replace(trips, pickup_location_id=np.where(lost, np.nan, trips.pickup_location_id))

    train(broken, tmp_path / "broken", trained_on="broken", targets=[DURATION])
    train(trips.take(~lost), tmp_path / "whole", trained_on="whole", targets=[DURATION])

    models = [skops.io.load(tmp_path / name / "duration.skops") for name in ("broken", "whole")]
    assert models[0].coef_.tobytes() == models[1].coef_.tobytes()


def test_cash_tips_are_not_trained_on(tmp_path: Path) -> None:
    trips = generate(5000)
    train(trips, tmp_path / "all", trained_on="all", targets=[TIP])
    train(trips.take(trips.payment_type == 1), tmp_path / "card", trained_on="card only", targets=[TIP])

    models = [skops.io.load(tmp_path / name / "tip.skops") for name in ("all", "card")]
    assert models[0].coef_.tobytes() == models[1].coef_.tobytes()


@pytest.mark.parametrize("threads", [1, 4])
def test_training_repeats_to_the_last_bit_with_any_number_of_threads(
    trained: Path, tmp_path: Path, threads: int
) -> None:
    with threadpool_limits(threads):
        train(generate(20_000, seed=3), tmp_path, trained_on="generated trips")

    assert (tmp_path / "models.json").read_bytes() == (trained / "models.json").read_bytes()
    for target in TARGETS:
        models = [skops.io.load(folder / f"{target.name}.skops") for folder in (trained, tmp_path)]
        assert models[0].coef_.tobytes() == models[1].coef_.tobytes()


def test_too_few_trips_are_an_error_and_nothing_is_saved(tmp_path: Path) -> None:
    trips = generate(1000)
    cash = trips.take(trips.payment_type == 2)

    with pytest.raises(TripsError, match=rf"cannot train tip: of {len(cash)} trips 0 are usable.*least 10"):
        train(cash, tmp_path, trained_on="cash only")
    assert not list(tmp_path.glob("*.skops"))


def test_models_are_trained_once_with_a_line_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ensure_models(tmp_path / "models", events=2000)
    said = capsys.readouterr()
    first = (folder / "duration.skops").read_bytes()

    assert ensure_models(folder, events=2000) == folder
    assert (folder / "duration.skops").read_bytes() == first
    assert "training on 2,000 generated trips" in said.err
    assert not said.out
    assert not capsys.readouterr().err


def test_existing_model_is_kept_when_the_other_is_trained(tmp_path: Path) -> None:
    (tmp_path / "duration.skops").write_bytes(b"the user's own")
    replace(tmp_path / "models.json", b'{"duration": {"trained_on": "the user\'s own trips"}}')

    ensure_models(tmp_path, events=2000)

    assert (tmp_path / "duration.skops").read_bytes() == b"the user's own"
    assert skops.io.load(tmp_path / "tip.skops").predict(features(rides(generate(3)))).shape == (3,)
    noted = msgspec.json.decode((tmp_path / "models.json").read_bytes())
    assert noted["duration"] == {"trained_on": "the user's own trips"}
    assert noted["tip"]["trained_on"] == "2000 generated trips, seed 0"


def test_concurrent_threads_train_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    barrier = threading.Barrier(4)
    trainings = []
    generate_trips = generate

    def counted(events: int, seed: int) -> Trips:
        trainings.append(events)
        return generate_trips(events, seed)

    def start() -> None:
        barrier.wait()
        ensure_models(tmp_path, events=2000)

    monkeypatch.setattr(training, "generate", counted)
    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert trainings == [2000]
    assert capsys.readouterr().err.count("no model of duration and tip") == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "duration.skops",
        "profile.json",
        "tip.skops",
        "models.json",
    }


def test_concurrent_processes_train_once(tmp_path: Path) -> None:
    code = "from examples.rides.train import ensure_models; ensure_models(events=2000)"
    started = [
        subprocess.Popen(  # noqa: S603 - this interpreter, with code from here
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"RIDES_MODELS": str(tmp_path), "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=100)[1] for process in started]

    assert [process.returncode for process in started] == [0, 0]
    assert sum("training on" in err for err in said) == 1
    for target in TARGETS:
        assert skops.io.load(tmp_path / f"{target.name}.skops").coef_.size


def test_training_waits_for_another_one(tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(generate(1000), tmp_path), kwargs={"trained_on": "it"})
    with locked(tmp_path):
        thread.start()
        thread.join(2.0)
        assert not list(tmp_path.glob("*.skops"))
    thread.join()
    assert set(reports(tmp_path)) == {"duration", "tip"}


def test_models_are_complete_during_trainings(tmp_path: Path) -> None:
    trips = generate(1000)
    train(trips, tmp_path, trained_on="the first")
    done = threading.Event()

    def again() -> None:
        for _ in range(5):
            train(trips, tmp_path, trained_on="another", targets=[DURATION])

    def both() -> None:
        threads = [threading.Thread(target=again) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()

    writer = threading.Thread(target=both)
    writer.start()
    read = 0
    while not done.is_set() or not read:
        assert skops.io.load(tmp_path / "duration.skops").coef_.size
        read += 1
    writer.join()
    assert set(reports(tmp_path)) == {"duration", "tip"}


def test_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "duration.skops"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelError, match=r"duration\.skops: No space left"):
        replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RIDES_MODELS", raising=False)
    assert models_folder() == tmp_path / "cache" / "eventml" / "rides"

    monkeypatch.setenv("RIDES_MODELS", str(tmp_path / "mine"))
    assert models_folder() == tmp_path / "mine"


def test_folder_that_cannot_be_written_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ModelError, match=r"cannot write models to .*\$RIDES_MODELS"):
        ensure_models(tmp_path / "file" / "models", events=100)


def test_command_trains_and_prints_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--events", "2000", "--seed", "5", "--to", str(tmp_path)]) == 0

    said = capsys.readouterr().out
    assert "duration: RMSE" in said
    assert "baseline, the mean" in said
    assert reports(tmp_path)["tip"].trained_on == "2000 generated trips, seed 5"


def test_missing_file_is_an_error_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--trips", str(tmp_path / "none.csv"), "--to", str(tmp_path)]) == 2
    assert "none.csv: the file does not exist" in capsys.readouterr().err
