"""The users of backends/redis/users.acl, on a server whose default user may still do everything."""

from __future__ import annotations

from typing import Final

from backends.redis.acl import TEMPLATE

PASSWORD: Final = "a password of a test"  # noqa: S105 - of a server that lives for seconds, on loopback


def set_user(user: str, *more: str, like: str | None = None, keys: tuple[str, ...] = ("*",)) -> list[str]:
    """The command that adds a user with the rights of one in the template, on some keys only, and more."""
    start = f"user {like or user} "
    [line] = [line for line in TEMPLATE.read_text().splitlines() if line.startswith(start)]
    patterns = [f"~{pattern}" for pattern in keys]
    rules = [rule for rule in line.split()[3:] if rule != "~*"]
    return ["ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", *patterns, *rules, *more]


def url_of(url: str, user: str) -> str:
    """The URL of a server, for a user."""
    return url.replace("://", f"://{user}:{PASSWORD.replace(' ', '%20')}@")
