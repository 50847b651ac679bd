"""Joining a group at the start: a member that a slow rebalance fails is replaced; a refusal is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from eventml.backends.kafka import subscription
from eventml.backends.kafka.settings import Settings
from eventml.backends.kafka.subscription import GroupSubscription
from eventml.errors import BackendError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.kafka.admin import AdminClient
    from eventml.backends.kafka.member import Member

pytestmark = pytest.mark.anyio

SLOW = UnavailableError("Kafka failed while starting with the partitions of group g: TimeoutError")


class Joining:
    """A member whose join has this outcome."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.left = False

    async def join(self, within: float) -> None:
        assert within > 0
        if self._error is not None:
            raise self._error

    async def leave(self) -> None:
        self.left = True


def subscription_of(
    errors: Sequence[Exception | None], joined: list[Joining], settings: Settings | None = None
) -> GroupSubscription:
    """A subscription whose members join with these outcomes, the last one again and again."""

    def new_member(number: int) -> Member:
        assert number == 1, "the others have left"
        joined.append(Joining(errors[min(len(joined), len(errors) - 1)]))
        return cast("Member", joined[-1])

    admin, settings = cast("AdminClient", None), settings or Settings()
    return GroupSubscription(new_member, topics=["t"], group="g", admin=admin, settings=settings)


@pytest.fixture(autouse=True)
def _without_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "_JOIN_BACKOFF", 0.01)


async def test_a_start_in_a_slow_rebalance_joins_again_until_it_has_joined() -> None:
    joined: list[Joining] = []
    starting = subscription_of([SLOW, SLOW, None], joined)
    await starting.start()
    assert [member.left for member in joined] == [True, True, False]
    starting._watching.cancel()  # type: ignore[union-attr]  # the members are no real ones to close


async def test_what_the_brokers_refuse_is_told_at_once() -> None:
    joined: list[Joining] = []
    with pytest.raises(BackendError, match="missing permission"):
        await subscription_of([BackendError("missing permission")], joined).start()
    assert len(joined) == 1


async def test_a_start_ends_when_a_rebalance_would_have() -> None:
    joined: list[Joining] = []
    times = Settings(session_timeout=0.1, heartbeat_interval=0.05, rebalance_timeout=0.1, drain=0)
    with pytest.raises(UnavailableError, match="starting with the partitions"):
        await subscription_of([SLOW], joined, times).start()
    assert len(joined) > 1
