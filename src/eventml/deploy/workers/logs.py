"""The log of a worker, for people and for machines."""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec

from eventml.deploy.workers.sparing import Sparing

TEXT: Final = "%(asctime)s %(levelname)s %(message)s"
SUPERVISOR: Final = "supervisor"


class JsonLines(logging.Formatter):
    """A record as one JSON object a line: time, level, logger, worker, message, exception.

    Args:
        worker: Who logs.
    """

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "worker": self._worker,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def utc(seconds: float) -> str:
    """A time since the epoch as RFC 3339 has it, to the millisecond."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def start_logging(name: str, *, json: bool, prefix: str = "") -> None:
    """Send the log to standard error, eventml's own from INFO on and everyone else's from WARNING on.

    An app that has set up logging by itself while it was imported is left alone.

    Args:
        name: Who logs.
        json: Write JSON objects.
        prefix: What stands in front of a line of text.
    """
    if logging.root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(name) if json else logging.Formatter(prefix + TEXT))
    handler.addFilter(Sparing())
    logging.root.addHandler(handler)
    logging.getLogger("eventml").setLevel(logging.INFO)
