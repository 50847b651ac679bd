"""Stopping a worker: on a signal, or when it has been idle."""

from __future__ import annotations

import signal
import threading
from typing import Protocol

import anyio

from eventml.runtime import Worker


class Stoppable(Protocol):
    """A worker, a web server or a supervisor that can be stopped."""

    def stop(self) -> object:
        """Receive nothing new, finish what is in flight, and return from `run`."""
        ...

    def abandon(self) -> object:
        """Return from `run` at once, whatever is in flight."""
        ...


async def stop_on_signals(target: Stoppable) -> None:
    """Stop at the first SIGTERM or SIGINT, abandon what is in flight at the second. Runs until cancelled.

    Only the main thread can receive signals; in another thread this returns at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        received = 0
        async for _ in signals:
            received += 1
            if received == 1:
                target.stop()
            else:
                target.abandon()


async def stop_when_idle(worker: Worker, seconds: float) -> None:
    """Stop the worker when it has been idle for this long, in seconds; see `Worker.idle`."""
    await worker.idle(seconds)
    worker.stop()
