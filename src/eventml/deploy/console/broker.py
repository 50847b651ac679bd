"""Access of the console's threads to the broker: on a connection of its own, away from the workers."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal

from eventml import config
from eventml.backends.base import Backend, Subscription
from eventml.bus import Bus
from eventml.deploy.console.records import delivery_to_json, format_value, one_line, shortened
from eventml.deploy.console.templates import render
from eventml.errors import EventMLError, UnavailableError, UnsupportedError
from eventml.printable import cut
from eventml.records import Delivery

T = TypeVar("T")

_TAILS: Final = 10
_TIMEOUT: Final = 60.0  # seconds for one action
_RECORDS: Final = 50  # records in one message of a live tail; more are counted, and not shown
_PAUSE: Final = 0.5  # seconds between two messages
_SILENCE: Final = 5.0  # seconds after which a message without records shows whether the page is still open
_LIMIT: Final = 500  # records in one receive


class Broker:
    """Runs coroutines that need the backend of a bus, for threads.

    Each call connects for itself, so that no connection stays open while no page is read. A backend
    that lives in this process is used where it is open: in the event loop of its `worker`.
    """

    def __init__(self, bus: Bus, worker: BlockingPortal | None = None) -> None:
        settings = bus.settings.backend
        self._bus = bus
        self._module = config.find_backend(settings.scheme)
        self._shared = self._module.capabilities(settings.options).shared
        self._worker = worker
        self._own: BlockingPortal
        self._tails = threading.BoundedSemaphore(_TAILS)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer calls while the context is entered. Leaving it cancels those in progress."""
        with start_blocking_portal() as self._own:
            try:
                yield
            finally:
                self._own.call(self._own.stop, True)

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a function with a connected backend and these arguments, in an event loop.

        Raises:
            EventMLError: an error of the backend.
            UnavailableError: it takes longer than a minute.
            UnsupportedError: the backend lives in another process.
        """

        async def call() -> T:
            with anyio.move_on_after(_TIMEOUT):
                async with self._connected() as backend:
                    return await function(backend, *args)
            raise UnavailableError(f"the broker has not done all of this within {_TIMEOUT:g} s")

        return self._portal.call(call)

    @property
    def _portal(self) -> BlockingPortal:
        portal = self._own if self._shared else self._worker
        if portal is None:
            raise UnsupportedError(
                "the records of this backend live in another process; name one that processes share"
            )
        return portal

    def _connected(self) -> AbstractAsyncContextManager[Backend]:
        settings = self._bus.settings.backend
        opened = self._module.open(settings.url, settings.options) if self._shared else None
        return opened or nullcontext(self._bus.backend)

    def request(self, topic: str, event: Any, predictor: str, seconds: float) -> Any:
        """Request a prediction over the bus; see `Bus.request`."""

        async def ask() -> Any:
            async with self._bus.open() if self._worker is None else nullcontext():
                return await self._bus.request(topic, event, predictor=predictor, timeout=seconds)

        return (self._worker or self._own).call(ask)

    def tail(self, topic: str, text: str, hidden: Sequence[str]) -> Generator[bytes, None, None]:
        """Yield the new records of a topic that contain a text, as server-sent events, until closed.

        The last one says why it ends. A client that does not read slows down the reader, and fills no memory.
        """
        if not self._tails.acquire(blocking=False):
            yield _message([], 0, "too many live tails are open")
            return
        try:
            portal = self._portal
            with (
                portal.wrap_async_context_manager(self._tailing(topic)) as subscription,
                suppress(GeneratorExit),  # which a task group of the subscription would wrap
            ):
                while True:
                    yield _message(*portal.call(_gather, subscription, text.lower(), hidden))
        except (EventMLError, CancelledError) as exc:
            yield _message([], 0, cut(str(exc), 300) or "the service stops")
        finally:
            self._tails.release()

    @asynccontextmanager
    async def _tailing(self, topic: str) -> AsyncIterator[Subscription]:
        async with (
            self._connected() as backend,
            backend.subscribe([topic], group=None, start="latest") as subscription,
        ):
            yield subscription


async def _gather(subscription: Subscription, text: str, hidden: Sequence[str]) -> tuple[list[str], int]:
    """Return what arrives in a moment, and how many records more than a message shows."""
    shown, skipped = list[str](), 0
    with anyio.move_on_after(_SILENCE) as waiting:
        while anyio.current_time() < waiting.deadline:
            for delivery in await subscription.receive(_LIMIT):
                full = len(shown) == _RECORDS
                encoded = b"" if full and not text else delivery_to_json(shortened(delivery), hidden)
                if text in encoded.decode().lower():
                    skipped += full
                    shown += [] if full else [_record(delivery, encoded)]
            waiting.deadline = min(waiting.deadline, anyio.current_time() + _PAUSE)
            await anyio.lowlevel.checkpoint()  # as `receive` need not
    return shown, skipped


def _message(shown: list[str], skipped: int, error: str = "") -> bytes:
    data = {"records": shown, "skipped": skipped, "error": error}
    return b"data: %b\n\n" % msgspec.json.encode(data)


def _record(delivery: Delivery, encoded: bytes) -> str:
    """A record: one line, and behind it all of it."""
    record = msgspec.json.decode(encoded)
    value = format_value(record["value"])
    headers = "".join(f"{one_line(name)}: {one_line(text)}\n" for name, text in record["headers"].items())
    key = "" if record["key"] is None else format_value(record["key"])
    whole = f"id: {one_line(record['id'])}\n{headers}\n{value}"
    return render("record", at=delivery.timestamp, key=key, start=one_line(value), all=whole)
