"""A dead letter is replayed to the group that failed, once; those that are not chosen stay."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from eventml import Record, Reject
from eventml.records import CONTENT_TYPE, FIELDS, MSGPACK, REPLAY_GROUP
from eventml.runtime.failures.dead_letters import MISPLACED, dead_letter_queues
from eventml.runtime.failures.replay import DeadLetterFilter, browse
from tests.failures.intercepting import InterceptingBackend
from tests.failures.scenario import Duration, Ride, Scenario, publish, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import Backend, Completion, Subscription
    from eventml.runtime.failures.dead_letters import DeadLetterDelivery

pytestmark = pytest.mark.anyio


class Zones:
    """The data that the handler needs: some of it is missing at first."""

    def __init__(self, missing: set[int]) -> None:
        self.missing = missing
        self.failed: Counter[int] = Counter()
        self.audited: Counter[int] = Counter()  # by another handler of the same topic

    def register(self, scenario: Scenario) -> None:
        """A predictor that fails on rides whose zone is missing, and a consumer that never fails."""

        @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0, breaker_window=0)
        def duration(ride: Ride) -> Duration:
            if ride.ride_id in self.missing:
                self.failed[ride.ride_id] += 1
                raise Reject("not yet") if ride.ride_id % 2 else KeyError(ride.ride_id)
            return Duration(ride.ride_id, ride.miles)

        @scenario.bus.consumer(scenario.topic)
        def audit(rides: list[Ride]) -> None:
            self.audited.update(ride.ride_id for ride in rides)


async def handle(
    scenario: Scenario, backend: Backend, values: Sequence[object], *, key: bytes | None = None
) -> None:
    """Publish events, and run both handlers until they are finished."""
    async with scenario.working(backend) as worker:
        await publish(backend, scenario.records(values, keys=[key] * len(values)))
        await until(lambda: all(stats.completed >= len(values) for stats in worker.stats.values()))


async def handle_replayed(scenario: Scenario, backend: Backend, count: int) -> None:
    """Run both handlers until this many replayed records are finished."""
    async with scenario.working(backend) as worker:
        await until(lambda: all(stats.completed >= count for stats in worker.stats.values()))


async def dead_letters(
    scenario: Scenario, backend: Backend, wanted: DeadLetterFilter | None = None
) -> list[DeadLetterDelivery]:
    [queue, *_] = dead_letter_queues(scenario.bus.handlers.values())
    topic, group = queue.dead_letter_topic, queue.replay_group
    async with backend.subscribe([topic], group=group, start="earliest") as subscription:
        found = [letter async for letter in browse(subscription, wanted or DeadLetterFilter())]
        return [letter for letter in found if letter is not None]


def numbers(found: Sequence[DeadLetterDelivery]) -> list[int]:
    return sorted(int(letter.id) for letter in found)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "both at once"])
async def test_dead_letters_replayed_twice_are_answered_once_by_the_group_that_failed_them(
    scenario: Scenario, at_once: bool
) -> None:
    count = 10_000 if at_once else 2_000  # for several steps of the replay
    zones = Zones(missing=set(range(count)))
    zones.register(scenario)
    with anyio.fail_after(100):
        async with scenario.connect() as backend:
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(count)])
            zones.missing = set()
            replayed = 0

            async def replay() -> None:
                nonlocal replayed
                report = await scenario.replay(backend)
                replayed += report.chosen.total()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(replay)
                if at_once:
                    tasks.start_soon(replay)
            await replay()
            assert replayed == count
            await handle_replayed(scenario, backend, count)
            await scenario.collect(backend, 2 * count)
    scenario.check(answered=set(range(count)), dead_letters=set(range(count)))
    assert zones.audited == Counter(range(count)), "the other group was not called again"


async def test_replayed_record_is_the_original_record(scenario: Scenario) -> None:
    zones = Zones(missing={7})
    zones.register(scenario)
    value = msgspec.msgpack.encode(Ride(7, 2.5))
    record = Record(scenario.topic, value, b"zone-4", "7", {CONTENT_TYPE: MSGPACK, "ce_source": "taxi"})
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                await backend.publish([record])
                await until(lambda: all(stats.completed == 1 for stats in worker.stats.values()))
            [letter] = await dead_letters(scenario, backend)
            assert (letter.exception, letter.attempts, letter.topic) == ("Reject", 1, scenario.topic)
            assert letter.traceback.startswith("tests.failures.test_replay:")
            assert 'raise Reject("not yet")' in letter.traceback
            await scenario.replay(backend)
            async with backend.subscribe([scenario.topic], group=None, start="earliest") as reader:
                found: list[Record] = []
                while len(found) < 2:
                    found += [delivery.record for delivery in await reader.receive(2)]
    replayed = next(record for record in found if "eventml-replay-group" in record.headers)
    assert (replayed.id, replayed.key, replayed.value) == ("7", b"zone-4", value)
    added = {"eventml-replay-group", "eventml-replay-run"}
    assert {n: text for n, text in replayed.headers.items() if n not in added} == record.headers
    assert replayed.headers["eventml-replay-group"] == f"{scenario.bus.name}.duration"


async def test_replayed_record_of_flat_fields_is_decoded_as_such(scenario: Scenario) -> None:
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
    scenario.check(answered={8}, dead_letters={8})


async def test_event_that_fails_again_is_a_dead_letter_again_and_the_run_ends(scenario: Scenario) -> None:
    count = 3_000  # dead letters for several steps of the replay
    zones = Zones(missing=set(range(0, count, 2)))
    zones.register(scenario)
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(count)])
            async with scenario.working(backend) as worker:
                replayed = 0

                async def complete(subscription: Subscription, done: Sequence[Completion]) -> None:
                    """Let the next step find events that failed again among those still to be replayed."""
                    nonlocal replayed
                    await subscription.complete(done)
                    replayed += len(done)
                    await until(lambda: worker.stats["duration"].dead_letters >= replayed)

                report = await scenario.replay(InterceptingBackend(backend, complete))
            assert report.chosen == {"KeyError": count // 2}
            assert zones.failed == dict.fromkeys(range(0, count, 2), 2), "each was replayed, and once"
            zones.missing = set()
            found = await dead_letters(scenario, backend)
            assert numbers(found) == list(range(0, count, 2))
            assert {letter.exception for letter in found} == {"KeyError"}
            await scenario.replay(backend)
            await handle_replayed(scenario, backend, count // 2)
            await scenario.collect(backend, 2 * count)
    assert {int(number) for number in scenario.outputs} == set(range(count))
    assert all(len(records) == 1 for records in scenario.outputs.values())
    assert sorted(zones.audited.elements()) == list(range(count))


@pytest.mark.parametrize("key", [None, b"zone-4"], ids=["no key", "one key"])
async def test_only_chosen_dead_letters_are_replayed_and_the_others_stay(
    scenario: Scenario, key: bytes | None
) -> None:
    """Every other one. With one key, so in one partition, they leave more gaps than a backend can record."""
    count = 5_000 if key else 1_000
    zones = Zones(missing=set(range(count)))
    zones.register(scenario)
    odd = list(range(1, count, 2))
    with anyio.fail_after(100):
        async with scenario.connect() as backend:
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(count)], key=key)
            for left in (count, 0):
                report = await scenario.replay(backend, exceptions=frozenset({"KeyError"}))
                assert report.chosen.total() == left // 2
                assert report.left in {count // 2, None}
            assert numbers(await dead_letters(scenario, backend)) == odd
            report = await scenario.replay(backend, action="drop", ids=frozenset({"5", "7", "8"}))
            assert report.chosen == {"Reject": 2}
            assert numbers(await dead_letters(scenario, backend)) == [n for n in odd if n not in {5, 7}]
            zones.missing = set()
            await handle_replayed(scenario, backend, count // 2)
            await scenario.collect(backend, count + count // 2)
    assert {int(number) for number in scenario.outputs} == set(range(0, count, 2))
    assert all(len(records) == 1 for records in scenario.outputs.values())


async def test_dead_letters_are_chosen_by_time_and_number(scenario: Scenario) -> None:
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
            assert numbers(await dead_letters(scenario, backend, DeadLetterFilter(until=between))) == list(
                range(10)
            )
            report = await scenario.replay(backend, since=between, limit=4)
            assert report.chosen.total() == 4
            assert report.left in {16, None}
            assert len(await dead_letters(scenario, backend, DeadLetterFilter(since=between))) == 6


async def test_dead_letters_of_a_key_are_replayed_in_order(scenario: Scenario) -> None:
    called: dict[bytes, list[int]] = {b"even": [], b"odd": []}
    broken = True

    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0, breaker_window=0)
    async def duration(ride: Ride) -> Duration:
        if broken:
            raise Reject("not yet")
        called[b"odd" if ride.ride_id % 2 else b"even"].append(ride.ride_id)
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
    assert called == {b"even": list(range(0, 100, 2)), b"odd": list(range(1, 100, 2))}


async def test_other_records_on_the_dead_letter_topic_stay(scenario: Scenario) -> None:
    zones = Zones(missing={1})
    zones.register(scenario)
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            [topic, _] = scenario.dead_letter_topics
            await backend.publish([Record(topic, b"hello", id="x"), Record(topic, b"", id="y")])
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(3)])
            assert numbers(await dead_letters(scenario, backend)) == [1]
            report = await scenario.replay(backend)
            assert (report.chosen, report.unreadable) == ({"Reject": 1}, 2)
            assert report.left in {2, None}
            for chosen in ({"ids": frozenset({"x"})}, {"limit": 5}):
                report = await scenario.replay(backend, action="drop", **chosen)
                assert (report.chosen, report.unreadable) == ({}, 2)
            report = await scenario.replay(backend, action="drop")
            assert (report.chosen, report.unreadable) == ({"(no dead letter)": 2}, 0)
            assert report.left in {0, None}
            assert (await scenario.replay(backend)).unreadable == 0


def forged(scenario: Scenario, id_: str, **claims: str) -> Record:
    """A dead letter of the first handler that somebody has written, with what it claims."""
    [queue, *_] = dead_letter_queues(scenario.bus.handlers.values())
    fields = {"topic": queue.topic, "partition": "0", "offset": "none", "group": queue.group, "attempts": "1"}
    fields |= {"first-failure": "1.0", "last-failure": "1.0", "exception": "Forged", **claims}
    headers = {f"eventml-dlq-{name}": text for name, text in fields.items()}
    return Record(queue.dead_letter_topic, msgspec.json.encode(Ride(int(id_), 1.0)), None, id_, headers)


async def test_a_dead_letter_that_names_another_topic_or_group_is_not_replayed(scenario: Scenario) -> None:
    zones = Zones(missing={1})
    zones.register(scenario)
    first, _, rest = scenario.topic.partition(".")
    [queue, other] = dead_letter_queues(scenario.bus.handlers.values())
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            await publish(
                backend,
                [
                    forged(scenario, "11", topic=scenario.to),
                    forged(scenario, "12", group=other.group),
                    forged(scenario, "13", topic=first, group=f"{rest}.{queue.group}"),  # the sum is right
                ],
            )
            await handle(scenario, backend, [Ride(n, 1.0) for n in range(2)])
            assert numbers(await dead_letters(scenario, backend)) == [1, 11, 12, 13], "they are shown"
            zones.missing = set()
            report = await scenario.replay(backend)
            assert (report.chosen, report.refused) == ({"Reject": 1}, {MISPLACED: 3})
            assert report.left in {3, None}
            await handle_replayed(scenario, backend, 1)
            await scenario.collect(backend, 2 + 4)
            assert numbers(await dead_letters(scenario, backend)) == [11, 12, 13]
            dropped = await scenario.replay(backend, action="drop", exceptions=frozenset({"Forged"}))
            assert (dropped.chosen, dropped.refused) == ({"Forged": 3}, {})
            assert await dead_letters(scenario, backend) == []
    assert set(scenario.outputs) == {"0", "1"}


async def test_a_forged_dead_letter_of_the_same_origin_does_not_hide_the_real_one(
    scenario: Scenario,
) -> None:
    zones = Zones(missing=set())
    zones.register(scenario)
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            real = forged(scenario, "2", offset="7")
            other = msgspec.structs.replace(real, headers={**real.headers, CONTENT_TYPE: MSGPACK})
            later = msgspec.structs.replace(real, headers={**real.headers, "eventml-dlq-last-failure": "2.0"})
            await publish(backend, [forged(scenario, "1", offset="7"), other, real, later])
            report = await scenario.replay(backend)
    assert (report.chosen.total(), report.duplicates) == (3, 1)


async def test_an_event_that_claims_to_be_replayed_for_another_group_leaves_a_trace(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may write to the topic can claim it, so it is counted and logged; or not skipped at all."""
    called: list[int] = []
    scenario.bus.consumer(scenario.topic, name="audit")(lambda ride: called.append(ride["ride_id"]))
    called_for_all: list[int] = []
    scenario.bus.consumer(scenario.topic, name="all", skip_replayed=False)(
        lambda ride: called_for_all.append(ride["ride_id"])
    )
    hidden = [
        msgspec.structs.replace(record, id=f"{record.id}\x1b[2J", headers={REPLAY_GROUP: "no\u202e group"})
        for record in scenario.records([Ride(n, 1.0) for n in range(3)])
    ]
    caplog.set_level(logging.INFO, "eventml")
    with anyio.fail_after(60):
        async with scenario.connect() as backend, scenario.working(backend) as worker:
            await publish(backend, [*hidden, *scenario.records([Ride(3, 1.0)])])
            await until(lambda: all(stats.completed == 4 for stats in worker.stats.values()))
    assert sorted(called_for_all) == [0, 1, 2, 3]
    assert called == [3]
    assert (worker.stats["audit"].skipped, worker.stats["all"].skipped) == (3, 0)
    lines = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert lines
    assert all(line.startswith("audit: ") and line.isprintable() for line in lines)
    assert r"for 'no\u202e group'" in lines[0]


class Crash(Exception):  # noqa: N818 - it stands for the death of a process
    pass


async def test_second_dead_letter_of_an_event_after_a_crash_is_not_replayed(
    scenario: Scenario,
) -> None:
    """It can happen where completion is not atomic; here it is caused on every backend."""
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
                async with scenario.working(InterceptingBackend(backend, complete)):
                    await anyio.sleep_forever()
            async with scenario.working(backend, "duration") as worker:
                await until(lambda: worker.stats["duration"].completed == 6)
            assert numbers(await dead_letters(scenario, backend)) == [1, 1, 4, 4]
            async with scenario.working(backend, "duration") as worker:
                report = await scenario.replay(backend)
                await until(lambda: worker.stats["duration"].completed == 2)
            assert (report.chosen.total(), report.duplicates) == (2, 2)
            assert numbers(await dead_letters(scenario, backend)) == [1, 4], "each failed again, once"
            zones.missing = set()
            await scenario.replay(backend)
            async with scenario.working(backend, "duration") as worker:
                await until(lambda: worker.stats["duration"].completed == 2)
            await scenario.collect(backend, 6 + 4 + 2)
    assert {int(number) for number in scenario.outputs} == set(range(6))
    assert all(len(records) == 1 for records in scenario.outputs.values())
