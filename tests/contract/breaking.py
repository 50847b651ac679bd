"""Which backend breaks which promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tests.contract.sound import Connection, Member

if TYPE_CHECKING:
    from collections.abc import Callable

C = TypeVar("C", bound=type[Connection] | type[Member])

BROKEN: dict[str, tuple[type[Connection], tuple[str, ...]]] = {}


def breaks(*cases: str) -> Callable[[C], C]:
    """What these cases have to find out. A broken member comes with a sound connection."""

    def register(broken: C) -> C:
        connection = (
            broken if issubclass(broken, Connection) else type("Sound", (Connection,), {"member": broken})
        )
        BROKEN[broken.__name__] = connection, cases
        return broken

    return register
