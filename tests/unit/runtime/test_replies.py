"""A reply that the broker refuses costs the reply only; its request is completed without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus
from eventml.backends.base import Completion
from eventml.backends.memory import Hub
from eventml.errors import BackendError, EventMLError, PublishError, UnavailableError
from eventml.models import Model
from eventml.records import REPLAY_GROUP, REPLY_FROM, REPLY_TO, Delivery, Record
from eventml.runtime.calls.caller import Caller
from eventml.runtime.calls.handler_call import CallSteps, HandlerCall
from eventml.runtime.calls.outputs import Outputs
from eventml.runtime.replies import Replies
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio

REQUEST = {REPLY_TO: "rides.replies"}


class Refusing:
    """A subscription that refuses some completions, and keeps the others.

    Args:
        replies: The error that it raises if there is any reply; None accepts replies.
        inputs: The ids of the inputs whose completions it refuses for good, with or without a reply.
        replies_to: The ids of the requests whose replies it refuses for good.
    """

    def __init__(
        self,
        replies: EventMLError | None = None,
        *,
        inputs: frozenset[str] = frozenset(),
        replies_to: frozenset[str] = frozenset(),
    ) -> None:
        self._replies = replies
        self._inputs = inputs
        self._replies_to = replies_to
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
            if completion.delivery.record.id in self._inputs
            or (p in answering and completion.delivery.record.id in self._replies_to)
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
    headers = {"ce_predictor": "p", "ce_modelversion": "1"}
    return [Completion(d, (Record("out", b"1", None, f"{d.record.id}/p@1", headers),)) for d in deliveries]


def replying(subscription: Refusing, deliveries: Sequence[Delivery]) -> Replies:
    """The replies of the predictor `p`, which has received these deliveries."""
    bus = Bus("bus")
    bus.predictor("rides", to="out", name="p")(lambda ride: ride)
    handler, stats = bus.handlers["p"], Stats()
    steps = CallSteps(
        Caller(handler, {}, ordered=False, stats=stats),
        Outputs(handler, {}, model=Model(None, "m", "1"), source="bus"),
    )
    replies = Replies(subscription, Hub(), handler, call=HandlerCall(handler, steps, stats), source="bus")
    replies.expect(deliveries, [delivery.record.headers for delivery in deliveries])
    return replies


async def test_every_request_is_answered() -> None:
    subscription, deliveries = Refusing(), inputs(3)
    await replying(subscription, deliveries).complete(answered(deliveries))
    assert subscription.replied() == ["0/p@1", "1/p@1", "2/p@1"]


async def refused_inputs(replies: Replies, done: Sequence[Completion]) -> set[str]:
    """The ids of the inputs whose completions were refused."""
    try:
        await replies.complete(done)
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
async def test_a_record_that_is_no_request_to_this_predictor_gets_no_reply(headers: dict[str, str]) -> None:
    subscription, deliveries = Refusing(), inputs(3, headers)
    await replying(subscription, deliveries).complete(answered(deliveries))
    assert subscription.done == answered(deliveries)


async def test_while_no_request_is_in_flight_completions_are_passed_on_unchanged() -> None:
    subscription = Refusing()
    others, requests = inputs(2, {}), inputs(2)
    worker = replying(subscription, [*others, *requests])
    both = [answered(requests), answered(others)]
    for done in both:
        await worker.complete(done)
    assert subscription.replied() == ["0/p@1", "1/p@1"]
    assert subscription.done[2:] == both[1]
    assert subscription.done[2] is both[1][0]


async def test_replies_that_cannot_be_written_are_left_out() -> None:
    subscription, deliveries = Refusing(BackendError("not allowed to write there")), inputs(2)
    worker = replying(subscription, deliveries)
    await worker.complete(answered(deliveries[:1]))
    assert (subscription.done, subscription.calls) == (answered(deliveries[:1]), 2)
    await worker.complete(answered(deliveries[1:]))
    assert (subscription.done, subscription.calls) == (answered(deliveries), 3)


async def test_an_unavailable_broker_is_reported_to_the_caller_who_completes_again() -> None:
    subscription, deliveries = Refusing(UnavailableError("away")), inputs(1)
    worker = replying(subscription, deliveries)
    with pytest.raises(UnavailableError):
        await worker.complete(answered(deliveries))
    subscription._replies = None
    await worker.complete(answered(deliveries))
    assert subscription.replied() == ["0/p@1"]


IDS = st.frozensets(st.sampled_from("01234"))


@given(requests=IDS, too_large=IDS, replies_too_large=IDS)
async def test_a_refused_completion_is_refused_with_its_reply_and_no_other(
    requests: frozenset[str], too_large: frozenset[str], replies_too_large: frozenset[str]
) -> None:
    plain: dict[str, str] = {}
    deliveries = [
        Delivery(Record("rides", b"{}", None, n, REQUEST if n in requests else plain), 0, int(n), 0.0)
        for n in "01234"
    ]
    subscription = Refusing(inputs=too_large, replies_to=replies_too_large)
    worker = replying(subscription, deliveries)
    refused = await refused_inputs(worker, answered(deliveries))
    assert refused == too_large
    assert {c.delivery.record.id for c in subscription.done} == set("01234") - too_large
    assert {id_[0] for id_ in subscription.replied()} == requests - too_large - replies_too_large
    subscription._inputs = frozenset()
    left = [d for d in deliveries if d.record.id in too_large]
    await worker.complete([Completion(d) for d in left])
    assert {id_[0] for id_ in subscription.replied()} == requests - replies_too_large
    calls = subscription.calls
    await worker.complete(answered(inputs(1)))  # every request that was received is completed
    assert (subscription.calls, subscription.done[-1].outputs[0].topic) == (calls + 1, "out")
    assert len(subscription.done[-1].outputs) == 1
