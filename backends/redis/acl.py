"""The ACL file, rendered from its template and passwords that are never stored."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

TEMPLATE: Final = Path(__file__).with_name("users.acl")
USERS: Final = ("producer", "consumer", "operator")
SHORTEST: Final = 16
"""Characters in a password. Redis keeps an unsalted SHA-256, so only a random one is safe there."""


def variable(user: str) -> str:
    """The environment variable that holds a user's password."""
    return f"REDIS_{user.upper()}_PASSWORD"


def passwords_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The passwords that are set there, by user."""
    return {user: environment[variable(user)] for user in USERS if environment.get(variable(user))}


def render(template: str, passwords: Mapping[str, str]) -> str:
    """What Redis loads: the template's users, each with its password's hash or switched off.

    Raises:
        ValueError: a password for a user that the template does not know, or too short a one.
    """
    if unknown := set(passwords) - set(USERS):
        raise ValueError(f"no such user: {', '.join(sorted(unknown))}; there are {', '.join(USERS)}")
    lines = [line for line in template.splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines) + "\n"
    for user in USERS:
        text = text.replace(f"@{user.upper()}@", _credential(user, passwords.get(user)))
    return text


def _credential(user: str, password: str | None) -> str:
    if password is None:
        return "off"
    if len(password) < SHORTEST:
        raise ValueError(
            f"{variable(user)} is shorter than {SHORTEST} characters; make one with: openssl rand -hex 32"
        )
    return f"on #{hashlib.sha256(password.encode()).hexdigest()}"
