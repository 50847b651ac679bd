"""Runs a server in the foreground, for the start scripts."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from backends.process import NotInstalledError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path


def hold(server: AbstractContextManager[object], where: Callable[[], str], *, log: Path) -> None:
    """Start the server, print its URL on the first line of stdout, stop it at Ctrl-C or SIGTERM.

    Exits with status 1 and a line on stderr if it does not start.
    """
    signal.signal(signal.SIGTERM, _end)
    began = time.monotonic()
    try:
        with server:
            print(where(), flush=True)  # noqa: T201 - for the caller script
            print(f"up in {time.monotonic() - began:.1f} s; log: {log}; Ctrl-C stops it", file=sys.stderr)  # noqa: T201 - for the user
            while True:
                signal.pause()
    except (NotInstalledError, StartError, ValueError) as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        pass


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt
