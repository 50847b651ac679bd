"""When a job that repeats runs next, and running it until it is stopped."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from eventml.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger("eventml")


class Every:
    """A fixed time from one start to the next. A run that takes longer is followed at once by the next.

    Args:
        seconds: The time between two starts, more than 0.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def wait(self, started: datetime, now: datetime) -> float:
        """Return the seconds to wait for the next run, after one that began at `started`."""
        return max(self._seconds - (now - started).total_seconds(), 0.0)


class Cron:
    """The times that a cron expression names. Those that pass during a run are skipped.

    Args:
        expression: Five fields: minute, hour, day of month, month, day of week; or `@daily` and the like.

    Raises:
        ConfigError: The expression is invalid.
        MissingExtraError: croniter is not installed.
    """

    def __init__(self, expression: str) -> None:
        try:
            from croniter import croniter  # noqa: PLC0415 - it comes with an extra
        except ImportError as exc:
            raise MissingExtraError("batch", "--cron") from exc
        if not croniter.is_valid(expression):
            raise ConfigError(
                f"--cron {expression!r}: expected minute, hour, day of month, month and day of week, "
                "such as '30 4 * * mon-fri', or @daily"
            )
        self._expression = expression
        self._croniter: Any = croniter

    def wait(self, _started: datetime, now: datetime) -> float:
        """Return the seconds to wait for the next time, by the clock and time zone of `now`."""
        next_time: datetime = self._croniter(self._expression, now).get_next(type(now))
        return (next_time - now).total_seconds()


Schedule: TypeAlias = Every | Cron


async def repeat(run: Callable[[], Awaitable[object]], schedule: Schedule, stop: anyio.Event) -> None:
    """Run again and again, by the local clock, until `stop` is set. Runs never overlap.

    With `Every` the first run begins at once, with `Cron` at the first time.
    """
    started: datetime | None = None
    while not stop.is_set():
        now = datetime.now().astimezone()
        if started is not None or isinstance(schedule, Cron):
            seconds = schedule.wait(started or now, now)
            next_run = (now + timedelta(seconds=seconds)).isoformat(sep=" ", timespec="seconds")
            log.info("the next run is at %s", next_run)
            with anyio.move_on_after(seconds):
                await stop.wait()
                return
        started = datetime.now().astimezone()
        await run()
