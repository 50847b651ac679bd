"""The web service for an app around it: what `Bus.asgi` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.deploy.web.tokens import Guard, token_of_environment
from eventml.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.bus import Bus
    from eventml.deploy.web.application import Application


def application(bus: Bus, *, only: Sequence[str], authenticate: bool) -> Application:
    """The application, not yet entered; see `Bus.asgi`.

    Raises:
        MissingExtraError: Starlette is not installed.
    """
    try:
        from eventml.deploy.web.application import Application  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("web", "Bus.asgi") from exc
    guard = Guard(token_of_environment()) if authenticate else Guard(None, everybody=True)
    return Application(bus, only=only, guard=guard)
