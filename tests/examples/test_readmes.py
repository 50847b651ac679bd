"""The commands of the examples' READMEs work as they are written there."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any, TypeAlias

import msgspec
import pandas as pd
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from eventml.cli.app import app as eventml
from examples.churn import demo, month, train
from examples.churn.folder import ENVIRONMENT as CHURN_FOLDER
from examples.churn.generator import customers
from examples.rides.folder import ENVIRONMENT
from examples.rides.generator import generate
from examples.rides.trips import ride_events
from tests.examples.readme import ROOT, commands, run, running, with_backend

EXAMPLES = ["rides", "churn", "web_backend"]
Run: TypeAlias = Callable[[list[str]], str]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # each starts up to ten processes


def rows(database: str, query: str) -> list[Any]:
    engine = sa.create_engine(database)
    try:
        with engine.connect() as connection:
            return list(connection.execute(sa.text(query)))
    finally:
        engine.dispose()


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, in the test's folder; returns its output, and it must succeed.

    A process of its own would import scikit-learn and pandas again, which takes seconds.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def score(command: list[str], **_: Any) -> CompletedProcess[str]:
        """As month.py starts it: `python -m eventml score ...`."""
        assert command[1:4] == ["-m", "eventml", "score"]
        return CompletedProcess(command, CliRunner().invoke(eventml, command[3:]).exit_code)

    monkeypatch.setattr(month, "subprocess", SimpleNamespace(run=score))

    def run(command: list[str]) -> str:
        program, *args = command
        if program == "eventml":
            result = CliRunner().invoke(eventml, args, catch_exceptions=False)
            assert result.exit_code == 0, result.output
            return result.output
        assert (program, args[0]) == ("python", "-m")
        module = importlib.import_module(args[1])
        assert 'if __name__ == "__main__":\n    sys.exit(main())\n' in Path(module.__file__ or "").read_text()
        status = module.main(args[2:])
        said = "".join(capfd.readouterr())
        assert status == 0, said
        return said

    return run


@pytest.mark.parametrize("example", EXAMPLES)
def test_make_demo_runs_the_demo(example: str) -> None:
    [demo, *_] = commands(example, "make", "demo")
    assert demo == (["make", "demo"] if example == "rides" else ["make", "demo", f"EXAMPLE={example}"])
    assert "-m examples.$(EXAMPLE).demo" in (ROOT / "Makefile").read_text()
    assert callable(importlib.import_module(f"examples.{example}.demo").main)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_link_has_a_target(example: str) -> None:
    folder = ROOT / "examples" / example
    for target in re.findall(r"\]\(([^)#:]+)\)", (folder / "README.md").read_text()):
        assert (folder / target).exists(), target


# churn


def test_churn_demo_shows_a_month_without_an_alarm_and_one_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each month is scored by a process of its own, as for a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    assert demo.main([]) == 0
    said = "".join(capfd.readouterr())
    assert "ALARM likely churners in 2024-07, compared with 2024-06" in said
    assert "in 2024-06, compared" not in said
    reports = tmp_path / "build" / "churn" / "reports"
    assert ">No alarm<" in (reports / "2024-06.html").read_text()
    assert ">Alarm<" in (reports / "2024-07.html").read_text()


@pytest.fixture(scope="module")
def churn_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The churn example's folder with a trained model, to be copied."""
    folder = tmp_path_factory.mktemp("churn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHURN_FOLDER, str(folder))
        assert train.main([]) == 0
    return folder


@pytest.fixture
def churn_folder(tmp_path: Path, churn_training: Path, run_here: Run) -> Path:
    """A current directory whose `build/churn` has the model; `month.main` scores in this process."""
    del run_here
    shutil.copytree(churn_training, tmp_path / "build" / "churn")
    return tmp_path


def test_churn_on_postgresql_and_again(
    churn_folder: Path, postgres_server: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    postgres_server.execute("CREATE DATABASE churn_months")
    database = postgres_server.url("churn_months")
    few = ["--size", "500", "--database", database]
    assert demo.main(few) == 0
    first = "".join(capfd.readouterr())
    assert first.count("scored 500; set aside 0") == 2
    assert "ALARM likely churners in 2024-07" in first
    assert month.main(["2024-07", "--price-rise", *few]) == 0
    assert "ALARM likely churners in 2024-07" in capfd.readouterr().err
    ids = "SELECT COUNT(*), COUNT(DISTINCT id) FROM predictions"
    assert rows(database.replace("postgresql:", "postgresql+psycopg:"), ids) == [(1_000, 1_000)]


def test_churn_commands_in_their_order(tmp_path: Path, run_here: Run) -> None:
    pd.DataFrame(customers("2024-08")).drop(columns="churned").to_csv(tmp_path / "august.csv", index=False)
    pd.DataFrame(customers("2024-07"))[list(customers("2024-07"))].to_csv(tmp_path / "july.csv", index=False)
    package = tmp_path / "mycompany"
    package.mkdir()
    (package / "pager.py").write_text(
        "def page(crossings): print('PAGED', *[c.message for c in crossings])\n"
    )
    for command in commands("churn", "python"):
        said = run_here(command)
    assert "known" in (tmp_path / "build" / "churn" / "reports" / "2024-08.html").read_text()
    assert "PAGED" not in said  # in August things were as ever

    database = f"sqlite:///{tmp_path}/build/churn/churn.db"
    months = "SELECT month, COUNT(*), COUNT(DISTINCT id) FROM predictions GROUP BY month ORDER BY month"
    before = rows(database, months)
    assert before == [(month, 3_000, 3_000) for month in ("2024-06", "2024-07", "2024-08")]
    [score] = commands("churn", "eventml", "score")
    run_here(score)
    assert rows(database, months) == before


def test_churn_month_pages_the_users_own_function(
    churn_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (churn_folder / "churn_pager.py").write_text(
        "def page(crossings): print('PAGED', *[c.what for c in crossings])\n"
    )
    arguments = ["2024-07", "--price-rise", "--size", "500", "--alarm", "churn_pager:page"]
    assert month.main(arguments) == 0
    assert "PAGED likely churners" in capfd.readouterr().out


def test_churn_row_that_cannot_be_read_costs_only_itself(
    churn_folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    table = (
        pd.DataFrame(customers("2024-06", size=40)).drop(columns="churned").astype({"monthly_charge": object})
    )
    table.loc[7, "monthly_charge"] = "a lot"
    table.to_csv("june.csv", index=False)
    arguments = ["2024-06", "--customers", "june.csv"]
    assert month.main(arguments) == 0
    assert "column monthly_charge are no numbers" in caplog.text
    assert "customers 40; scored 39; set aside 1" in capfd.readouterr().out
    table.loc[7, "monthly_charge"] = 38.5
    table.to_csv("june.csv", index=False)
    assert month.main(arguments) == 0
    assert "customers 40; scored 40; set aside 0" in capfd.readouterr().out


# rides


@pytest.fixture
def rides_folder(tmp_path: Path) -> Path:
    """A folder with the trip files that the README names."""
    for seed, name in enumerate(("jan.csv", "feb.parquet", "mar.csv", "jun.csv")):
        trips = generate(2_000, seed)
        names = [name for name in trips.__dataclass_fields__ if name not in ("sources", "source", "row")]
        table = pd.DataFrame({name: getattr(trips, name) for name in names})
        if name.endswith(".csv"):
            table.to_csv(tmp_path / name, index=False, date_format="%Y-%m-%d %H:%M:%S")
        else:
            table.to_parquet(tmp_path / name)
    return tmp_path


def test_rides_batch_commands_in_their_order(
    rides_folder: Path, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "models")
    for command in commands("rides", "python", "-m", "examples.rides.train"):
        run_here(command)
    scoring = [
        *commands("rides", "python", "-m", "examples.rides.export"),
        *commands("rides", "eventml", "score"),
        *commands("rides", "python", "-m", "examples.rides.report"),
    ]
    assert len(scoring) == 3
    for command in scoring:
        run_here(command)
    page = (rides_folder / "build" / "rides" / "report.html").read_text()
    assert "Largest errors" in page
    assert ">20,000<" in page


def test_rides_demo_commands(rides_folder: Path, run_here: Run) -> None:
    demos = commands("rides", "python", "-m", "examples.rides.demo")
    assert len(demos) == 2
    for command in demos:
        run_here(command)
    assert (rides_folder / "build" / "rides" / "demo.html").exists()


def test_rides_web_service(tmp_path: Path, rides_models: Path) -> None:
    [serve] = commands("rides", "eventml", "serve")
    [[_, url, _, header, _, body]] = commands("rides", "curl")
    with running([*serve, "--port", "0"], tmp_path, "serving on", **{ENVIRONMENT: str(rides_models)}) as line:
        [address] = re.findall(r"serving on (http://[\d.:]+)", line)
        name, _, value = header.partition(": ")
        request = urllib.request.Request(  # noqa: S310 - ours
            url.replace("http://127.0.0.1:8000", address), body.encode(), {name: value}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - ours
            said = json.load(answer)
    assert said["prediction"]["minutes"] > 1


def test_rides_stream_and_drift_alarm(tmp_path: Path, rides_models: Path, start_redis: Any) -> None:
    url = start_redis().url
    longer = [{**ride, "trip_distance": 3 * ride["trip_distance"]} for ride in ride_events(generate(2_000))]
    (tmp_path / "rides.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(longer))
    run(["eventml", "publish", "rides.started", "rides.jsonl", "--backend", url], tmp_path)
    app, watch = commands("rides", "eventml", "run")
    models = {ENVIRONMENT: str(rides_models)}
    run([*with_backend(app, url), "--until-idle", "0.5"], tmp_path, **models)
    tail = ["eventml", "tail", "rides.duration", "--from", "earliest", "-n", "2000", "--backend", url]
    assert run(tail, tmp_path).count('"minutes"') == 2_000
    log = run([*with_backend(watch, url), "--until-idle", "0.5"], tmp_path, **models)
    assert "ALARM trip_distance has drifted" in log


# web_backend


def test_web_backend_and_its_predictors_are_two_processes_on_redis(
    tmp_path: Path, rides_models: Path, start_redis: Any
) -> None:
    url = start_redis().url
    [demo] = commands("web_backend", "python")
    [predictors] = commands("web_backend", "eventml")
    models = {ENVIRONMENT: str(rides_models)}
    with (
        running([*with_backend(demo, url), "--port", "0"], tmp_path, "open http://") as line,
        running(with_backend(predictors, url), tmp_path, "rides.started", **models),
    ):
        address = line.split()[1]
        booking = b'{"pickup_location_id": 1, "dropoff_location_id": 2, "trip_distance": 2.5}'
        request = urllib.request.Request(  # noqa: S310 - ours
            f"{address}/rides", booking, {"content-type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=20).close()  # noqa: S310 - ours
        with urllib.request.urlopen(f"{address}/events", timeout=20) as events:  # noqa: S310 - ours
            assert next(event for event in events if b"minutes" in event and b"amount" in event)
