"""When a job that repeats itself runs next: a pure decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventml.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from datetime import datetime


class Every:
    """So many seconds from one start to the next. A run that takes longer is followed at once by the next.

    Args:
        seconds: More than 0.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def wait(self, started: datetime, now: datetime) -> float:
        """How long to wait, in seconds, after a run that started then."""
        return max(self._seconds - (now - started).total_seconds(), 0.0)


class Cron:
    """The times that a cron expression names. Those that come while a run is at work are passed over.

    Args:
        expression: Five fields: minute, hour, day of month, month, day of week; or `@daily` and the like.

    Raises:
        ConfigError: it is none.
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
        """How long to wait, in seconds, for the next time, by the clock and zone of `now`."""
        next_time: datetime = self._croniter(self._expression, now).get_next(type(now))
        return (next_time - now).total_seconds()
