"""How a bus runs: a worker stops on a signal or when it is idle; the type of its ASGI app."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from eventml.runtime import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager


async def stop_on_signals(stop: Callable[[], object], abandon: Callable[[], object]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT, `abandon` at each further one. Runs until cancelled.

    Only the main thread can receive signals; in another thread this returns at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await anext(signals)
        stop()
        async for _ in signals:
            abandon()


async def stop_when_idle(worker: Worker, seconds: float) -> None:
    """Stop the worker when it has been idle for this long, in seconds; see `Worker.idle`."""
    await worker.idle(seconds)
    worker.stop()


class WebApplication(Protocol):
    """An ASGI app of a bus's predictors, returned by `Bus.asgi`."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection, as ASGI specifies."""

    def lifespan(self, app: Any = None) -> AbstractAsyncContextManager[None]:
        """Run the predictors while the context is entered. An app that mounts this one must enter it.

        Args:
            app: The mounting app, which Starlette and FastAPI pass; it is ignored.
        """
        ...
