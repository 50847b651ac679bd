"""How a bus runs: a worker stops on a signal or when it is idle; the type of its ASGI app."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from eventml.runtime import Worker, task_group

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

W = TypeVar("W", bound="_Runs")


class _Runs(Protocol):
    async def run(self) -> bool: ...


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


async def run_until_signal(
    opened: AbstractAsyncContextManager[W], stop: Callable[[W], object], abandon: Callable[[W], object]
) -> bool:
    """Enter the context of a worker and run it, with `stop` and `abandon` as for `stop_on_signals`.

    A signal that comes before the context is entered, as while models load, cancels that. Returns what `run`
    of the worker returns: whether everything in flight was finished.
    """
    running: list[W] = []
    finished = True

    def call(method: Callable[[W], object]) -> None:
        if running:
            method(running[0])
        else:
            tasks.cancel_scope.cancel()

    async with task_group() as tasks:
        tasks.start_soon(stop_on_signals, partial(call, stop), partial(call, abandon))
        await checkpoint()  # signals are received from here on
        async with opened as worker:
            running.append(worker)
            finished = await worker.run()
        tasks.cancel_scope.cancel()
    return finished


def _reset_signals() -> None:
    """Leave signals to the parent, in a process forked from it, as a handler does with `multiprocessing`.

    asyncio writes signals to a socket that both share: a SIGTERM for the child would stop the parent.
    """
    if signal.set_wakeup_fd(-1) != -1:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_signals)


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
