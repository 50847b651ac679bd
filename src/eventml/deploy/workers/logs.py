"""Log of a service: formats, the lines of workers in the supervisor's log, and a rate limit."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import ByteReceiveStream

from eventml.printable import printable, printable_json, printable_lines, valid_unicode

_MAX_LINE: Final = 1 << 22  # bytes: a longer line of a log or a report is split, so that memory stays bounded
_TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_RATE_LIMIT: Final = 10.0  # seconds between two records of a kind
_MAX_KINDS: Final = 1_000
_TAB: Final = "\t"


def start_service_logging(
    name: str, *, json: bool, prefix: str = "", to: logging.Handler | None = None
) -> None:
    """Send the log to standard error: eventml's own lines from INFO, those of other libraries from WARNING.

    Does nothing if the app has configured logging while it was imported.

    `name` is that of the process in JSON objects, and `prefix` the text in front of other lines. `to`
    writes the lines in the place of a handler of standard error. Lines of aiokafka, which repeats the errors
    that eventml handles, are left out unless the app has set the level of its logger.
    """
    if logging.root.handlers:
        return
    handler = to or logging.StreamHandler()
    handler.setFormatter(JsonFormatter(name) if json else TextFormatter(prefix + _TEXT_FORMAT))
    handler.addFilter(LogRateLimit())
    logging.root.addHandler(handler)
    logging.getLogger("eventml").setLevel(logging.INFO)
    if (client := logging.getLogger("aiokafka")).level == logging.NOTSET:
        client.setLevel(logging.CRITICAL)  # it repeats what `OutageLog` logs once


def make_errors_printable() -> None:
    """Make the text that Python itself writes printable: warnings, tracebacks, logs without a handler."""
    original = warnings.formatwarning

    def format_warning(*args: Any, **kwargs: Any) -> str:
        return f"{printable_lines(original(*args, **kwargs))}\n"

    def print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _write(printable_lines("".join(traceback.format_exception(kind, error, trace))))

    warnings.formatwarning = format_warning
    sys.excepthook = print_exception
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(TextFormatter())


def utc_timestamp(seconds: float) -> str:
    """Format seconds since the epoch as an RFC 3339 timestamp in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """Formats a log record as printable text; only its first line, as of a traceback, is not indented."""

    converter = staticmethod(time.gmtime)  # times are those of `utc_timestamp`
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines, without the last line end."""
        return printable_lines(super().format(record))


class JsonFormatter(logging.Formatter):
    """Formats a log record as one printable JSON object: time, level, logger, worker, message, exception."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line end."""
        message = record.getMessage()
        more = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return _json_line(record.created, record.levelname, record.name, self._worker, message, **more)


class LogRateLimit(logging.Filter):
    """Lets one log record of a kind pass in ten seconds, and adds how many it suppressed before.

    Records are of one kind if logger, level and message template are the same. A client
    may log thousands of times a second that its server is away.
    """

    def __init__(self, *, exempt: str | None = "eventml") -> None:
        super().__init__()
        self._exempt = exempt  # neither this logger is limited, nor are those below it; None limits all
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}  # when one passed; suppressed since

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written; append the number of suppressed ones to its message."""
        if self._exempt is not None and f"{record.name}.".startswith(f"{self._exempt}."):
            return True
        kind, now = (record.name, record.levelno, str(record.msg)), time.monotonic()
        passed, suppressed = self._kinds.get(kind, (-_RATE_LIMIT, 0))
        if now - passed < _RATE_LIMIT:
            self._kinds[kind] = passed, suppressed + 1
            return False
        if len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = now, 0
        if suppressed:
            record.msg, record.args = f"{record.getMessage()} (and {suppressed:,} times before)", None
        return True


def prefix_printer(width: int) -> Callable[[str, str], None]:
    """Return a function that prints `worker-1 | ` and a line, with names padded to `width`."""
    return lambda worker, line: _write(f"{worker:<{width}} | {printable(line, keep=_TAB)}")


def print_json(worker: str, line: str) -> None:
    """Print a line as a JSON object: the object it is, or one around it if it is none (a print, a crash)."""
    with suppress(msgspec.DecodeError, RecursionError):
        if line.startswith("{"):
            _write(printable_json(msgspec.json.format(line.encode(), indent=-1)).decode())
            return
    _write(_json_line(time.time(), "INFO", "", worker, line))


async def read_lines(stream: ByteReceiveStream) -> AsyncIterator[bytes]:
    """Read the lines of a stream, without line ends, until it ends or is closed."""
    rest = b""
    try:
        async for chunk in stream:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line
            if len(rest) > _MAX_LINE:
                yield rest
                rest = b""
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    if rest:
        yield rest


def _json_line(seconds: float, level: str, logger: str, worker: str, message: str, **more: str) -> str:
    fields = {"time": utc_timestamp(seconds), "level": level, "logger": logger, "worker": worker}
    texts = {name: valid_unicode(text) for name, text in {**fields, "message": message, **more}.items()}
    return printable_json(msgspec.json.encode(texts)).decode()


def _write(line: str) -> None:
    with suppress(OSError):  # its reader has gone, or the disk is full: a service goes on without its log
        sys.stderr.write(f"{line}\n")  # in one call: other threads log too
        sys.stderr.flush()
