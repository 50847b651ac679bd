"""How a bus runs: until a signal, until it is idle, or in the background; the type of its ASGI app."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, Self

import anyio
from anyio.lowlevel import checkpoint

from eventml.runtime import Worker, task_group

log = logging.getLogger("eventml")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_receiving = threading.Event()  # set while `stop_on_signals` has replaced the handlers of this process


async def stop_on_signals(stop: Callable[[], object], abandon: Callable[[], object]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT, `abandon` at each further one. Runs until cancelled.

    Only the main thread can receive signals; in another thread this returns at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    with anyio.open_signal_receiver(*_SIGNALS) as signals:
        _receiving.set()
        try:
            await anext(signals)
            stop()
            async for _ in signals:
                abandon()
        finally:
            _receiving.clear()


async def run_until_signal(
    opened: AbstractAsyncContextManager[Any], stop: Callable[[Any], object], abandon: Callable[[Any], object]
) -> bool:
    """Enter the context of a worker and run it, with `stop` and `abandon` as for `stop_on_signals`.

    A signal before the context is entered, as while models load, cancels that; so does a second one while it
    is left. Returns what `run` of the worker returns: whether everything in flight was finished.
    """
    worker: Any = None
    finished = ended = False

    def first() -> None:
        tasks.cancel_scope.cancel() if worker is None else stop(worker)

    def further() -> None:
        tasks.cancel_scope.cancel() if worker is None or ended else abandon(worker)

    async with task_group() as tasks:
        tasks.start_soon(stop_on_signals, first, further)
        await checkpoint()  # signals are received from here on
        async with opened as worker:
            # What is loaded by now mostly stays: if each full collection went through it, a worker with
            # scikit-learn would stand still for 0.1 s every half second of full load.
            gc.collect()
            gc.freeze()
            try:
                finished = bool(await worker.run())
            finally:
                gc.unfreeze()
            ended = True
        tasks.cancel_scope.cancel()
    return finished or worker is None


# A handler may fork, as `multiprocessing` does. asyncio writes signals to a socket that both processes share,
# so a SIGTERM for the child would stop the parent: the child gets the default handlers before any signal.


def _mask_signals(how: int) -> None:
    if _receiving.is_set():
        signal.pthread_sigmask(how, _SIGNALS)


def _reset_signals() -> None:
    if _receiving.is_set():
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _mask_signals(signal.SIG_BLOCK),
        after_in_parent=lambda: _mask_signals(signal.SIG_UNBLOCK),
        after_in_child=_reset_signals,
    )


async def stop_when_idle(worker: Worker, seconds: float) -> None:
    """Stop the worker when it has been idle for this long, in seconds; see `Worker.idle`."""
    await worker.idle(seconds)
    log.info("idle for %g s: stopping", seconds)
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


class Background:
    """A bus that stays open, and runs its handlers, in a task of its own; `Bus.run_in_background` returns it.

    In a notebook every cell is a task, and a bus cannot be opened by one task and closed by another. As an
    async context manager, it stops at the end of the block. It needs asyncio.
    """

    def __init__(self, opened: AbstractAsyncContextManager[object]) -> None:
        self._opened = opened
        self._stopping = asyncio.Event()

    async def start(self) -> Self:
        """Enter the context in a task. Raises what that raises. If it is cancelled, nothing runs."""
        self._entered = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        try:
            await asyncio.wait([self._task, self._entered], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        if self._task.done():
            await self.stop()
        return self

    async def stop(self) -> None:
        """Finish what is in flight, and close the bus. Raises what has ended it before.

        It may be called again, and then waits again: what is in flight goes on if the call is cancelled.
        """
        self._stopping.set()
        if not self._task.done():
            await asyncio.wait([self._task])
        # A cell that was interrupted, or a loop that was closed, has cancelled the task.
        if not self._task.cancelled() and (error := self._task.result()) is not None:
            raise error

    async def _run(self) -> Exception | None:
        try:
            async with self._opened:
                self._entered.set_result(None)
                await self._stopping.wait()
        except Exception as exc:
            if self._entered.done():
                log.exception("the handlers no longer run in the background")
            return exc
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
