"""Backends that break a promise about remembering what they have finished."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import anyio
from msgspec.structs import replace

from tests.contract.breaking import breaks
from tests.contract.sound import Connection, Inner, Member

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from eventml.backends.base import Completion, Start
    from eventml.records import Delivery


@breaks(
    "a_completed_id_is_found",
    "the_last_ids_are_recorded",
    "a_duplicate_is_recorded_again",
)
class KnowsNothing(Member):
    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        return ()


@breaks("a_completed_id_is_found")
class RemembersDeadLetters(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        await super().complete([replace(completion, dedupe="drop") for completion in done])


@breaks("ids_are_recorded_per_group_and_topic")
class RemembersForAllGroups(Connection):
    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        inner = super().join(topics, group, start)
        for name in topics:
            theirs = [group for (topic, _), group in self.broker.hub._groups.items() if topic == name]
            for other in theirs:
                other.completed_ids = theirs[0].completed_ids
        return inner


@breaks("ids_are_recorded_per_group_and_topic")
class RemembersForAllTopics(Member):
    def __init__(self, connection: Connection, inner: Inner) -> None:
        super().__init__(connection, inner)
        for group in self.groups():
            group.completed_ids = self.groups()[0].completed_ids


@breaks("the_last_ids_are_recorded")
class RemembersForEver(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        for group in self.groups():
            group.deduplicate(done, 1_000_000)
        await super().complete([replace(completion, dedupe="off") for completion in done])


@breaks("a_duplicate_is_recorded_again")
class RemembersTheFirstTimeOnly(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        known = await self.completed_before([completion.delivery for completion in done])
        await super().complete(
            [replace(c, dedupe="off", outputs=()) if p in known else c for p, c in enumerate(done)]
        )


@breaks("a_completed_id_is_found")
class ForgetsWhatItsMembersFinished(Member):
    def leave(self) -> None:
        for group in self.groups():
            group.completed_ids = OrderedDict()
        super().leave()


@breaks("a_completed_id_is_found")
class RemembersWhileItIsConnected(Connection):
    def close(self) -> None:
        if not self.broker.connections:
            for group in self.broker.hub._groups.values():
                group.completed_ids = OrderedDict()


@breaks("a_duplicate_gives_no_output")
class PublishesRepeats(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        always = [replace(c, dedupe="record") if c.dedupe == "drop" else c for c in done]
        await super().complete(always)


@breaks("a_completed_id_is_found")
class DropsTheOutputsOfAllRepeats(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        await super().complete([replace(completion, dedupe="drop") for completion in done])


@breaks("one_input_gives_one_output", "a_refused_output_is_named")
class RemembersBeforeItFinishes(Member):
    async def complete(self, done: Sequence[Completion]) -> None:
        for group in self.groups():
            group.deduplicate(done, 1_000)
        await super().complete(done)


@breaks("one_id_gives_one_output")
class LooksBeforeItPublishes(Member):
    """Asks what is known, and publishes the rest: not in one step."""

    async def complete(self, done: Sequence[Completion]) -> None:
        known = await self.completed_before([completion.delivery for completion in done])
        await anyio.sleep(0.01)
        await super().complete(
            [replace(c, dedupe="record", outputs=() if p in known else c.outputs) for p, c in enumerate(done)]
        )
