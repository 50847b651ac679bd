"""The seam: everything that the runtime needs from a broker.

A backend is one module, registered as an entry point in the group `eventml.backends` under its URL scheme
(`BackendModule`). Of eventml it imports this file, `eventml.records` and `eventml.errors`; never the bus or
the runtime. The contract suite (`eventml.testing.contract`) tests each promise made here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Literal, Protocol, runtime_checkable

import msgspec

from eventml.records import Delivery, Record

Start = Literal["earliest", "latest"] | float
"""Where a new group or a reader starts: at an end, or at a past time in seconds since the epoch, in each
partition with the first record whose timestamp is not before it; a backend may round it down to milliseconds.
At the end if there is none (`Capabilities.start_at_time`). An existing group continues where it stopped."""

Dedupe = Literal["off", "drop", "record"]
"""How a completion takes part in deduplication; see `Completion`."""

MAX_BYTES: Final = 8_000_000
"""Default of the setting `max_bytes` of every backend; see `Capabilities`."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Guarantees of a backend. The contract suite checks each claim.

    Attributes:
        ordering: `per_key`: records of one key reach a group in order, with any number of members.
            `single_member`: in order only while the group has one member. `none`: in no order.
        redelivery: When an unfinished delivery is delivered again. `lease`: when its lease expires, although
            its member is alive, or when its member leaves. `leave`: only when its member leaves or dies.
        atomic_completion: The outputs and the ack of an input happen together or not at all, and only if
            the subscription still owns the delivery: one input gives one output.
        durable: Published records outlive this process. Which failures of the server they survive depends on
            its configuration; the backend's page describes it.
        counts_attempts: `Delivery.attempt` counts attempts; subscriptions to groups are `CountsAttempts`.
        shared: Several processes can share the work of one group.
        deduplicates: A group can record the ids that it has completed (`Deduplicates`), whichever of its
            members completed them.
        max_bytes: The most bytes of values and keys that one `receive` returns; a larger record is returned
            alone. What is read ahead is bounded likewise. None: a read is bounded in records only.
        tombstones: A record may have no value (`records.TOMBSTONE`). None is published to other backends.
        start_at_time: `Start` may be a time, and readers without a group are `Bounded`.
    """

    ordering: Literal["per_key", "single_member", "none"]
    redelivery: Literal["lease", "leave"]
    atomic_completion: bool
    durable: bool
    counts_attempts: bool
    shared: bool
    deduplicates: bool = False
    max_bytes: int | None = None
    tombstones: bool = False
    start_at_time: bool = False


class Completion(msgspec.Struct, frozen=True, gc=False):
    """A finished delivery and the records that result from it (predictions, or a dead letter).

    Attributes:
        delivery: The finished delivery.
        outputs: Records to publish in the same step as the ack.
        dedupe: What to do with the delivery's id, in a deduplicated subscription (`Deduplicates`). `drop`:
            record it, and drop the outputs if the group had recorded it before. `record`: record it, and
            publish the outputs in any case. `off`: do not record it.
        dead_letter: Whether the first output is a dead letter. Backends ignore it.
    """

    delivery: Delivery
    outputs: Sequence[Record] = ()
    dedupe: Dedupe = "off"
    dead_letter: bool = False


class Subscription(Protocol):
    """One member of a consumer group, or a reader without a group."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery, and return those available, up to `limit` and `max_bytes`.

        If the call before raised, it returns with none once the broker can be read again: so an outage is
        seen to end on a topic without new records.

        A subscription prefetches a bounded number of records: a caller that does not receive slows the
        broker down. One call at a time. It may be cancelled: a delivery that was about to be returned is
        returned by the next call, or goes back to the group when the subscription closes.

        Raises:
            UnavailableError: the broker cannot be reached. The subscription stays usable: call again.
            BackendError: the broker refused, for a reason that somebody has to remove (a missing permission,
                say). The subscription stays usable: call again later.
            TopicNotFoundError: the topic was deleted, and no later call brings it back.
            ConfigError: this process cannot read the records, and no later call can (`MissingExtraError`: the
                codec of their compression is not installed).
        """
        ...

    async def complete(self, done: Sequence[Completion]) -> None:
        """Publish the outputs of each completion and ack its delivery. Completions may come in any order.

        Outputs are published before the ack, or in one step with it (`atomic_completion`). A completion of a
        delivery that another member has completed is dropped without an error where completion is atomic;
        elsewhere its outputs may be published. Where redelivery is by lease, a delivery in flight keeps its
        lease as long as its member is alive. Calls may overlap each other and `receive`. For a reader
        without a group, acks have no effect.

        Raises:
            PublishError: some outputs were refused for good; `failed` maps the position of their completion
                in `done` to the reason. These are neither published nor acked; all others are done.
            UnavailableError: the outcome of all of them is unknown. Repeating the call is right.
            BackendError: the broker refused them all, for a reason that somebody has to remove (a missing
                permission, say); none is acked. Repeating the call later is right.
        """

    async def lag(self) -> int | None:
        """The number of records that the group has not finished, those in flight included.

        None means "unknown"; a number is exact, or an upper bound where the backend's page says so; zero is
        exact. It counts the whole group, dead members included. Where it stays unknown, a worker that is to
        stop when idle (`--until-idle`) ends with an error after 60 s.
        """


@runtime_checkable
class CountsLost(Protocol):
    """Implemented besides `Subscription` where records may be removed before a group has completed them."""

    @property
    def lost(self) -> int:
        """How many this member found removed: at least so many. Each record counts with one member."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """Implemented by readers without a group besides `Subscription`, if `Capabilities.start_at_time`."""

    async def stop_at(self, end: Start) -> None:
        """Deliver only what is before the place where another reader with `start=end` would start now.

        It may be called once, between two calls of `receive`. From then on `receive` returns none once, and
        only once, it has returned all of these that still exist. Raises UnavailableError if the
        broker cannot be reached; repeating the call is right.
        """


class Backend(Protocol):
    """A connection to a broker, open from its creation."""

    @property
    def capabilities(self) -> Capabilities:
        """Guarantees of this backend with its settings."""
        ...

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records, in order for each key. Returns when the broker has stored them all.

        The call waits while a topic is full: this is the backpressure on producers.

        Raises:
            PublishError: some records were refused for good; `failed` maps their positions to reasons.
            FullError: the topic stayed full; nothing was written.
            UnavailableError: the broker cannot be reached or did not answer; some may have been written.
        """

    def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AbstractAsyncContextManager[Subscription]:
        """Join a group, or with `group=None` read without one, which changes nothing on the broker.

        Once entered, the group exists, and the start is fixed: with `latest`, records whose publish begins
        from then on are received, and none whose publish returned before, by a reader too. Leaving returns
        unfinished deliveries to the group, at once where the backend can.

        Raises:
            TopicNotFoundError: a topic does not exist, on a backend whose topics are created beforehand.
        """
        ...

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """The number of records that the group has not finished, by partition, without joining it.

        None if the group does not exist yet, or if the backend does not know.
        """


