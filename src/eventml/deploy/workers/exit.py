"""Exit of a process in spite of threads that hang.

Python waits for all non-daemon threads when it exits, and a call of a handler that has been abandoned after
its timeout may keep its thread busy for ever: a thread cannot be stopped. So a process that is about to exit
starts a timer that ends it with `os._exit` if threads still run some time later.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress
from typing import Final

log = logging.getLogger("eventml")

EXIT_GRACE: Final = 2.0
"""Seconds that threads may take to end."""


def force_exit_later(code: int, grace: float = EXIT_GRACE) -> threading.Timer:
    """End the process with `code` after `grace` seconds if threads are still running then.

    Nothing happens if the process has exited by then, or if only clean-up at exit is going on. Cancel the
    returned timer to keep the process running.
    """
    timer = threading.Timer(grace, _force_exit, (code,))
    timer.daemon = True
    timer.start()
    return timer


def _force_exit(code: int) -> None:
    running = [thread for thread in threading.enumerate() if _blocks_exit(thread)]
    if not running:
        return
    names = ", ".join(thread.name for thread in running)
    log.warning("exiting although these threads are still running and cannot be stopped: %s", names)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or its reader has gone
            stream.flush()
    os._exit(code)


def _blocks_exit(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()
