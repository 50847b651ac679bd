"""How a bus runs: until a signal, or until it is idle; the type of its ASGI app."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

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
