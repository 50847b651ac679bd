"""A service before its workers start: which worker runs what, and what is refused."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.workers.http_server import DEFAULT_PORT, LOOPBACK
from eventml.deploy.workers.service import assign_handlers, runners
from eventml.errors import ConfigError
from tests.deploy.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.conftest import Serve

HANDLERS = ("duration", "tip", "alarm")


@given(st.integers(1, 50), st.lists(st.sampled_from(HANDLERS), unique=True))
def test_a_number_of_workers_that_run_the_same_handlers(count: int, only: list[str]) -> None:
    assigned = assign_handlers(str(count), only, HANDLERS)
    assert len(assigned) == count
    assert set(assigned.values()) == {tuple(only)}
    assert [runners(assigned, h) for h in HANDLERS] == [
        count if not only or h in only else 0 for h in HANDLERS
    ]


@given(st.dictionaries(st.sampled_from(HANDLERS), st.integers(1, 9), min_size=1))
def test_a_number_of_workers_for_each_handler(counts: dict[str, int]) -> None:
    workers = ", ".join(f"{handler} = {count}" for handler, count in counts.items())
    assigned = assign_handlers(workers, [], HANDLERS)
    assert Counter(handler for handlers in assigned.values() for handler in handlers) == counts
    assert len(assigned) == sum(counts.values())
    assert [runners(assigned, h) for h in HANDLERS] == [counts.get(h, 0) for h in HANDLERS]


@pytest.mark.parametrize(
    ("workers", "only", "message"),
    [
        ("0", [], "'0' is not a number of workers"),
        ("-1", [], "'-1' is not a number"),
        ("four", [], "'four' is not a number"),
        ("", [], "'' is not a number"),
        ("tip=", [], "'' is not a number"),
        ("tip=0", [], "'0' is not a number"),
        ("tip=1,tip=2", [], "tip is named twice"),
        ("tips=1", [], "no handler is named 'tips'; there are: duration, tip, alarm"),
        ("2", ["tips"], "no handler is named 'tips'"),
        ("tip=1", ["tip"], "leave --only out"),
    ],
)
def test_invalid_numbers_of_workers_are_refused(workers: str, only: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign_handlers(workers, only, HANDLERS)


def test_memory_is_refused_with_advice(serve: Serve) -> None:
    service = serve("--workers", "2", env={"EVENTML_BACKEND": "memory://"})
    assert service.wait() == 1
    assert "--backend redis://" in service.text
    assert "Traceback" not in service.text


def test_a_port_in_use_is_refused_with_advice(serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        service = serve("--workers", "1", "--operations", str(taken.getsockname()[1]))
        assert service.wait() == 1
    assert "choose another with --operations" in service.text


def test_without_a_free_default_port_a_service_runs_without_operations_port(
    url: str, name: str, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # another process uses it: just as good
            taken.bind((LOOPBACK, DEFAULT_PORT))
            taken.listen()
        env = {"APP": name, "EVENTML_BACKEND": url}
        service = Service(tmp_path / "log", "--workers", "1", app="plain:bus", env=env)
        try:
            service.until_logged("WARNING no operations port: .* choose another with --operations")
            service.until_logged("ready: ")
            assert "operations port: http" not in service.text
            assert service.stop() == 0
        finally:
            service.kill()
