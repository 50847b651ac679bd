"""Which ids were finished last, written down so that whoever comes next knows them, and no more than that."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from eventml.backends.base import Completion
from eventml.backends.kafka import topics as topic_admin
from eventml.backends.kafka.clients import tear_down
from eventml.backends.kafka.seen import Entry, Seen
from eventml.errors import UnsupportedError
from eventml.records import Record
from tests.kafka.conftest import connected, everything, new_topic

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster
    from eventml.records import Delivery

WITHIN = 6
some_ids = st.lists(st.integers(0, 15).map(str), max_size=9)


class Owners(RuleBasedStateMachine):
    """One owner after another of a partition, and a log that is compacted now and then."""

    @initialize()
    def begin(self) -> None:
        self.seen = Seen(WITHIN, 4)
        self.log: list[tuple[bytes, bytes | None]] = []
        self.finished: list[str] = []  # as the owner knows it
        self.durable: list[str] = []  # as it was written
        self.writing: tuple[Entry, list[str]] | None = None

    @rule(ids=some_ids)
    def finish(self, ids: list[str]) -> None:
        for id_ in ids:
            self.seen.finish(id_)
        self.finished += ids

    @rule()
    def write(self) -> None:
        entry = self.seen.entry()
        if self.writing is None and entry is not None:
            self.writing = entry, list(self.finished)

    @rule(lost=st.booleans())
    def answer(self, lost: bool) -> None:
        if self.writing is not None:
            (entry, upto), self.writing = self.writing, None
            if not lost:
                self._append(entry)
                self.durable = upto
                self.seen.written(entry)

    @rule(ids=some_ids.filter(bool))
    def write_in_one_step(self, ids: list[str]) -> None:
        if self.writing is None and self.finished == self.durable:
            entry = self.seen.entry(dict.fromkeys(ids))
            assert entry is not None
            self._append(entry)
            self.seen.finished_with(entry)
            self.finished += dict.fromkeys(ids)
            self.durable = list(self.finished)

    @rule()
    def compact(self) -> None:
        last = dict(self.log)
        order = [slot for n, (slot, _) in enumerate(self.log) if slot not in dict(self.log[n + 1 :])]
        self.log = [(slot, last[slot]) for slot in order if last[slot] is not None]

    @rule()
    def hand_over(self) -> None:
        self.seen, self.writing, self.finished = Seen(WITHIN, 4), None, list(self.durable)
        for slot, held in self.log:
            self.seen.load(slot, held)

    @rule()
    def settle(self) -> None:
        """All is written, and the broker has dropped what was crossed out: no more is kept than is known."""
        self.answer(lost=False)
        for _ in range(3):
            self.write()
            self.answer(lost=False)
        self.compact()
        assert self.seen.entry() is None
        assert len(self.log) <= WITHIN

    @invariant()
    def the_last_are_known(self) -> None:
        if hasattr(self, "seen"):
            last = list(OrderedDict.fromkeys(reversed(self.finished)))[:WITHIN]
            assert {id_ for id_ in map(str, range(16)) if id_ in self.seen} == set(last)

    def _append(self, entry: Entry) -> None:
        self.log += entry.slots.items()


TestOwners = Owners.TestCase


async def take(subscription: Any, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(taken) < count:
            taken += await subscription.receive(count - len(taken))
    return taken


@pytest.mark.anyio
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_who_is_killed_leaves_what_it_knew(kafka_broker: KafkaCluster, delivery: str) -> None:
    topic, to, group = await new_topic(kafka_broker, 2), await new_topic(kafka_broker), token_hex(4)
    records = [Record(topic, b"1", b"key-%d" % n, f"\udcff id {n}") for n in range(50)]
    async with connected(kafka_broker, delivery=delivery) as backend:
        async with backend.subscribe_deduplicated(
            [topic], group=group, start="earliest", window=100
        ) as subscription:
            await backend.publish(records)
            for _ in range(5):
                taken = await take(subscription, 10)
                assert not await subscription.completed_before(taken)
                await subscription.complete(
                    [Completion(d, (Record(to, b"", None, d.record.id),), "drop") for d in taken]
                )
            await asyncio.sleep(0.3)
            await tear_down(subscription._member._consumer)  # type: ignore[attr-defined] # as if killed
        await backend.publish(records)
        async with backend.subscribe_deduplicated(
            [topic], group=group, start="earliest", window=100
        ) as subscription:
            again = await take(subscription, 50)
            assert sorted(await subscription.completed_before(again)) == list(range(50))
            await subscription.complete(
                [Completion(d, (Record(to, b"", None, "again"),), "drop") for d in again]
            )
        made = await everything(backend, to)
    assert sorted(d.record.id for d in made) == sorted(record.id for record in records)


@pytest.mark.anyio
async def test_a_memory_with_too_few_partitions_is_refused(kafka_broker: KafkaCluster) -> None:
    topic, group = await new_topic(kafka_broker, 3), token_hex(4)
    async with connected(kafka_broker) as backend:
        await topic_admin.create_memory(backend._observer, f"{topic}.{group}.seen", 2)
        with pytest.raises(UnsupportedError, match=r"has 2 partitions, .* from 3: give it as many"):
            async with backend.subscribe_deduplicated([topic], group=group, start="earliest", window=9):
                pass
