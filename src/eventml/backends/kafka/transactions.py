"""The transactions of one input partition: outputs and the input's offset in one step.

There is one transactional producer for each input partition. Its transactional id names the group and
the partition, so that whoever gets the partition next fences the one before: what that one left open
is aborted, and what it tries later is refused. aiokafka speaks the first version of the protocol
(before KIP-447), in which that id is the only fence.

After any outcome that is not known the producer is thrown away. A fresh one settles what was open,
and then the committed place says whether the transaction was: there is no other way to tell.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from eventml.backends.kafka.clients import stop, tear_down
from eventml.backends.kafka.faults import FOREIGN, ours
from eventml.backends.kafka.observer import not_found
from eventml.backends.kafka.progress import LONGEST, write
from eventml.errors import EventMLError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiokafka import AIOKafkaProducer, TopicPartition

    from eventml.backends.base import Completion
    from eventml.backends.kafka.assignment import Assignment
    from eventml.backends.kafka.batches import Packer
    from eventml.backends.kafka.clients import Clients
    from eventml.backends.kafka.observer import Observer
    from eventml.backends.kafka.progress import Place
    from eventml.backends.kafka.remembering import Remembering
    from eventml.backends.kafka.seen import Entry, Seen
    from eventml.backends.kafka.sending import Sender
    from eventml.records import Delivery, Record

log = logging.getLogger("eventml")


class Means(NamedTuple):
    """What transactions are made with.

    Attributes:
        clients: Makes producers.
        sender: Packs and sends.
        observer: Knows what was committed.
        group: The consumer group.
        timeout: How long a transaction may take, in seconds.
        remembering: Knows which ids were finished, where the group remembers them.
    """

    clients: Clients
    sender: Sender
    observer: Observer
    group: str
    timeout: float
    remembering: Remembering | None = None


class _Attempt(NamedTuple):
    """A transaction that may have been committed: the place that it moves the group to, and by what."""

    place: Place
    deliveries: Sequence[Delivery]
    seen: Entry | None = None


class Line:
    """The transactions of one input partition, one after the other."""

    def __init__(self, means: Means, partition: TopicPartition) -> None:
        self._means = means
        self._partition = partition
        self._producer: AIOKafkaProducer | None = None
        self._attempt: _Attempt | None = None
        self.one = asyncio.Lock()
        """Held by whoever commits for the partition."""
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def at_rest(self) -> bool:
        """What was last committed is known, and nothing more is being committed."""
        return self._attempt is None and not self.one.locked()

    async def fence(self) -> None:
        """Get a producer: from here on no other can commit for this partition, unless it fences us.

        Raises:
            UnavailableError: the brokers are out of reach.
        """
        await self._discard()
        topic, partition = self._partition
        name = f"{self._means.group}.{topic}.{partition}"
        producer = self._means.clients.producer(transactional_id=name)
        self._producer = producer
        try:
            await self._means.clients.start(producer)
        except BaseException as exc:
            await self._discard()
            if isinstance(exc, FOREIGN):
                raise ours(exc, f"starting the transactions of {name}") from exc
            raise

    async def complete(self, assignment: Assignment, wanted: Mapping[int, Completion]) -> dict[int, str]:
        """Publish and finish these completions. Returns those that were refused, and why.

        Raises:
            TopicNotFoundError: an output's topic is not there.
            PublishError: the brokers refused, for a reason that is no record's.
            UnavailableError: nobody knows; ask again.
        """
        failed: dict[int, str] = {}
        try:
            async with self.one, asyncio.timeout(self._means.timeout):
                while todo := self._held(assignment, wanted, failed):
                    await self._settle(assignment)
                    if todo := self._held(assignment, wanted, failed):
                        failed |= await self._attempt_once(assignment, todo)
        except TimeoutError as exc:
            raise UnavailableError(
                f"a transaction of group {self._means.group} did not end within {self._means.timeout:g} s "
                "(backend.publish_timeout)"
            ) from exc
        return failed

    async def close(self) -> None:
        """Disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await (tear_down(producer) if self.one.locked() else stop(producer))
        if self._ending:
            await asyncio.wait(self._ending)

    def _held(
        self, assignment: Assignment, wanted: Mapping[int, Completion], failed: Mapping[int, str]
    ) -> dict[int, Completion]:
        """Those that are still in hand and not refused, each delivery once."""
        held: dict[int | str, tuple[int, Completion]] = {}
        for position, completion in wanted.items():
            if position not in failed and assignment.holds(completion.delivery):
                held.setdefault(completion.delivery.offset, (position, completion))
        return dict(held.values())

    async def _settle(self, assignment: Assignment) -> None:
        """Find out what became of the last transaction, if that is not known."""
        if self._producer is not None and self._attempt is None:
            return
        attempt = self._attempt
        await self.fence()
        place = await self._place()
        if attempt is not None and place.same(attempt.place):
            self._finish(assignment, attempt)
        elif (known := assignment.place_committed(self._partition)) is None or not place.same(known):
            log.warning(
                "group %s: another member has been at partition %d of %s; what was in hand of it is dropped",
                self._means.group,
                self._partition.partition,
                self._partition.topic,
            )
            assignment.restart(self._partition, place)
            if self._means.remembering is not None:
                self._means.remembering.drop(self._partition)
        self._attempt = None

    async def _place(self) -> Place:
        found = await self._means.observer.committed(self._means.group, [self._partition])
        if self._partition not in found:
            raise UnavailableError(f"group {self._means.group} has lost its place in {self._partition}")
        return found[self._partition]

    async def _attempt_once(self, assignment: Assignment, todo: Mapping[int, Completion]) -> dict[int, str]:
        """One transaction. Returns completions to leave out; if there are any, nothing was done."""
        producer = self._producer
        if producer is None:
            raise UnavailableError(f"group {self._means.group}: there is no producer; try again")
        repeats = self._repeats(todo)
        outputs = [(p, record) for p, c in todo.items() if p not in repeats for record in c.outputs]
        entry, seen = self._seen_after(todo.values())
        packer = await self._pack(producer, [record for _, record in outputs], seen)
        if packer.too_large:
            owners = [position for position, _ in outputs] + [next(iter(todo))] * len(seen)
            return {owners[position]: why for position, why in packer.too_large.items()}
        deliveries = [completion.delivery for completion in todo.values()]
        place = assignment.place_after(self._partition, deliveries)
        attempt = _Attempt(place, deliveries, entry)
        self._attempt = attempt
        if await self._transact(producer, packer, place):
            self._finish(assignment, attempt)
            self._attempt = None
        else:
            await self._discard()  # and find out that nothing was done
        return {}

    async def _transact(self, producer: AIOKafkaProducer, packer: Packer, place: Place) -> bool:
        """Run a transaction. False if a batch was refused in a way that another try may avoid."""
        text, whole = write(place)
        if not whole:
            raise UnavailableError(
                f"group {self._means.group}: too much is finished out of order to be written down in "
                f"{LONGEST} characters; it can be committed once earlier records are finished"
            )
        try:
            await producer.begin_transaction()
            if await self._means.sender.send(producer, packer):
                return False
            await producer.send_offsets_to_transaction(
                {self._partition: (place.offset, text)}, self._means.group
            )
            await producer.commit_transaction()
        except EventMLError:
            await self._discard()
            raise
        except (*FOREIGN, AssertionError) as exc:  # aiokafka asserts its states
            await self._discard()
            raise ours(exc, f"in a transaction of group {self._means.group}") from exc
        except BaseException:  # cancelled: there is no time to wait for its end
            self._producer = None
            ending = asyncio.create_task(tear_down(producer))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            raise
        return True

    @property
    def _known(self) -> Seen | None:
        remembering = self._means.remembering
        return None if remembering is None else remembering.seen(self._partition)

    def _repeats(self, todo: Mapping[int, Completion]) -> set[int]:
        """Those whose outputs are not wanted: their ids were finished before, or are by one before them."""
        known = self._known
        if known is None:
            return set()
        repeats: set[int] = set()
        ids: set[str] = set()
        for position, completion in todo.items():
            id_ = completion.delivery.record.id
            if completion.dedupe == "drop" and (id_ in ids or id_ in known):
                repeats.add(position)
            if completion.dedupe != "off":
                ids.add(id_)
        return repeats

    def _seen_after(self, done: Iterable[Completion]) -> tuple[Entry | None, list[Record]]:
        """What is remembered with these, and the records that say it."""
        remembering, known = self._means.remembering, self._known
        if remembering is None or known is None:
            return None, []
        entry = known.entry(c.delivery.record.id for c in done if c.dedupe != "off")
        return entry, remembering.written(self._partition, entry) if entry else []

    async def _pack(
        self, producer: AIOKafkaProducer, outputs: Sequence[Record], seen: Sequence[Record]
    ) -> Packer:
        sender, records = self._means.sender, [*outputs, *seen]
        pinned = dict.fromkeys(range(len(outputs), len(records)), self._partition.partition)
        topics = {record.topic for record in records}
        partitions = await sender.partitions(producer, topics)
        if len(partitions) < len(topics):
            raise not_found(topics - set(partitions))
        return sender.pack(producer, records, range(len(records)), partitions, pinned)

    def _finish(self, assignment: Assignment, attempt: _Attempt) -> None:
        if self._known is not None and attempt.seen is not None:
            self._known.finished_with(attempt.seen)
        assignment.finish(attempt.deliveries)
        assignment.committed({self._partition: attempt.place})

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await tear_down(producer)