class NewTopic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic to create. None means the backend's default.

    Attributes:
        partitions: Number of partitions: the largest number of members that can share its records.
        replication: Number of copies of each record.
        retention: Seconds for which records are kept.
    """

    name: str
    partitions: int | None = None
    replication: int | None = None
    retention: float | None = None


class DedupeSubscription(Subscription, Protocol):
    """A member of a group that records the ids of what it has completed."""

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        """The positions of the deliveries whose ids the group has recorded at their topic: one call a batch.

        Only ids of completions for which `complete` has returned are certain to be found. Raises
        UnavailableError if the broker cannot be reached; the subscription stays usable: call again.
        """
        ...


@runtime_checkable
class CountsAttempts(Protocol):
    """Implemented by subscriptions to groups besides `Subscription`, if `Capabilities.counts_attempts`."""

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        """Count the attempts of redelivered records (`attempt` > 1) that a handler is called with next.

        All other calls have returned: of records that were begun before and are not completed, the attempt
        counts no more. The count is durable: if this process dies in the call, the next `attempt` of exactly
        these is higher. Repeating the call changes nothing.

        Of deliveries that are another member's by now nothing is counted; `LosesDeliveries` names them from
        then on.

        Raises:
            UnavailableError: the outcome is unknown. Repeating the call is right.
            BackendError: the broker refused. Repeating the call later is right.
        """
        ...


@runtime_checkable
class LosesDeliveries(Protocol):
    """Implemented besides `Subscription` where another member may get what is in flight with this one."""

    def lost_deliveries(self, deliveries: Iterable[Delivery]) -> Collection[int]:
        """The positions of those known to be another's: they must neither be called nor completed.

        It is called before each call of a handler, after `CountsAttempts.begin`. It asks no broker, and costs
        nothing until some were lost.
        """
        ...


@runtime_checkable
class NamesMembers(Protocol):
    """Implemented besides `Backend` where a process can take the place of one that has died."""

    def name_members(self, name: str) -> None:
        """Name the members of this process, before the first one subscribes.

        A group's member gets at once what the member of the same name had in flight when its process died,
        although no lease and no session has ended. No two running processes may have one name.
        Raises ConfigError if the settings have named them otherwise.
        """


@runtime_checkable
class Deduplicates(Protocol):
    """Implemented besides `Backend` where `Capabilities.deduplicates` is true."""

    def subscribe_deduplicated(
        self, topics: Sequence[str], *, group: str, start: Start, window: int
    ) -> AbstractAsyncContextManager[DedupeSubscription]:
        """As `subscribe`; the group also records the last `window` ids that it completed at each topic.

        It may record some more, but what it keeps is bounded. An id is recorded with the ack, in one step
        where completion is atomic: a completion that is refused or dropped records nothing. Elsewhere it
        is recorded after the outputs are published, and the outputs of a duplicate may have gone out before
        the first was recorded. Recorded ids are kept where the records are, for as long as the group.

        Raises as `subscribe` does, and UnsupportedError where ids cannot be recorded for these topics.
        """
        ...


@runtime_checkable
class CreatesTopics(Protocol):
    """Implemented besides `Backend` where topics must be created before they are used."""

    async def create_topics(self, topics: Sequence[NewTopic]) -> Sequence[str]:
        """Create the missing topics and return their names. Existing topics are not changed.

        Raises BackendError if the broker refuses one, UnavailableError if it does not answer.
        """
        ...

    async def missing_topics(self, names: Sequence[str]) -> Sequence[str]:
        """The names of the topics that do not exist. Raises UnavailableError as `create_topics` does."""
        ...


@runtime_checkable
class TrimsTopics(Protocol):
    """Implemented besides `Backend` where a topic that no group reads would grow without limit."""

    async def trim(self, topic: str, *, older_than: float) -> None:
        """Remove the records older than so many seconds, read or not. Raises as `create_topics` does."""


@runtime_checkable
class ChecksOutputs(Protocol):
    """Implemented besides `Backend` where some outputs cannot be completed together with some inputs."""

    def check_outputs(self, topic: str, outputs: Sequence[str]) -> object:
        """Raise UnsupportedError if acks and outputs need one step by the settings, and it is impossible."""


@runtime_checkable
class RefusesTopics(Protocol):
    """Implemented by a backend, and by its module, where some names cannot be those of topics."""

    def refused_topics(self, names: Collection[str]) -> Mapping[str, str]:
        """Why the broker would refuse to create some of these topics, by name; needs no connection."""
        ...


class BackendModule(Protocol):
    """The module that an entry point in the group `eventml.backends` names.

    Attributes:
        Settings: A msgspec struct of the backend's settings.
    """

    Settings: type[msgspec.Struct]

    def capabilities(self, settings: msgspec.Struct) -> Capabilities:
        """Guarantees of the backend with these settings; needs no connection."""
        ...

    def open(self, url: str, settings: msgspec.Struct) -> AbstractAsyncContextManager[Backend]:
        """Connect. `settings` is a validated `Settings` of the module, with the URL's query merged in.

        Raises:
            UnavailableError: the broker cannot be reached.
            ConfigError: the URL or a setting is not valid for this backend.
        """
        ...
