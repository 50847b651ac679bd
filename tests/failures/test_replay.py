"""A dead letter goes back to the one group that failed it, once; what is not chosen stays."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from eventml import Record, Reject
from eventml.records import CONTENT_TYPE, FIELDS, MSGPACK
from eventml.runtime.dead_letters import DeadLetterFilter, dead_letter_queues
from eventml.runtime.replay import browse
from tests.failures.meddling import Meddling
from tests.failures.scenario import Duration, Ride, Scenario, publish, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import Backend, Completion, Subscription
    from eventml.runtime.dead_letters import DeadLetter

pytestmark = pytest.mark.anyio


class Zones:
    """What the handler looks its rides up in: some are missing until somebody mends it."""

    def __init__(self, missing: set[int]) -> None:
        self.missing = missing
        self.failed: Counter[int] = Counter()
        self.seen: Counter[int] = Counter()  # by another handler of the same topic

    def register(self, scenario: Scenario) -> None:
        """A predictor that sets aside what is missing, and a consumer of the topic that minds nothing."""

        @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0)
        def duration(ride: Ride) -> Duration:
            if ride.ride_id in self.missing:
                self.failed[ride.ride_id] += 1
                raise Reject("not yet") if ride.ride_id % 2 else KeyError(ride.ride_id)
            return Duration(ride.ride_id, ride.miles)

        @scenario.bus.consumer(scenario.topic)
        def audit(rides: list[Ride]) -> None:
            self.seen.update(ride.ride_id for ride in rides)


async def handle(
    scenario: Scenario, backend: Backend, values: Sequence[object], *, key: bytes | None = None
) -> None:
    """Publish these, and have both handlers finish them."""
    async with scenario.working(backend) as worker:
        await publish(backend, scenario.records(values, keys=[key] * len(values)))
        await until(lambda: all(stats.completed >= len(values) for stats in worker.stats.values()))


async def handle_replayed(scenario: Scenario, backend: Backend, count: int) -> None:
    """Have both handlers finish so many records that were replayed."""
    async with scenario.working(backend) as worker:
        await until(lambda: all(stats.completed >= count for stats in worker.stats.values()))


async def letters(
    scenario: Scenario, backend: Backend, wanted: DeadLetterFilter | None = None
) -> list[DeadLetter]:
    [queue, *_] = dead_letter_queues(scenario.bus.handlers.values())
    topic, group = queue.dead_letter_topic, queue.replay_group
    async with backend.subscribe([topic], group=group, start="earliest") as subscription:
        return [letter async for letter in browse(subscription, wanted or DeadLetterFilter())]


def numbers(found: Sequence[DeadLetter]) -> list[int]:
    return sorted(int(letter.id) for letter in found)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "both at once"])
async def test_ten_thousand_replayed_twice_are_answered_once_by_the_group_that_failed_them(
    scenario: Scenario, at_once: bool
) -> None:
    count = 10_000
    zones = Zones(missing=set(range(count)))
    zones.register(scenario)
    with anyio.fail_after(100):
        async with scenario.connect() as backend:
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(count)])
            zones.missing = set()
            replayed = 0

            async def replay() -> None:
                nonlocal replayed
                tally = await scenario.replay(backend)
                replayed += tally.chosen.total()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(replay)
                if at_once:
                    tasks.start_soon(replay)
            await replay()
            assert replayed == count
            await handle_replayed(scenario, backend, count)
            await scenario.collect(backend, 2 * count)
    scenario.check(answered=set(range(count)), set_aside=set(range(count)))
    assert zones.seen == Counter(range(count)), "the other group has seen none of it"


async def test_replayed_record_is_the_event_as_it_was(scenario: Scenario) -> None:
    zones = Zones(missing={7})
    zones.register(scenario)
    value = msgspec.msgpack.encode(Ride(7, 2.5))
    record = Record(scenario.topic, value, b"zone-4", "7", {CONTENT_TYPE: MSGPACK, "ce_source": "taxi"})
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                await backend.publish([record])
                await until(lambda: all(stats.completed == 1 for stats in worker.stats.values()))
            [letter] = await letters(scenario, backend)
            assert (letter.exception, letter.attempts, letter.topic) == ("Reject", 1, scenario.topic)
            assert letter.traceback.startswith("tests.failures.test_replay:")
            assert 'raise Reject("not yet")' in letter.traceback
            await scenario.replay(backend)
            async with backend.subscribe([scenario.topic], group=None, start="earliest") as reader:
                found: list[Record] = []
                while len(found) < 2:
                    found += [delivery.record for delivery in await reader.receive(2)]
    again = next(found for found in found if "eventml-replay-group" in found.headers)
    assert (again.id, again.key, again.value) == ("7", b"zone-4", value)
    added = {"eventml-replay-group", "eventml-replay-run"}
    assert {n: text for n, text in again.headers.items() if n not in added} == record.headers
    assert again.headers["eventml-replay-group"] == f"{scenario.bus.name}.duration"


async def test_flat_fields_stay_what_they_are(scenario: Scenario) -> None:
    zones = Zones(missing={8})
    zones.register(scenario)
    record = Record(scenario.topic, b'{"ride_id": "8", "miles": "1.5"}', None, "8", {CONTENT_TYPE: FIELDS})
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                await backend.publish([record])
                await until(lambda: worker.stats["duration"].dead_letters == 1)
            zones.missing = set()
            await scenario.replay(backend)
            await handle_replayed(scenario, backend, 1)
            await scenario.collect(backend, 2)
    scenario.check(answered={8}, set_aside={8})


async def test_what_fails_again_is_a_dead_letter_again_and_its_replay_ends(scenario: Scenario) -> None:
    count = 3_000  # letters for several steps of the replay
    zones = Zones(missing=set(range(0, count, 2)))
    zones.register(scenario)
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(count)])
            async with scenario.working(backend) as worker:
                replayed = 0

                async def complete(subscription: Subscription, done: Sequence[Completion]) -> None:
                    """The next step finds what has failed again among what has yet to be replayed."""
                    nonlocal replayed
                    await subscription.complete(done)
                    replayed += len(done)
                    await until(lambda: worker.stats["duration"].dead_letters >= replayed)

                tally = await scenario.replay(Meddling(backend, complete))
            assert tally.chosen == {"KeyError": count // 2}
            assert zones.failed == dict.fromkeys(range(0, count, 2), 2), "each was replayed, and once"
            zones.missing = set()
            found = await letters(scenario, backend)
            assert numbers(found) == list(range(0, count, 2))
            assert {letter.exception for letter in found} == {"KeyError"}
            await scenario.replay(backend)
            await handle_replayed(scenario, backend, count // 2)
            await scenario.collect(backend, 2 * count)
    assert {int(number) for number in scenario.outputs} == set(range(count))
    assert all(len(records) == 1 for records in scenario.outputs.values())
    assert sorted(zones.seen.elements()) == list(range(count))


@pytest.mark.parametrize("key", [None, b"zone-4"], ids=["no key", "one key"])
async def test_only_what_is_chosen_is_replayed_and_the_rest_stays(
    scenario: Scenario, key: bytes | None
) -> None:
    """Every other one: with one key, and so in one partition, more gaps than a backend can remember."""
    count = 5_000
    zones = Zones(missing=set(range(count)))
    zones.register(scenario)
    odd = list(range(1, count, 2))
    with anyio.fail_after(100):
        async with scenario.connect() as backend:
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(count)], key=key)
            for left in (count, 0):
                tally = await scenario.replay(backend, exceptions=frozenset({"KeyError"}))
                assert tally.chosen.total() == left // 2
                assert tally.left in {count // 2, None}
            assert numbers(await letters(scenario, backend)) == odd
            tally = await scenario.replay(backend, fate="drop", ids=frozenset({"5", "7", "8"}))
            assert tally.chosen == {"Reject": 2}
            assert numbers(await letters(scenario, backend)) == [n for n in odd if n not in {5, 7}]
            zones.missing = set()
            await handle_replayed(scenario, backend, count // 2)
            await scenario.collect(backend, count + count // 2)
    assert {int(number) for number in scenario.outputs} == set(range(0, count, 2))
    assert all(len(records) == 1 for records in scenario.outputs.values())


async def test_letters_are_chosen_by_time_and_number(scenario: Scenario) -> None:
    zones = Zones(missing=set(range(20)))
    zones.register(scenario)
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(10)])
            await anyio.sleep(0.01)
            between = time.time()
            await anyio.sleep(0.01)
            async with scenario.working(backend) as worker:
                await publish(backend, scenario.records([Ride(n, 1.0) for n in range(20)])[10:])
                await until(lambda: worker.stats["duration"].completed == 10)
            assert numbers(await letters(scenario, backend, DeadLetterFilter(until=between))) == list(
                range(10)
            )
            tally = await scenario.replay(backend, since=between, limit=4)
            assert tally.chosen.total() == 4
            assert tally.left in {16, None}
            assert len(await letters(scenario, backend, DeadLetterFilter(since=between))) == 6


async def test_letters_of_a_key_are_replayed_in_their_order(scenario: Scenario) -> None:
    seen: dict[bytes, list[int]] = {b"even": [], b"odd": []}
    broken = True

    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0)
    async def duration(ride: Ride) -> Duration:
        if broken:
            raise Reject("not yet")
        seen[b"odd" if ride.ride_id % 2 else b"even"].append(ride.ride_id)
        return Duration(ride.ride_id, ride.miles)

    keys = [b"odd" if n % 2 else b"even" for n in range(100)]
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                await publish(backend, scenario.records([Ride(n, 1.0) for n in range(100)], keys=keys))
                await until(lambda: worker.stats["duration"].completed == 100)
            broken = False
            await scenario.replay(backend)
            await handle_replayed(scenario, backend, 100)
    assert seen == {b"even": list(range(0, 100, 2)), b"odd": list(range(1, 100, 2))}


async def test_others_records_on_the_dead_letter_topic_stay_and_harm_nothing(scenario: Scenario) -> None:
    zones = Zones(missing={1})
    zones.register(scenario)
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            [topic, _] = scenario.letter_topics
            await backend.publish([Record(topic, b"hello", id="x"), Record(topic, b"", id="y")])
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(3)])
            assert numbers(await letters(scenario, backend)) == [1]
            tally = await scenario.replay(backend)
            assert tally.chosen == {"Reject": 1}
            assert tally.left in {2, None}


class Crash(Exception):  # noqa: N818 - what kills a process is no error of ours
    pass


async def test_crash_between_dead_letter_and_ack_leaves_one_letter_after_replay(scenario: Scenario) -> None:
    """What can happen where completion is not atomic, brought about on every backend."""
    zones = Zones(missing={1, 4})
    zones.register(scenario)
    crashed = False

    async def complete(subscription: Subscription, done: Sequence[Completion]) -> None:
        nonlocal crashed
        outputs = [record for c in done for record in c.outputs if record.topic.endswith(".dlq")]
        if outputs and not crashed:
            crashed = True
            await backend.publish(outputs)
            raise Crash
        await subscription.complete(done)

    with anyio.fail_after(100):
        async with scenario.connect() as backend:
            await publish(backend, scenario.records([Ride(n, 1.0) for n in range(6)]))
            with pytest.raises(Crash):
                async with scenario.working(Meddling(backend, complete)):
                    await anyio.sleep_forever()
            async with scenario.working(backend, "duration") as worker:
                await until(lambda: worker.stats["duration"].completed == 6)
            assert numbers(await letters(scenario, backend)) == [1, 1, 4, 4]
            async with scenario.working(backend, "duration") as worker:
                tally = await scenario.replay(backend)
                await until(lambda: worker.stats["duration"].completed == 2)
            assert (tally.chosen.total(), tally.duplicates) == (2, 2)
            assert numbers(await letters(scenario, backend)) == [1, 4], "one of each, it failed again"
            zones.missing = set()
            await scenario.replay(backend)
            async with scenario.working(backend, "duration") as worker:
                await until(lambda: worker.stats["duration"].completed == 2)
            await scenario.collect(backend, 6 + 4 + 2)
    assert {int(number) for number in scenario.outputs} == set(range(6))
    assert all(len(records) == 1 for records in scenario.outputs.values())
