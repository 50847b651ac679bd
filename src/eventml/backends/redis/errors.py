"""Error replies of the server, and the exceptions that they become."""

from __future__ import annotations

import re
from typing import Any, Final

from eventml.errors import BackendError, UnavailableError

_IN_SCRIPT: Final = re.compile(r"ERR Error running script .*?: -?([A-Z]{3,}) ")

_GROUP_GONE: Final = re.compile(r"NOGROUP|^UNBLOCKED|requires the key to exist")

WRONG_SERVER: Final = frozenset({"READONLY", "MOVED", "ASK", "CLUSTERDOWN"})
"""Refusals by a server that does not, or does not at present, serve the key: another one may."""

_TEMPORARY: Final = frozenset(
    {"LOADING", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY", "MISCONF", "EXECABORT"}
)
"""Refusals that end by themselves. Like those above, they come before the command has changed anything."""

_DENIED: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})


class ErrorReply(Exception):  # noqa: N818 - Redis' own name for it
    """An error reply of the server. It is returned in the place of a reply, and not raised."""

    @property
    def code(self) -> str:
        """The first word of the error; for an error within a script, the code of the command that failed."""
        text = str(self)
        within = _IN_SCRIPT.match(text)  # before Redis 7.0 that code stands within the text
        return within[1] if within else text.partition(" ")[0]


class ConnectionLostError(UnavailableError):
    """The connection was lost while a command was under way.

    Attributes:
        unsent: The command was certainly not executed. If False, it is unknown whether it was.
    """

    def __init__(self, message: str, *, unsent: bool = False) -> None:
        self.unsent = unsent
        super().__init__(message)


class ReplyTooLongError(ConnectionLostError):
    """The connection was closed because a reply was too long."""


class NoMemoryError(UnavailableError):
    """The server has no memory left for what was to be added."""


class NoGroupError(BackendError):
    """The consumer group, or its topic, does not exist any more."""


class DeniedError(BackendError):
    """The server refuses the user, the password or the command. It works again once access is granted."""


def error_for(reply: ErrorReply, action: str) -> BackendError:
    """The exception that an error reply becomes.

    Args:
        reply: The server's reply.
        action: What was attempted, with the topic; begins the message.
    """
    # An aborted transaction names the cause later in its text.
    if reply.code == "OOM" or "OOM command not allowed" in str(reply):
        return NoMemoryError(
            f"{action}: the server has no memory left ({reply}). Let consumers catch up and set "
            "backend.retention, or raise its maxmemory"
        )
    if _GROUP_GONE.search(str(reply)):
        return NoGroupError(f"{action}: {reply}")
    if reply.code in WRONG_SERVER or reply.code in _TEMPORARY or "max number of clients" in str(reply):
        return UnavailableError(f"{action}: {reply}")
    # Redis before 7.0 has no code for a command in a script that the user is not allowed to run.
    if reply.code in _DENIED or "can't run this command" in str(reply):
        return DeniedError(
            f"{action}: the server does not allow this user to do that: {reply}. Grant the permission with "
            "ACL SETUSER, or name another user in backend.url"
        )
    if "WRONGTYPE" in str(reply):
        return BackendError(f"{action}: a key exists and is no stream or set of ids; delete or rename it")
    return BackendError(f"{action}: {reply}")


def check_replies(replies: list[Any], action: str) -> list[Any]:
    """Return the replies, if none of them is an error.

    Raises:
        BackendError: the exception for the first error reply.
    """
    if ErrorReply in set(map(type, replies)):
        raise error_for(next(reply for reply in replies if type(reply) is ErrorReply), action)
    return replies
