"""Writing to a bus, and asking over it, from blocking code."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from anyio.from_thread import start_blocking_portal

from eventml.errors import NotOpenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from eventml.producer.producer import KeyOf, Producer


class BlockingProducer:
    """A producer for synchronous code (a Flask or Django backend). Made by `Bus.producer`.

    Use it with `with`; any number of threads may publish through it at once, and share its writes.
    Its connection lives in an event loop of its own, in one background thread.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Producer]]) -> None:
        self._connect = connect
        self._stack = ExitStack()
        self._producer: Producer | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal(name="eventml-producer"))
            self._producer = stack.enter_context(self._portal.wrap_async_context_manager(self._connect()))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection, once what other threads had begun to publish is written."""
        self._producer = None
        self._stack.__exit__(kind, error, trace)

    def publish(
        self,
        topic: str,
        event: Any,
        *,
        key: str | bytes | None = None,
        id: str | None = None,  # noqa: A002 - CloudEvents' word
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """As `Producer.publish`, blocking this thread until the broker has the event."""
        producer = self._open()

        async def publish() -> None:
            await producer.publish(topic, event, key=key, id=id, headers=headers)

        self._portal.call(publish)

    def publish_many(self, topic: str, events: Iterable[Any], *, key: KeyOf | None = None) -> int:
        """As `Producer.publish_many`, blocking this thread until the broker has all the events.

        The events are drawn in the producer's own thread.
        """
        producer = self._open()

        async def publish_many() -> int:
            return await producer.publish_many(topic, events, key=key)

        return self._portal.call(publish_many)

    def request(
        self,
        topic: str,
        event: Any,
        *,
        timeout: float = 10.0,
        predictor: str | None = None,
        key: str | bytes | None = None,
        output_type: Any = None,
    ) -> Any:
        """As `Producer.request`, blocking this thread until the answer is there."""
        producer = self._open()

        async def request() -> Any:
            return await producer.request(
                topic, event, timeout=timeout, predictor=predictor, key=key, output_type=output_type
            )

        return self._portal.call(request)

    def _open(self) -> Producer:
        if self._producer is None:
            raise NotOpenError("this producer is closed; publish inside `with bus.producer() as producer:`")
        return self._producer
