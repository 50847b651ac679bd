"""A bus under test: its handlers run in this process, over a broker in memory of its own."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from functools import partial, wraps
from types import TracebackType
from typing import Any, ClassVar, Concatenate, Final, ParamSpec, Self, TypeVar

import anyio
import msgspec
from msgspec.structs import replace

from eventml import config
from eventml.backends import memory
from eventml.bus import Bus
from eventml.codec import Decoder
from eventml.errors import ConfigError, NotOpenError
from eventml.handlers import Handler
from eventml.models import Artefact, Model
from eventml.records import Delivery, Record
from eventml.runtime import (
    Worker,
    dead_letter_topic,
    describe,
    output_event_types,
    read_dead_letter,
    task_group,
)


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


P = ParamSpec("P")
T = TypeVar("T")

# One partition, so that a topic has one order, and a log that a test does not fill.
_SETTINGS: Final = memory.Settings(partitions=1, retention=1_000_000_000)
_BACKOFF: Final = 0.001  # seconds: the number of retries stays, the waits between them are short
_LOOK: Final = 0.001  # seconds between two checks whether all is handled


def _settled(
    method: Callable[Concatenate[Bus, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[TestBus, P], Coroutine[Any, Any, T]]:
    """The method of `Bus`, with the same parameters, which then waits until all is handled."""

    @wraps(method)
    async def call(self: TestBus, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = await method(self._bus, *args, **kwargs)
        await self.settle()
        return result

    call.__doc__ = f"As `Bus.{method.__name__}`; then wait as `settle` does."
    call.__qualname__ = f"TestBus.{method.__name__}"
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
        raise_failures: Fail the `publish` after which an event has become a dead letter.

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
        self._reported: Counter[str] = Counter()  # dead letters of each handler that have failed a call
        self._hub: memory.Hub | None = None
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        url = f"memory://test-{secrets.token_hex(8)}"
        async with AsyncExitStack() as stack:
            stack.enter_context(self._overridden(url))
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

    async def start(self) -> Self:
        """Open it until `stop`, as over several cells of a notebook; `async with` does both.

        Whatever ran on the bus in the background is stopped first. It needs asyncio.
        """
        self._background = await self._bus._start_background(self)  # noqa: SLF001 - a bus has one at a time
        return self

    async def stop(self) -> None:
        """Finish what is in flight, close it, and restore the bus."""
        await self._background.stop()

    # Publishing

    publish = _settled(Bus.publish)
    publish_many = _settled(Bus.publish_many)

    async def publish_record(self, record: Record) -> None:
        """Publish a record unchanged, as another client would; then wait as `settle` does."""
        await self._bus.backend.publish([record])
        await self.settle()

    async def settle(self) -> None:
        """Wait until every published event and everything published in consequence is handled.

        Raises:
            TimeoutError: it took longer than `timeout`; names the busy handler and the last exception.
            AssertionError: with `raise_failures`, an event has become a dead letter since the last time.
        """
        if self._worker is None:
            raise NotOpenError("this test bus is not open; use it inside `async with TestBus(bus) as t:`")
        with anyio.move_on_after(self._timeout) as scope:
            # None of these calls yields to another task, so they see one state.
            while (  # noqa: ASYNC110 - no event says that a handler has had its last one
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
        """Dead letters of the handlers.

        Args:
            name: A handler, or a topic that handlers read; None is all.
        """
        handlers = [h for h in self._bus.handlers.values() if name in (None, h.name, h.topic)]
        if not handlers and name is not None:
            raise ConfigError(f"no handler is named {name!r} or reads {name!r}")
        return [
            DeadLetter(
                handler=handler.name,
                record=delivery.record,
                exception=found.exception,
                reason=found.message,
                attempts=found.attempts,
                error=next((e for e in self._raised_by(handler.name) if describe(e) == found.message), None),
            )
            for handler in handlers
            for delivery in self._log(dead_letter_topic(handler.topic, handler.options.group))
            if (found := read_dead_letter(delivery)) is not None
        ]

    def _raised_by(self, handler: str) -> list[Exception]:
        return [error for name, error in self._raised if name == handler]

    def _log(self, topic: str) -> list[Delivery]:
        if self._hub is None:
            raise NotOpenError("nothing has been published: use it inside `async with TestBus(bus) as t:`")
        with self._hub.lock:
            return list(self._hub.topic(topic).partitions[0].log)

    def _type(self, topic: str) -> Any:
        declared = self._bus.declared_topic(topic).event_type
        if declared is not Any:
            return declared
        written = [output_event_types(h) for h in self._bus.handlers.values() if topic in h.outputs]
        return written[0][topic] if written else Any

    def _report(self) -> None:
        found: Counter[str] = Counter()
        new = []
        for one in self.dead_letters():
            found[one.handler] += 1
            if found[one.handler] > self._reported[one.handler]:
                new.append(one)
        self._reported = found
        if new:
            raise AssertionError("\n".join(map(str, new))) from new[0].error

    async def _unfinished(self, worker: Worker) -> str:
        lines = []
        for name, lag in (await worker.lag()).items():
            if lag or worker.stats[name].in_flight:
                last = next((describe(error) for error in reversed(self._raised_by(name))), "nothing")
                lines.append(
                    f"{name}: {lag} events after {worker.stats[name].calls} calls; it last raised {last}"
                )
        return f"not handled within {self._timeout:g} s:\n" + "\n".join(lines)

    # Overrides

    @contextmanager
    def _overridden(self, url: str) -> Iterator[None]:
        """Replace the bus's settings, models and lifespans while the context is entered."""
        bus = self._bus
        handlers, settings, lifespans = dict(bus.handlers), bus._settings, dict(bus.lifespans)  # noqa: SLF001 - to restore them
        self._check(
            self._models, (n for n, h in handlers.items() if h.model is not None), "handler with a model"
        )
        self._check(self._lifespans, lifespans, "lifespan")
        stand_ins = {name: self._stand_in(handler) for name, handler in handlers.items()}
        try:
            backend = config.BackendSettings(url=url, options=_SETTINGS)
            bus.configure(config.Settings(backend=backend, drain=self._timeout))
            bus.handlers.update(stand_ins)
            bus.lifespans.update(
                {name: partial(nullcontext, value) for name, value in self._lifespans.items()}
            )
            yield
        finally:
            # But for those that a notebook has defined again in the meantime.
            bus.handlers |= {n: h for n, h in handlers.items() if bus.handlers[n] is stand_ins[n]}
            bus.lifespans.update(lifespans)
            bus._settings = settings  # noqa: SLF001 - as above

    def _check(self, given: Iterable[str], known: Iterable[str], what: str) -> None:
        names = sorted(known)
        for name in given:
            if name not in names:
                there_are = ", ".join(names) or "none"
                raise ConfigError(
                    f"bus {self._bus.name!r} has no {what} named {name!r}; there are: {there_are}"
                )

    def _stand_in(self, handler: Handler) -> Handler:
        """The handler with its model replaced, short waits between retries, and its exceptions recorded."""
        model, options = self._models.get(handler.name, handler.model), handler.options
        if handler.name in self._models and not isinstance(model, Model | Artefact):
            model = Model(object=model, name=handler.name, version="test")
        backoff, max_backoff = min(options.backoff, _BACKOFF), min(options.max_backoff, 10 * _BACKOFF)
        return replace(
            handler,
            function=self._recording(handler),
            model=model,
            canary=None if handler.name in self._models else handler.canary,
            options=replace(options, backoff=backoff, max_backoff=max_backoff),
        )

    def _recording(self, handler: Handler) -> Any:
        """The handler's function, with each exception that it raises recorded."""
        function: Any = handler.function

        @contextmanager
        def recorded() -> Iterator[None]:
            try:
                yield
            except Exception as exc:
                self._raised.append((handler.name, exc))
                raise

        @wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            with recorded():
                return await function(*args, **kwargs)

        return call if handler.is_async else recorded()(function)
