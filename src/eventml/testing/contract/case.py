"""A case of the contract: one promise, and what a backend must declare for it to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventml.backends.base import Capabilities
    from eventml.testing.contract.harness import Harness
    from eventml.testing.contract.trial import Trial


class Need(msgspec.Struct, frozen=True):
    """Something without which a case says nothing.

    Attributes:
        name: The attribute of `Capabilities` or of `Harness`.
        accepted: The values of the capability that will do; empty for something of the harness.
    """

    name: str
    accepted: tuple[Any, ...] = ()

    def lacking(self, capabilities: Capabilities, harness: Harness) -> str | None:
        """Why the case is skipped; None if the need is met."""
        if not self.accepted:
            met = getattr(harness, self.name) is not None
            return None if met else f"the harness gives no {self.name}"
        declared = getattr(capabilities, self.name)
        wanted = " or ".join(map(repr, self.accepted))
        return None if declared in self.accepted else f"{self.name} is {declared!r}, this needs {wanted}"


ORDER_PER_KEY: Final = Need("ordering", ("per_key",))
ORDER_OF_ONE_MEMBER: Final = Need("ordering", ("per_key", "single_member"))
BY_LEASE: Final = Need("redelivery", ("lease",))
ATOMIC: Final = Need("atomic_completion", (True,))
DURABLE: Final = Need("durable", (True,))
SHARED: Final = Need("shared", (True,))
TOPICS_BEFOREHAND: Final = Need("create_topic")
KILL: Final = Need("kill")
LEASE: Final = Need("lease")
REFUSED: Final = Need("refused")


class Case(msgspec.Struct, frozen=True):
    """One promise of `eventml.backends.base`, and how to see whether it is kept.

    Attributes:
        name: What holds.
        promise: The same, in full.
        run: Raises AssertionError if it does not.
        needs: What must be there for the case to run.
    """

    name: str
    promise: str
    run: Callable[[Trial], Awaitable[None]]
    needs: tuple[Need, ...] = ()

    def __str__(self) -> str:
        return self.name


def case(*needs: Need) -> Callable[[Callable[[Trial], Awaitable[None]]], Case]:
    """Make a case of a function: its name and its docstring say what it holds a backend to."""

    def make(function: Callable[[Trial], Awaitable[None]]) -> Case:
        return Case(function.__name__, " ".join((function.__doc__ or "").split()), function, needs)

    return make
