"""Access of the console's threads to the broker: on a connection of its own, away from the workers."""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal

from eventml import config
from eventml.deploy.console.html import Html, lines, part
from eventml.deploy.console.records import delivery_to_json, format_time, format_value, one_line
from eventml.errors import UnavailableError, UnsupportedError
from eventml.printable import cut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence

    from eventml.backends.base import Backend
    from eventml.bus import Bus
    from eventml.records import Delivery

T = TypeVar("T")

MAX_TAILS: Final = 10
_TIMEOUT: Final = 60.0  # seconds for one action
_RECORDS: Final = 50  # records in one message of a live tail; more are counted, and not shown
_PAUSE: Final = 0.5  # seconds between two messages
_SILENCE: Final = 5.0  # seconds after which a message without records shows whether the page is still open
_LIMIT: Final = 500  # records in one receive


class Broker:
    """Runs coroutines that need the backend of a bus, for threads.

    Each call connects for itself, so that nothing stays open while nobody looks. A backend that lives in this
    process is used where it is open: in the event loop of its worker.

    Args:
        bus: The bus, configured.
        worker: Runs coroutines in the event loop in which the bus is open; None if it is not.
    """

    def __init__(self, bus: Bus, worker: BlockingPortal | None = None) -> None:
        settings = bus.settings.backend
        self._bus = bus
        self._module = config.find_backend(settings.scheme)
        self._shared = self._module.capabilities(settings.options).shared
        self._worker = worker
        self._own: BlockingPortal
        self.tails = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer calls while the context is entered. Leaving it cancels those in progress."""
        with start_blocking_portal() as self._own:
            try:
                yield
            finally:
                self._own.call(self._own.stop, True)

    def call(self, function: Callable[..., Awaitable[T]], *args: Any, seconds: float = _TIMEOUT) -> T:
        """Call a function with a connected backend and these arguments, in an event loop.

        Raises:
            EventMLError: what the backend raises.
            UnavailableError: it takes longer than this.
            UnsupportedError: the backend lives in another process.
        """
        found: T = self._portal().call(self._call, function, args, seconds)
        return found

    def _portal(self) -> BlockingPortal:
        if self._shared:
            return self._own
        if self._worker is None:
            raise UnsupportedError(
                "the records of this backend live in another process; name one that processes share"
            )
        return self._worker

    async def _call(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...], seconds: float) -> T:
        with anyio.move_on_after(seconds):
            if not self._shared:
                return await function(self._bus.backend, *args)
            settings = self._bus.settings.backend
            async with self._module.open(settings.url, settings.options) as backend:
                return await function(backend, *args)
        raise UnavailableError(f"the broker has not done this within {seconds:g} s")

    def request(self, topic: str, event: Any, predictor: str, seconds: float) -> Any:
        """Request a prediction over the bus; see `Bus.request`."""

        async def ask() -> Any:
            return await self._bus.request(topic, event, predictor=predictor, timeout=seconds)

        async def ask_alone() -> Any:
            async with self._bus.open():
                return await ask()

        return self._worker.call(ask) if self._worker is not None else self._own.call(ask_alone)

    def tail(self, topic: str, text: str, hidden: Sequence[str]) -> Generator[bytes, None, None]:
        """Yield the new records of a topic that contain a text, as server-sent events, until closed.

        Raises:
            UnsupportedError: as for `call`.
        """
        found: queue.SimpleQueue[list[Delivery] | Exception] = queue.SimpleQueue()

        async def read(backend: Backend) -> None:
            async with backend.subscribe([topic], group=None, start="latest") as subscription:
                while True:
                    found.put([*await subscription.receive(_LIMIT)])

        future = self._portal().start_task_soon(self._call, read, (), float("inf"))
        future.add_done_callback(lambda done: found.put(_error_of(done)))
        self.tails += 1
        try:
            yield from self._messages(found, text.lower(), hidden)
        finally:
            self.tails -= 1
            future.cancel()

    def _messages(
        self, found: queue.SimpleQueue[list[Delivery] | Exception], text: str, hidden: Sequence[str]
    ) -> Generator[bytes, None, None]:
        still = threading.Event()
        while True:
            shown, skipped = list[Html](), 0
            try:
                arrived: list[list[Delivery] | Exception] = [found.get(timeout=_SILENCE)]
                while not found.empty():
                    arrived.append(found.get())
            except queue.Empty:
                arrived = []
            for one in arrived:
                if isinstance(one, Exception):
                    yield _message([], 0, cut(str(one), 300) or type(one).__name__)
                    return
                for delivery in one:
                    encoded = delivery_to_json(delivery, hidden)
                    if text and text not in encoded.decode().lower():
                        continue
                    if len(shown) < _RECORDS:
                        shown.append(_record(delivery, encoded))
                    else:
                        skipped += 1
            yield _message(shown, skipped)
            still.wait(_PAUSE)  # or thousands of messages a second


def _error_of(done: Any) -> Exception:
    error = None if done.cancelled() else done.exception()
    return error if isinstance(error, Exception) else UnavailableError("the read has ended")


def _message(shown: list[Html], skipped: int, error: str = "") -> bytes:
    data = {"records": shown, "skipped": skipped, "error": error}
    return b"data: %b\n\n" % msgspec.json.encode(data, enc_hook=str)


def _record(delivery: Delivery, encoded: bytes) -> Html:
    """A record: one line, and behind it all of it."""
    record = msgspec.json.decode(encoded)
    value = format_value(record["value"])
    return part(
        "record",
        at=format_time(delivery.timestamp) or "-",
        key="" if record["key"] is None else cut(format_value(record["key"]), 40),
        start=cut(one_line(value), 120),
        all=lines(f"id: {one_line(record['id'])}\n{_headers(record['headers'])}\n{value}"),
    )


def _headers(headers: dict[str, str]) -> str:
    return "".join(f"{one_line(name)}: {one_line(text)}\n" for name, text in headers.items())
