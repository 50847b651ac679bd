"""The producer for blocking code."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

from anyio.from_thread import start_blocking_portal

from eventml.errors import NotOpenError
from eventml.producer.producer import KeyOf, Producer, PublishOptions, RequestOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType


class BlockingProducer:
    """A producer for synchronous code, such as a Flask or Django app. Made by `Bus.producer`.

    Use it with `with`. Any number of threads may publish through one producer; concurrent calls
    share one write. Its connection runs in an event loop of its own, in one background thread.
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
        """Close the connection, after the writes in progress."""
        self._producer = None
        self._stack.__exit__(kind, error, trace)

    def publish(self, topic: str, event: Any, **options: Unpack[PublishOptions]) -> None:
        """Publish one event, and block until the broker has stored it; see `Producer.publish`."""
        self._portal.call(partial(self._open().publish, topic, event, **options))

    def publish_many(self, topic: str, events: Iterable[Any], *, key: KeyOf | None = None) -> int:
        """Publish many events, and block until the broker has stored them; see `Producer.publish_many`.

        The iterable runs in the producer's own thread.
        """
        return self._portal.call(partial(self._open().publish_many, topic, events, key=key))

    def request(self, topic: str, event: Any, **options: Unpack[RequestOptions]) -> Any:
        """Publish one event, and block until its prediction arrives; see `Producer.request`."""
        return self._portal.call(partial(self._open().request, topic, event, **options))

    def _open(self) -> Producer:
        if self._producer is None:
            raise NotOpenError("this producer is closed; publish inside `with bus.producer() as producer:`")
        return self._producer
