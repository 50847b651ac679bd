"""What the server says when it says no, and what that means here."""

from __future__ import annotations

import re
from typing import Any, Final

from eventml.errors import BackendError, ConfigError, UnavailableError

_IN_SCRIPT: Final = re.compile(r"ERR Error running script .*?: -?([A-Z]{3,}) ")


class ErrorReply(Exception):  # noqa: N818 - Redis' own name for it
    """An error that the server answered with. It comes as a value, in the place of the answer."""

    @property
    def code(self) -> str:
        """Its first word; of an error within a script, that of the command (before 7.0 it stands within)."""
        text = str(self)
        within = _IN_SCRIPT.match(text)
        return within[1] if within else text.partition(" ")[0]


class LostError(UnavailableError):
    """The connection was lost with a command on its way.

    Attributes:
        undone: It is certain that nothing was carried out. Otherwise nobody can say.
    """

    def __init__(self, message: str, *, undone: bool = False) -> None:
        self.undone = undone
        super().__init__(message)


class NoGroupError(BackendError):
    """The group, or its topic, has gone."""


_GONE: Final = re.compile(r"NOGROUP|^UNBLOCKED|requires the key to exist")

_MOVED: Final = frozenset({"READONLY", "MOVED", "ASK", "CLUSTERDOWN"})
"""Refusals by a server that is not, or not now, the one to ask."""

_LATER: Final = frozenset({"LOADING", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY", "MISCONF", "OOM"})
"""Refusals that pass. Like those above, they come before anything is done."""

_LOGIN: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})


def moved(reply: ErrorReply) -> bool:
    """Whether another connection may find the right server."""
    return reply.code in _MOVED


def passing(reply: ErrorReply) -> bool:
    """Whether nothing was done, and the same may pass later."""
    return reply.code in _MOVED or reply.code in _LATER or full(reply)


def full(reply: ErrorReply) -> bool:
    """Whether the server has no memory left. The reason of an abort stands further back."""
    return reply.code == "OOM" or "OOM command not allowed" in str(reply)


def error_for(reply: ErrorReply, doing: str) -> BackendError | ConfigError:
    """Ours for an error reply.

    Args:
        reply: What the server said.
        doing: What was attempted, with the topic; begins the message.
    """
    if full(reply):
        return UnavailableError(
            f"{doing}: the server has no memory left ({reply}). Let consumers catch up and set "
            "backend.retention, or raise its maxmemory"
        )
    if _GONE.search(str(reply)):
        return NoGroupError(f"{doing}: {reply}")
    if passing(reply):
        return UnavailableError(f"{doing}: {reply}")
    if reply.code in _LOGIN:
        return ConfigError(f"backend.url: {doing}: the server does not let this user do that: {reply}")
    if "WRONGTYPE" in str(reply):
        return BackendError(f"{doing}: the key exists but is no stream; choose another topic, or delete it")
    return BackendError(f"{doing}: {reply}")


def checked(replies: list[Any], doing: str) -> list[Any]:
    """The replies, if none is an error.

    Raises:
        BackendError: what the first error means.
    """
    if ErrorReply in set(map(type, replies)):
        raise error_for(next(reply for reply in replies if type(reply) is ErrorReply), doing)
    return replies
