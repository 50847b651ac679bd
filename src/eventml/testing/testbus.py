"""A bus under test: its handlers run in this process, over a broker that nobody else can reach."""

from __future__ import annotations

import secrets
from collections import Counter
from contextlib import AsyncExitStack
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Final, ParamSpec, Self, TypeVar

import anyio
import msgspec

from eventml.backends import memory
from eventml.bus import Bus
from eventml.codec import Decoder
from eventml.errors import ConfigError, NotOpenError
from eventml.records import Record
from eventml.runtime import DLQ_PREFIX, dead_letter_topic, describe, output_event_type, task_group
from eventml.testing.overrides import overriding

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from types import TracebackType

    from eventml.records import Delivery, Record
    from eventml.runtime import Worker


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter of a handler, for assertions in a test.

    Attributes:
        handler: The handler's name.
        record: The dead letter's record: the event's value, key and id, and the headers with the failure.
        exception: The name of the exception's class.
        reason: The exception in one line.
        attempts: How often the event was tried.
        error: The exception itself, if the handler's function raised it; else None.
    """

    handler: str
    record: Record
    exception: str
    reason: str
    attempts: int
    error: Exception | None = None

    def __str__(self) -> str:
        return f"{self.handler}: {self.record.id} failed after {self.attempts} attempts: {self.reason}"


def read_dead_letter(handler: str, record: Record, raised: Iterable[Exception]) -> DeadLetter:
    """Read a record of a dead-letter topic; `error` is found among the exceptions raised."""
    reason = record.headers[f"{DLQ_PREFIX}message"]
    return DeadLetter(
        handler=handler,
        record=record,
        exception=record.headers[f"{DLQ_PREFIX}exception"],
        reason=reason,
        attempts=int(record.headers[f"{DLQ_PREFIX}attempts"]),
        error=next((error for error in raised if describe(error).startswith(reason)), None),
    )


P = ParamSpec("P")
T = TypeVar("T")

# One partition, so that a topic has one order, and a log that a test does not fill.
_SETTINGS: Final = memory.Settings(partitions=1, retention=1_000_000_000)
_LOOK = 0.001  # seconds between two checks whether all is handled


def _settled(
    method: Callable[Concatenate[Bus, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[TestBus, P], Coroutine[Any, Any, T]]:
    """The method of `Bus`, with the same parameters, which then waits until all is handled."""

    @wraps(method)
    async def call(self: TestBus, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = await method(self._bus, *args, **kwargs)
        await self.settle()
        return result

    return call


class TestBus:
    """Runs a bus's handlers in memory, whatever its configuration, and gives access to what they published.

        async with TestBus(bus, models={"duration": FakeModel()}) as t:
            await t.publish("rides.started", RideStarted("r1", 1, 2, 3.4))
            assert t.published("rides.duration") == [DurationPredicted("r1", 12.0)]

    Events are encoded, handled, retried and moved to the dead letters as in production, without waiting
    between retries; models are loaded and lifespans entered. While it is open, events published on `bus`
    itself, by a handler or by the code under test, are handled in the same way. The bus is restored on exit.

    Args:
        bus: The bus. It must not be open.
        only: The names of the handlers to run; all of them where there are none.
        models: What a handler gets as its model instead of its own, by the handler's name: the object
            itself, or a `Model` or an `Artefact`.
        lifespans: What handlers get instead of a lifespan's value, by the lifespan's name.
        timeout: How long all that was published may take to be handled, in seconds.
        raise_failures: Fail the `publish` after which a handler set an event aside.

    Raises:
        ConfigError: a name is of nothing that the bus has.
        ModelError: a model cannot be loaded.
    """

    __test__: ClassVar[bool] = False  # pytest: this is no test class

    def __init__(
        self,
        bus: Bus,
        *,
        only: Sequence[str] = (),
        models: Mapping[str, Any] | None = None,
        lifespans: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
        raise_failures: bool = False,
    ) -> None:
        self._bus = bus
        self._only = only
        self._models = models or {}
        self._lifespans = lifespans or {}
        self._timeout = timeout
        self._raise_failures = raise_failures
        self._raised: list[tuple[str, Exception]] = []
        self._reported: Counter[str] = Counter()
        self._hub: memory.Hub | None = None
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        url = f"memory://test-{secrets.token_hex(8)}"
        async with AsyncExitStack() as stack:
            overrides = overriding(
                self._bus,
                url=url,
                options=_SETTINGS,
                drain=self._timeout,
                models=self._models,
                lifespans=self._lifespans,
                raised=self._raised,
            )
            stack.enter_context(overrides)
            self._hub = await stack.enter_async_context(memory.temporary(url, _SETTINGS))
            await stack.enter_async_context(self._bus.open(backend=self._hub))
            worker = await stack.enter_async_context(self._bus.worker(self._only))
            tasks = await stack.enter_async_context(task_group())
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            self._worker = worker
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._worker is not None:
            if error is None:
                self._worker.stop()
            else:
                self._worker.abandon()
            self._worker = None
        return await self._stack.__aexit__(kind, error, trace)

    # Publishing

    publish = _settled(Bus.publish)
    """As `Bus.publish`; then wait as `settle` does."""

    publish_many = _settled(Bus.publish_many)
    """As `Bus.publish_many`; then wait as `settle` does."""

    async def publish_record(self, record: Record) -> None:
        """Publish a record unchanged, as another client would; then wait as `settle` does."""
        await self._bus.backend.publish([record])
        await self.settle()

    async def settle(self) -> None:
        """Wait until every published event and everything published in consequence is handled.

        Raises:
            TimeoutError: it took longer than `timeout`; names the busy handler and the last exception.
            AssertionError: with `raise_failures`, a handler has set an event aside since the last time.
        """
        if self._worker is None:
            raise NotOpenError("this test bus is not open; use it inside `async with TestBus(bus) as t:`")
        with anyio.move_on_after(self._timeout) as scope:
            # None of these calls yields to another task, so they see one state.
            while (  # noqa: ASYNC110 - nobody says when a handler has had its last event
                self._worker.in_flight or any((await self._worker.lag()).values())
            ):
                await anyio.sleep(_LOOK)
        if scope.cancelled_caught:
            raise TimeoutError(await self._unfinished(self._worker))
        if self._raise_failures:
            self._report()

    # Inspecting the results

    def published(self, topic: str) -> list[Any]:
        """The events of a topic, in the order in which they were published.

        They have the type that the topic was declared with, else the type that the handler which
        writes it is annotated with (`Prediction` for numbers), else they are plain Python.

        Raises:
            DecodeError: a record is not of that type.
        """
        events = Decoder(self._type(topic)).decode(self._log(topic))
        for event in events:
            if isinstance(event, Exception):
                raise event
        return events

    def records(self, topic: str) -> list[Record]:
        """The records of a topic, with their keys, ids and headers."""
        return [delivery.record for delivery in self._log(topic)]

    def dead_letters(self, name: str | None = None) -> list[DeadLetter]:
        """What handlers have moved to the dead letters.

        Args:
            name: A handler, or a topic that handlers read; None is all.
        """
        handlers = [h for h in self._bus.handlers.values() if name in (None, h.name, h.topic)]
        if not handlers:
            raise ConfigError(f"no handler is named {name!r} or reads {name!r}")
        return [
            read_dead_letter(handler.name, record, [e for who, e in self._raised if who == handler.name])
            for handler in handlers
            for record in self.records(dead_letter_topic(handler.topic, handler.options.group))
        ]

    def _log(self, topic: str) -> list[Delivery]:
        if self._hub is None:
            raise NotOpenError("nothing has been published: use it inside `async with TestBus(bus) as t:`")
        with self._hub.lock:
            return list(self._hub.topic(topic).partitions[0].log)

    def _type(self, topic: str) -> Any:
        said = self._bus.topics.get(topic)
        if said is not None and said.event_type is not Any:
            return said.event_type
        writers = (handler for handler in self._bus.handlers.values() if handler.to == topic)
        return next(map(output_event_type, writers), Any)

    def _report(self) -> None:
        letters = self.dead_letters()
        old, self._reported = self._reported, Counter(letter.handler for letter in letters)
        seen: Counter[str] = Counter()
        new = []
        for letter in letters:
            seen[letter.handler] += 1
            if seen[letter.handler] > old[letter.handler]:
                new.append(letter)
        if new:
            raise AssertionError("\n".join(map(str, new))) from new[0].error

    async def _unfinished(self, worker: Worker) -> str:
        lines = []
        for name, lag in (await worker.lag()).items():
            if lag or worker.stats[name].in_flight:
                last = next((describe(e) for who, e in reversed(self._raised) if who == name), "nothing")
                lines.append(
                    f"{name}: {lag} events after {worker.stats[name].calls} calls; it last raised {last}"
                )
        return f"not handled within {self._timeout:g} s:\n" + "\n".join(lines)
