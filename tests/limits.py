"""No test may wait without an end: each phase of a test has a limit, and a harder one behind it.

pytest-timeout limits a test once. A failure ends its timer, so the teardown after it and each further run of
the test (`--reruns`) could wait for ever. Here setup, call and teardown get the limit each, in every run. A
phase that goes on after its limit (the error was caught, or a process or a thread is waited for on the way
out) ends the whole process, with the stacks of all threads; under `pytest -n` the run ends and names it.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GRACE: Final = 60.0
"""Seconds between the limit of a phase and the end of the process, and for the end of the process itself."""

_SETTINGS: Final = pytest.StashKey[Any]()
_STDERR: Final = pytest.StashKey[int]()


@contextmanager
def started(command: Sequence[str], *, limit: float = 100.0, **options: Any) -> Iterator[Any]:
    """Start a command; it is killed at the end, and after `limit` seconds, so that no read waits longer."""
    with subprocess.Popen(command, **options) as process:  # noqa: S603 - the test's own command
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "timeout_grace", "seconds from a test's timeout to the end of the process", default=str(GRACE)
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr, which a test may replace."""
    assert sys.__stderr__ is not None
    config.stash[_STDERR] = os.dup(sys.__stderr__.fileno())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Threads that are left are joined at the end of the process, without a limit of their own."""
    _end_after(config, _grace(config))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """Keep what pytest-timeout found for this test, to set its timer again. It goes on as it would."""
    item.stash[_SETTINGS] = settings


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    _limit(item)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    _limit(item)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    _limit(item)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _limit(item: pytest.Item) -> None:
    """Begin the limit of a phase. A failure in the phase before has ended the timers (for a debugger)."""
    settings = item.stash.get(_SETTINGS, None)
    if settings is None:  # no timeout, as with a debugger
        return
    item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)
    _end_after(item.config, settings.timeout + _grace(item.config))


def _grace(config: pytest.Config) -> float:
    return float(config.getini("timeout_grace"))


def _end_after(config: pytest.Config, seconds: float) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=config.stash[_STDERR])
