"""The seam: what the runtime asks of a broker, and nothing more.

A backend is one module, registered as an entry point in the group `eventml.backends` under the URL
scheme that chooses it. The module holds `Settings`, a msgspec struct, and `open`, which connects.
It imports `eventml.records` and `eventml.errors` and this file; never the bus or the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventml.records import Delivery, Record

Start = Literal["earliest", "latest"]
"""Where a group that has never read a topic begins. A group that has goes on where it left off."""

Dedupe = Literal["off", "drop", "record"]
"""How a completion takes part in deduplication; see `Completion`."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What holds on a backend, said honestly: the contract suite checks each claim.

    Attributes:
        ordering: `per_key`: records of one key reach a group in order, however many members it has.
            `single_member`: only while the group has one member. `none`: not at all.
        redelivery: What brings back a delivery that was never completed. `lease`: time, while its
            holder still lives, and its leaving. `leave`: only the holder's leaving or death.
        atomic_completion: An input's outputs and its ack happen together or not at all, and only if
            the delivery was still the subscription's own: one input gives one output.
        durable: What was published outlives this process. How much more than that it outlives is
            the server's set-up; the backend's own page says so.
        counts_attempts: `Delivery.attempt` counts.
        shared: Several processes can work for one group.
        deduplicates: A group can record the ids that it has completed (`Deduplicates`), whichever of its
            members completed them.
    """

    ordering: Literal["per_key", "single_member", "none"]
    redelivery: Literal["lease", "leave"]
    atomic_completion: bool
    durable: bool
    counts_attempts: bool
    shared: bool
    deduplicates: bool = False


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
    """One member of a consumer group at work, or a reader on its own."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery, and take all that is there up to `limit`.

        Pulling is the backpressure: a subscription fetches a bounded amount ahead and no more.
        One call at a time. It may be cancelled: a delivery that was on its way stays with the
        subscription for the next call, or goes back when the subscription closes.

        Raises:
            UnavailableError: the broker is out of reach. The subscription stays usable: call again.
        """
        ...

    async def complete(self, done: Sequence[Completion]) -> None:
        """Publish each one's outputs and ack it, in any order relative to other completions.

        The outputs are published before the ack, or in one step with it (`atomic_completion`). A
        completion for a delivery that somebody else has completed is dropped in silence where
        completion is atomic; elsewhere its outputs may have gone out before that was known. Where
        redelivery is by lease, a delivery in hand keeps its lease for as long as its holder lives.
        Completions may overlap each other and `receive`. A reader without a group ignores acks.

        Raises:
            PublishError: some outputs were refused for good; `failed` maps the position of their
                completion in `done` to the reason. Those are neither published nor acked; all the
                others are done.
            UnavailableError: the outcome of all of them is unknown. Repeating the call is right.
            BackendError: the broker refused them all, for a reason that somebody has to remove (a missing
                permission, say); none is acked. Repeating the call later is right.
        """
        ...

    async def lag(self) -> int | None:
        """How many records the group has not finished, those in hand included.

        None is "unknown", never a guess. It counts for the whole group, dead members' work included.
        """
        ...


class Backend(Protocol):
    """A connection to a broker: one you hold is connected."""

    @property
    def capabilities(self) -> Capabilities:
        """What holds on this backend as it is set up."""
        ...

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records, in this order for each key. Returns when the broker has them all.

        A full topic holds the caller back: that is the backpressure on producers.

        Raises:
            PublishError: some records were refused for good (`failed` says which, by position).
            FullError: nobody made room in time; nothing was written.
            UnavailableError: out of reach, or no answer; some may have been written.
        """
        ...

    def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AbstractAsyncContextManager[Subscription]:
        """Join a group, or with `group=None` read on one's own without leaving a trace.

        Once entered, the group exists: what is published from now on reaches it. Leaving it gives
        back what was not completed, for the other members or the next to come, at once where the
        backend can.

        Raises:
            TopicNotFoundError: on a backend whose topics are created beforehand.
        """
        ...

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """How many records the group has not finished, by partition, without joining it.

        None where there is no such group yet, or where the backend cannot tell.
        """
        ...


class NewTopic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic to create; None is the backend's own default.

    Attributes:
        name: Its name.
        partitions: How many: the most members that a group can put to work on it.
        replication: How many copies.
        retention: How long its records are kept, in seconds.
    """

    name: str
    partitions: int | None = None
    replication: int | None = None
    retention: float | None = None


class DedupeSubscription(Subscription, Protocol):
    """A member of a group that records the ids of what it has completed."""

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        """The positions of the deliveries whose ids the group has recorded at their topic: one call a batch.

        Only ids of completions for which `complete` has returned are certain to be found.

        Raises:
            UnavailableError: the broker cannot be reached. The subscription stays usable: call again.
        """
        ...


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

        Raises:
            TopicNotFoundError: a topic does not exist, on a backend whose topics are created beforehand.
            UnsupportedError: ids cannot be recorded for these topics; says what to do.
        """
        ...


@runtime_checkable
class CreatesTopics(Protocol):
    """What a backend has beyond `Backend` where topics are created beforehand."""

    async def create_topics(self, topics: Sequence[NewTopic]) -> Sequence[str]:
        """Create those that are not there, and return their names. The others are left as they are.

        Raises:
            BackendError: the broker refused one.
            UnavailableError: out of reach, or no answer.
        """
        ...

    async def missing_topics(self, names: Sequence[str]) -> Sequence[str]:
        """Which of these topics are not there."""
        ...


@runtime_checkable
class TrimsTopics(Protocol):
    """What a backend has beyond `Backend` where a topic that no group reads would grow for ever."""

    async def trim(self, topic: str, *, older_than: float) -> None:
        """Remove the records of a topic that are so many seconds old, read or not.

        Raises:
            BackendError: the broker refused.
            UnavailableError: out of reach, or no answer.
        """
        ...


@runtime_checkable
class ChecksOutputs(Protocol):
    """What a backend has beyond `Backend` where not every output can be completed with every input."""

    def check_outputs(self, topic: str, outputs: Sequence[str]) -> object:
        """Asked before a handler of `topic` that writes to `outputs` is run.

        Raises:
            UnsupportedError: they cannot be completed in one step, and the settings do not allow for two.
        """
        ...


class BackendModule(Protocol):
    """What an entry point in `eventml.backends` names: a module with these three."""

    Settings: type[msgspec.Struct]

    def capabilities(self, settings: msgspec.Struct) -> Capabilities:
        """What will hold with these settings, told without a connection."""
        ...

    def open(self, url: str, settings: msgspec.Struct) -> AbstractAsyncContextManager[Backend]:
        """Connect. `settings` is an instance of this module's `Settings`, validated.

        The URL's query has already been folded into the settings.

        Raises:
            UnavailableError: nobody answers there.
            ConfigError: the URL or a setting makes no sense to this backend.
        """
        ...
