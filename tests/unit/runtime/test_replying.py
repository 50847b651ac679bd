"""Replies that the broker refuses cost themselves only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.backends.memory import new_hub
from eventml.codec import REPLAY_GROUP, Decoder
from eventml.errors import BackendError, ConfigError, EventMLError, PublishError, UnavailableError
from eventml.records import REPLY_FROM, REPLY_TO, Delivery, Record
from eventml.runtime.replies import Replies
from eventml.runtime.replying import Replying

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio

REQUEST = {REPLY_TO: "rides.replies"}


class Refusing:
    """A subscription that refuses what it is told to, and keeps the rest.

    Args:
        replies: What it raises where there is any reply; None takes them.
        positions: The inputs whose outputs it refuses for good, by id, replies or not.
        replies_of: The inputs whose replies it refuses for good, by id.
    """

    def __init__(
        self,
        replies: EventMLError | None = None,
        *,
        positions: frozenset[str] = frozenset(),
        replies_of: frozenset[str] = frozenset(),
    ) -> None:
        self._replies = replies
        self._positions = positions
        self._replies_of = replies_of
        self.done: list[Completion] = []
        self.calls = 0

    async def receive(self, limit: int) -> Sequence[Delivery]:
        raise NotImplementedError

    async def lag(self) -> int | None:
        return None

    async def complete(self, done: Sequence[Completion]) -> None:
        self.calls += 1
        answering = {p for p, c in enumerate(done) if any(r.topic == "rides.replies" for r in c.outputs)}
        if self._replies is not None and answering:
            raise self._replies
        failed = {
            p: "too large"
            for p, completion in enumerate(done)
            if completion.delivery.record.id in self._positions
            or (p in answering and completion.delivery.record.id in self._replies_of)
        }
        self.done += [completion for p, completion in enumerate(done) if p not in failed]
        if failed:
            raise PublishError("refused", failed)

    def replied(self) -> list[str]:
        return [r.id for c in self.done for r in c.outputs if r.topic == "rides.replies"]


def inputs(count: int, headers: dict[str, str] | None = None) -> list[Delivery]:
    shared = REQUEST if headers is None else headers
    return [Delivery(Record("rides", b"{}", None, str(n), shared), 0, n, 0.0) for n in range(count)]


def answered(deliveries: Sequence[Delivery]) -> list[Completion]:
    return [Completion(d, (Record("out", b"1", None, f"{d.record.id}/p"),)) for d in deliveries]


def replying(subscription: Refusing, deliveries: Sequence[Delivery]) -> Replying:
    """The predictor `p` at its inputs, all of them received."""
    decoder = Decoder(dict)
    decoder.decode(deliveries)
    return Replying(subscription, decoder, Replies("rides", "p", suffix="p@1", source="bus"), new_hub())


async def test_every_request_is_answered() -> None:
    subscription, deliveries = Refusing(), inputs(3)
    await replying(subscription, deliveries).complete(answered(deliveries))
    assert subscription.replied() == ["0/p", "1/p", "2/p"]


async def refused_of(worker: Replying, done: Sequence[Completion]) -> set[str]:
    """The ids of the inputs whose completion was refused."""
    try:
        await worker.complete(done)
    except PublishError as exc:
        return {done[position].delivery.record.id for position in exc.failed}
    return set()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {REPLY_TO: "elsewhere"},
        {REPLY_TO: ""},
        {REPLY_TO: "rides.replies", REPLY_FROM: "another"},
        {REPLY_TO: "rides.replies", REPLAY_GROUP: "g"},
    ],
)
async def test_who_does_not_ask_here_gets_no_reply(headers: dict[str, str]) -> None:
    subscription, deliveries = Refusing(), inputs(3, headers)
    await replying(subscription, deliveries).complete(answered(deliveries))
    assert subscription.done == answered(deliveries)


async def test_without_requests_in_hand_completions_pass_as_they_are() -> None:
    subscription = Refusing()
    others, requests = inputs(2, {}), inputs(2)
    worker = replying(subscription, [*others, *requests])
    both = [answered(requests), answered(others)]
    for done in both:
        await worker.complete(done)
    assert subscription.replied() == ["0/p", "1/p"]
    assert subscription.done[2:] == both[1]
    assert subscription.done[2] is both[1][0]


@pytest.mark.parametrize("error", [BackendError("no such topic"), ConfigError("not allowed")])
async def test_replies_that_cannot_be_written_are_left_out(error: EventMLError) -> None:
    subscription, deliveries = Refusing(error), inputs(2)
    worker = replying(subscription, deliveries)
    await worker.complete(answered(deliveries[:1]))
    assert (subscription.done, subscription.calls) == (answered(deliveries[:1]), 2)
    await worker.complete(answered(deliveries[1:]))
    assert (subscription.done, subscription.calls) == (answered(deliveries), 3)


async def test_a_broker_out_of_reach_is_for_the_caller_to_wait_for() -> None:
    subscription, deliveries = Refusing(UnavailableError("away")), inputs(1)
    worker = replying(subscription, deliveries)
    with pytest.raises(UnavailableError):
        await worker.complete(answered(deliveries))
    subscription._replies = None
    await worker.complete(answered(deliveries))
    assert subscription.replied() == ["0/p"]


IDS = st.frozensets(st.sampled_from("01234"))


@given(asking=IDS, too_large=IDS, replies_too_large=IDS)
async def test_what_is_refused_is_refused_with_its_reply_and_nothing_else(
    asking: frozenset[str], too_large: frozenset[str], replies_too_large: frozenset[str]
) -> None:
    plain: dict[str, str] = {}
    deliveries = [
        Delivery(Record("rides", b"{}", None, n, REQUEST if n in asking else plain), 0, int(n), 0.0)
        for n in "01234"
    ]
    subscription = Refusing(positions=too_large, replies_of=replies_too_large)
    worker = replying(subscription, deliveries)
    refused = await refused_of(worker, answered(deliveries))
    assert refused == too_large
    assert {c.delivery.record.id for c in subscription.done} == set("01234") - too_large
    assert {id_[0] for id_ in subscription.replied()} == asking - too_large - replies_too_large
    subscription._positions = frozenset()
    left = [d for d in deliveries if d.record.id in too_large]
    await worker.complete([Completion(d) for d in left])
    assert {id_[0] for id_ in subscription.replied()} == asking - replies_too_large
    calls = subscription.calls
    await worker.complete(answered(inputs(1)))  # nothing that was received asks any more
    assert (subscription.calls, subscription.done[-1].outputs[0].topic) == (calls + 1, "out")
    assert len(subscription.done[-1].outputs) == 1
