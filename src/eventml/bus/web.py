"""Finding the web deployment, which `Bus.asgi` uses without importing it: deployments import the bus."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Protocol

from eventml.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

_GROUP: Final = "eventml.deployments"


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
