"""A producer for blocking code: its connection runs in an event loop of its own, also after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from functools import wraps
from threading import Lock, Thread
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from eventml.errors import NotOpenError, UnsupportedError
from eventml.producer.producer import Producer
from eventml.runtime import task_group

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[Producer, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingProducer, P], T]:
    """The method of `Producer`, with the same parameters and docstring, for blocking code."""

    @wraps(method)
    def call(self: BlockingProducer, /, *args: P.args, **kwargs: P.kwargs) -> T:
        portal, producer = self._connection()
        result: T = portal.call(lambda: method(producer, *args, **kwargs))
        return result

    call.__qualname__ = f"BlockingProducer.{method.__name__}"
    return call


class BlockingProducer:
    """A producer for synchronous code, such as a Flask or Django app. Made by `Bus.producer`.

    Its methods are those of `Producer`, and block until they are done. Use it with `with`. Any number of
    threads may publish through one producer; concurrent calls share one write. Its connection runs in an
    event loop of its own, in one background thread, and so does the iterable given to `publish_many`.

    A process forked while it is open connects anew at its first call, and has ids of its own. What the parent
    has not written stays with the parent. If the backend lives in one process, UnsupportedError is raised.
    """

    publish = _blocking(Producer.publish)
    publish_many = _blocking(Producer.publish_many)
    request = _blocking(Producer.request)

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Producer]]) -> None:
        self._connect = connect
        # By process: a forked one can use neither the connection of its parent nor a lock that is held.
        self._connections: dict[int, tuple[BlockingPortal, Producer]] = {}
        self._locks: dict[int, Lock] = {}
        self._ended = Future[None]()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connection of this process, after the writes in progress."""
        connection = self._connections.pop(os.getpid(), None)
        self._connections.clear()
        if connection is not None:
            with suppress(RuntimeError):  # it has ended by itself
                connection[0].start_task_soon(connection[0].stop)
            self._ended.result()

    def _connection(self) -> tuple[BlockingPortal, Producer]:
        pid, found = os.getpid(), list(self._connections.values())
        if not found:
            raise NotOpenError("this producer is closed; publish inside `with bus.producer() as producer:`")
        if pid not in self._connections:
            if not found[0][1].backend.capabilities.shared:
                raise UnsupportedError(
                    "this producer was opened before a fork, and its backend lives in the parent process, "
                    "which would not get the events of this one. Name a backend that processes share, with "
                    "EVENTML_BACKEND or eventml.toml, or open a producer in this process"
                )
            with self._locks.setdefault(pid, Lock()):
                if pid not in self._connections:
                    self._start()
        return self._connections[pid]

    def _start(self) -> None:
        """Connect in an event loop of its own, in a thread that alone cleans up.

        So a forked process, which has no such thread, cleans up nothing of its parent's, not even at exit.
        """
        started = Future[tuple[BlockingPortal, Producer]]()
        ended = self._ended = Future[None]()

        async def serve() -> None:
            async with task_group(), BlockingPortal() as portal, self._connect() as producer:
                started.set_result((portal, producer))
                await portal.sleep_until_stopped()

        def run() -> None:
            try:
                anyio.run(serve)
                ended.set_result(None)
            except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
                (ended if started.done() else started).set_exception(exc)

        Thread(target=run, name="eventml-producer", daemon=True).start()
        self._connections[os.getpid()] = started.result()
