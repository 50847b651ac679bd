"""The hub as its callers see it: publishers, members and readers of two event loops, in any order.

Every call is a task that may be cancelled while it waits. Two threads have an event loop each, which runs
only when the machine tells it to: wakes cross from one to the other, and every run does the same. When both
loops are idle, no call may still wait that could go on.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventml.backends.base import Completion
from eventml.backends.memory import Hub, Settings
from eventml.records import Delivery, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventml.backends.base import Start

T = TypeVar("T")

RETENTION: Final = 12  # records
PARTITIONS: Final = 3
TOPICS: Final = ("t", "u")
THREADS: Final = [ThreadPoolExecutor(1, thread_name_prefix="hub-states") for _ in range(2)]

loops = st.sampled_from([0, 0, 1])
keys = st.lists(st.sampled_from([b"a", b"g", b"b", b"a", None]), min_size=3, max_size=6)


class Loop:
    """An event loop in a thread, which runs only when it is told to."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._loop = self._in_thread(asyncio.new_event_loop)

    def start(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._in_thread(lambda: self._loop.create_task(call))

    def cancel(self, task: asyncio.Task[Any]) -> None:
        self._in_thread(task.cancel)

    def run(self, iterations: int) -> None:
        async def turns() -> None:
            for _ in range(iterations):
                await asyncio.sleep(0)

        self.do(turns())

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self._in_thread(lambda: self._loop.run_until_complete(call))

    def close(self) -> None:
        self._in_thread(self._loop.close)

    def _in_thread(self, function: Callable[[], T]) -> T:
        return self._thread.submit(function).result(timeout=60)


class Client:
    """A member or a reader, on one of the loops: at most one receive, any number of completions at a time."""

    def __init__(
        self,
        loop: Loop,
        group: str | None,
        topics: Sequence[str],
        context: AbstractAsyncContextManager[Any],
    ) -> None:
        self.loop = loop
        self.topics = topics
        self.group = group
        self.context = context
        self.receiving: asyncio.Task[Any] | None = None
        self.limit = 0
        self.completing: list[tuple[asyncio.Task[None], list[Completion]]] = []
        self.in_flight: list[Delivery] = []
        self.next: dict[tuple[str, int], int] = {}  # a reader's next offset by topic and partition
        self.expected: set[str] = set()  # ids that a reader has to receive, and has not yet
        self.too_old: set[str] = set()  # ids that a reader which starts at `latest` must not receive

    def enter(self) -> Self:
        self.subscription = self.loop.do(self.context.__aenter__())
        return self

    def leave(self) -> None:
        self.loop.do(self.context.__aexit__(None, None, None))


class HubMachine(RuleBasedStateMachine):
    """The model: the ids that each group has not finished, and who has each of them in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub(Settings(partitions=PARTITIONS, retention=RETENTION, publish_timeout=1e9))
        self.loops = [Loop(thread) for thread in THREADS]
        self.clients: list[Client] = []
        self.publishing: list[tuple[Loop, asyncio.Task[None], list[Record]]] = []
        self.count = 0
        self.published: dict[str, Record] = {}
        self.unfinished: dict[tuple[str, str], set[str]] = {}  # by group and topic
        self.rules_until_idle = 0

    # Calls

    @initialize(loop=loops, keys=keys)
    def begin(self, loop: int, keys: list[bytes | None]) -> None:
        """The second member waits for a partition of which the first one has records in flight."""
        self.join(0, "g", False)
        self.publish(0, "t", [b"b", b"b"])
        self.receive(3, -1)
        self._settle()
        self.publish(0, "t", [b"a", b"g", b"b", *keys])
        self.join(loop, "g", False)
        self.receive(3, 0)

    @rule(loop=loops, topic=st.sampled_from(TOPICS), keys=keys)
    def publish(self, loop: int, topic: str, keys: list[bytes | None]) -> None:
        records = [Record(topic, b"", key, f"{n}") for n, key in enumerate(keys, self.count)]
        self.count += len(records)
        task = self.loops[loop].start(self.hub.publish(records))
        self.publishing.append((self.loops[loop], task, records))
        self._expect(records)

    @precondition(lambda self: len(self.clients) < 5)
    @rule(
        loop=loops,
        group=st.sampled_from(["g", "g", "g", "h", None]),
        both=st.booleans(),
        start=st.sampled_from(["earliest", "latest"]),
    )
    def join(self, loop: int, group: str | None, both: bool, start: Start = "earliest") -> None:
        self._settle()  # so that the model knows what is published
        topics = TOPICS if both else TOPICS[:1]
        context = self.hub.subscribe(topics, group=group, start=start)
        if group is not None:
            for topic in topics:
                kept = {d.record.id for p in self.hub.topic(topic).partitions for d in p.log}
                self.unfinished.setdefault((group, topic), kept if start == "earliest" else set())
        self.clients.append(Client(self.loops[loop], group, topics, context).enter())

    @precondition(lambda self: len(self.clients) < 5)
    @rule(loop=loops)
    def read_latest(self, loop: int) -> None:
        """Calls may be under way. What they write may be received or not."""
        self._collect()
        context = self.hub.subscribe(TOPICS, group=None, start="latest")
        client = Client(self.loops[loop], None, TOPICS, context)
        client.too_old = set(self.published)
        self.clients.append(client.enter())

    @rule(limit=st.integers(1, 3), keep=st.integers(0, 4))
    def receive(self, limit: int, keep: int) -> None:
        """All receive that do not yet, but one perhaps."""
        for number, client in enumerate(self.clients):
            if client.receiving is None and number != keep:
                client.limit = limit
                client.receiving = client.loop.start(client.subscription.receive(limit))

    @precondition(lambda self: any(client.receiving for client in self.clients))
    @rule(data=st.data())
    def cancel_receive(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from([c for c in self.clients if c.receiving]))
        assert client.receiving is not None
        client.loop.cancel(client.receiving)

    @precondition(lambda self: self.publishing)
    @rule(data=st.data())
    def cancel_publish(self, data: st.DataObject) -> None:
        loop, task, _ = data.draw(st.sampled_from(self.publishing))
        loop.cancel(task)

    @precondition(lambda self: any(client.in_flight for client in self.clients))
    @rule(data=st.data(), output=st.booleans())
    def complete(self, data: st.DataObject, output: bool) -> None:
        client = data.draw(st.sampled_from([c for c in self.clients if c.in_flight]))
        kept = data.draw(st.sampled_from([0, 0, 1, 2]))
        self._complete(client, data.draw(st.permutations(client.in_flight))[kept:], output)

    def _complete(self, client: Client, deliveries: list[Delivery], output: bool) -> None:
        done: list[Completion] = []
        for delivery in deliveries:
            client.in_flight.remove(delivery)
            outputs = [Record("u", b"", delivery.record.key, f"{self.count}")] if output else []
            self.count += output
            done.append(Completion(delivery, outputs))
        client.completing.append((client.loop.start(client.subscription.complete(done)), done))
        self._expect([record for completion in done for record in completion.outputs])

    @precondition(lambda self: any(client.completing for client in self.clients))
    @rule(data=st.data())
    def cancel_complete(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from([c for c in self.clients if c.completing]))
        client.loop.cancel(client.completing[0][0])

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self._leave(data.draw(st.sampled_from(self.clients)))

    def _leave(self, client: Client) -> None:
        for task in (client.receiving, *(task for task, _ in client.completing)):
            if task is not None:
                client.loop.cancel(task)
        self._settle()
        client.leave()
        self.clients.remove(client)

    @rule(rules=st.integers(1, 3), loop=loops, iterations=st.integers(0, 3))
    def overlap(self, rules: int, loop: int, iterations: int) -> None:
        """The calls of the next rules overlap: the loops do not run until they are idle in between."""
        self.rules_until_idle = rules + 1
        self.loops[loop].run(iterations)

    # Both loops are idle

    @invariant()
    def idle(self) -> None:
        self.rules_until_idle = max(self.rules_until_idle - 1, 0)
        if not self.rules_until_idle:
            self._settle()

    def _settle(self) -> None:
        for _ in range(3):  # a wake crosses from one loop to the other, and perhaps back
            for loop in self.loops:
                loop.run(8)
        self._collect()
        self._nothing_waits_that_could_go_on()

    def _collect(self) -> None:
        """Take over what the finished tasks have done."""
        for entry in list(self.publishing):
            _, task, records = entry
            if task.done():
                self.publishing.remove(entry)
                if not task.cancelled():
                    task.result()
                    self._wrote(records)
        for client in self.clients:
            for call in list(client.completing):
                task, done = call
                if task.done():
                    client.completing.remove(call)
                    self._completed(client, task, done)
        for client in self.clients:
            if client.receiving is not None and client.receiving.done():
                if not client.receiving.cancelled():
                    self._received(client, client.receiving.result())
                client.receiving = None

    def _expect(self, records: list[Record]) -> None:
        """Readers that are there have to receive these, if they are written."""
        for client in self.clients:
            if client.group is None:
                client.expected.update(record.id for record in records if record.topic in client.topics)

    def _wrote(self, records: list[Record]) -> None:
        self.published |= {record.id: record for record in records}
        for (_, topic), left in self.unfinished.items():
            left.update(record.id for record in records if record.topic == topic)

    def _completed(self, client: Client, task: asyncio.Task[None], done: list[Completion]) -> None:
        if task.cancelled():
            client.in_flight += [completion.delivery for completion in done]
            return
        task.result()
        for completion in done:
            if client.group is not None:
                self.unfinished[client.group, completion.delivery.record.topic].remove(
                    completion.delivery.record.id
                )
            self._wrote(list(completion.outputs))

    def _received(self, client: Client, deliveries: list[Delivery]) -> None:
        assert 0 < len(deliveries) <= client.limit
        for delivery in deliveries:
            record = delivery.record
            if client.group is None:
                place = record.topic, delivery.partition
                dropped = self.hub.topic(record.topic).partitions[delivery.partition].base
                following = client.next.get(place, int(delivery.offset))
                assert following == delivery.offset or following < int(delivery.offset) <= dropped
                client.next[place] = int(delivery.offset) + 1
                client.expected.discard(record.id)
                assert record.id not in client.too_old
            else:
                others = [d.record.id for c in self.clients if c.group == client.group for d in c.in_flight]
                assert record.id not in others, "no other member has it"
                self._is_next_of_its_key(client, delivery)
            client.in_flight.append(delivery)

    def _is_next_of_its_key(self, client: Client, delivery: Delivery) -> None:
        assert client.group is not None
        topic, key = delivery.record.topic, delivery.record.key
        own = {d.record.id for d in client.in_flight}
        own |= {completion.delivery.record.id for _, done in client.completing for completion in done}
        for before in self.hub.topic(topic).partitions[delivery.partition].log:
            if before.offset == delivery.offset:
                break
            if before.record.key == key and before.record.id in self.unfinished[client.group, topic]:
                assert before.record.id in own, "an earlier event of this key is not finished"

    def _nothing_waits_that_could_go_on(self) -> None:
        if self.publishing or any(client.completing for client in self.clients):
            assert not all(self.hub.topic(topic).has_room() for topic in TOPICS)
        waiting = [client for client in self.clients if client.receiving is not None]
        for client in waiting:
            if client.group is None:
                for partition, position in client.subscription._positions.items():
                    assert position == partition.end
                kept = {d.record.id for t in TOPICS for p in self.hub.topic(t).partitions for d in p.log}
                assert not client.expected & kept, "published after it began to read"
            else:
                for group in client.subscription._groups.values():
                    assert not any(
                        window.owner is client.subscription
                        and window.next_owner is None
                        and (window.returned or window.position < window.partition.end)
                        for window in group.windows
                    ), "the owner is waiting for what it may have"
        for (group, topic), left in self.unfinished.items():
            members = [c for c in self.clients if c.group == group and topic in c.subscription._groups]
            if members and not any(c.in_flight or c.completing for c in members):
                assert not left or any(c.receiving is None for c in members), "all wait, and none gets it"

    @invariant()
    def every_waiter_waits_for_something(self) -> None:
        calls = [c.receiving for c in self.clients] + [t for c in self.clients for t, _ in c.completing]
        calls += [task for _, task, _ in self.publishing]
        running = [task for task in calls if task is not None]
        waiters = {id(w) for set_ in self.hub._receivers.values() for w in set_}
        assert len(waiters) + len(self.hub.publishers) <= len(running)

    def teardown(self) -> None:
        """Those who are there finish all that is left, and leave nothing behind."""
        self._settle()
        for group, topic in list(self.unfinished):
            if not any(c.group == group and topic in c.subscription._groups for c in self.clients):
                self.join(0, group, True)
        rounds = 0
        while self.publishing or any(self.unfinished.values()):
            rounds += 1
            assert rounds < 100, "what is left does not come"
            self.receive(5, -1)
            self._settle()
            for client in self.clients:
                if client.in_flight:
                    self._complete(client, list(client.in_flight), output=False)
            self._settle()
        for client in list(self.clients):
            self._leave(client)
        assert not any(self.hub._receivers.values())
        assert not self.hub.publishers
        for loop in self.loops:
            loop.close()


HubMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[*HealthCheck],
)
TestHub: Any = HubMachine.TestCase
