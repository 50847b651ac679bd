"""How a bus runs: a worker stops on a signal or when it is idle; the web deployment makes an ASGI app."""

from __future__ import annotations

import signal
import threading
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from eventml.errors import ConfigError, MissingExtraError
from eventml.runtime import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

_GROUP: Final = "eventml.deployments"


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


def web_application(bus: object, *, only: Sequence[str], authenticate: bool) -> WebApplication:
    """The ASGI app of a bus's predictors, made by the entry point `web` in the group `eventml.deployments`.

    The bus does not import the deployment, because deployments import the bus.

    Raises:
        ConfigError: The entry point is not registered.
        MissingExtraError: The extra `web` is not installed.
    """
    points = list(metadata.entry_points(group=_GROUP, name="web"))
    if not points:
        raise ConfigError(
            f"Bus.asgi: there is no entry point 'web' in the group {_GROUP!r}, because eventml runs from its "
            "source folder: pip install 'eventml[web]'"
        )
    try:
        deployment = points[0].load()
    except ModuleNotFoundError as exc:
        if (exc.name or "").split(".")[0] == "eventml":
            raise
        raise MissingExtraError("web", "Bus.asgi") from exc
    app: WebApplication = deployment.application(bus, only=only, authenticate=authenticate)
    return app
