"""What stops a worker: a signal, or that there is nothing left to do."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from eventml.runtime import Worker


async def stop_on_signals(worker: Worker) -> None:
    """Stop at the first SIGTERM or SIGINT, and give up on what is in hand at the second."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        heard = 0
        async for _ in signals:
            heard += 1
            if heard == 1:
                worker.stop()
            else:
                worker.abandon()


async def stop_when_idle(worker: Worker, seconds: float) -> None:
    await worker.idle(seconds)
    worker.stop()
