"""Leaving the process although a thread hangs.

A call of a handler that was given up on cannot be stopped, and Python waits for its thread at exit,
for ever if need be. So whoever is about to leave makes a last call: whatever is still at work some
time later is left behind.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress

log = logging.getLogger("eventml")

GRACE = 2.0  # seconds


def last_call(code: int, grace: float = GRACE) -> threading.Timer:
    """End the process with `code` after `grace` seconds if threads still hold it up then.

    Nothing happens if it has ended by itself, or if all that goes on is the clean-up at exit.
    `cancel` of what this returns calls it off.
    """
    timer = threading.Timer(grace, _leave, (code,))
    timer.daemon = True
    timer.start()
    return timer


def _leave(code: int) -> None:
    stuck = [thread for thread in threading.enumerate() if _holds_up(thread)]
    if not stuck:
        return
    names = ", ".join(thread.name for thread in stuck)
    log.warning("threads are still at work and cannot be stopped; leaving without them: %s", names)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or its reader has gone: there is nobody to tell
            stream.flush()
    os._exit(code)


def _holds_up(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()
