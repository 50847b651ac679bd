"""Set-up of all tests: brokers where they can run, groups for parallel runs, and the names of flaky tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for backends/, examples/ and tests.brokers, which are not installed

pytest_plugins = ["tests.brokers", "tests.databases", "tests.limits"]


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark the chaos tests, and group the tests for `pytest -n`.

    The tests of one file stay in one process, so that they share its fixtures; the tests that need the
    cluster of three Kafka nodes share one process, so that one cluster serves them all. Those that start
    brokers take longest and come first, so that no process is left alone with them at the end.
    """
    for item in items:
        if (ROOT / "tests" / "chaos") in item.path.parents:
            item.add_marker("soak" if item.path.name == "test_soak.py" else "chaos")
        three_nodes = "kafka_cluster" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("kafka-cluster" if three_nodes else str(item.path)))
    yield  # pytest deselects by marker in here
    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(ranks.get(item.path, len(_NEEDS)), _rank(item))
    # By file, so that the fixtures of a module are set up once.
    items.sort(key=lambda item: ranks[item.path])


_NEEDS = ("kafka", "redis", "slow")


def _rank(item: pytest.Item) -> int:
    """Rank of a test by its slowest need."""
    return next((rank for rank, need in enumerate(_NEEDS) if item.get_closest_marker(need)), len(_NEEDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that failed and then passed, last of all, and why they failed; also for `.ci/run`."""
    reruns = terminalreporter.getreports("rerun")
    passed = {report.nodeid for report in terminalreporter.getreports("passed") if report.when == "call"}
    flaky = sorted((r for r in reruns if r.nodeid in passed), key=lambda report: report.nodeid)
    for report in flaky:
        terminalreporter.write_sep("_", f"the first run of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
    for report in flaky:
        terminalreporter.write_line(f"flaky: {report.nodeid}", red=True)
    # The worker processes of `pytest -n` come here too.
    in_worker = hasattr(terminalreporter.config, "workerinput")
    if flaky and not in_worker and (path := os.environ.get("FLAKY_TESTS_FILE")):
        with Path(path).open("a", encoding="utf-8") as names:
            names.writelines(f"flaky: {report.nodeid}: {_last_line(report)}\n" for report in flaky)


def _last_line(report: pytest.TestReport) -> str:
    """The error that a test ended with, in one line of moderate length."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join(str(getattr(crash, "message", report.longreprtext)).split())[:600]


@pytest.fixture
def anyio_backend() -> str:
    """asyncio, unless a test asks for more: `parametrize("anyio_backend", ["asyncio", "trio"])`."""
    return "asyncio"


# A property's time says nothing here: the machine is busy with the other tests too.
settings.register_profile("eventml", deadline=None, print_blob=True)
settings.register_profile("quick", settings.get_profile("eventml"), max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "eventml"))
