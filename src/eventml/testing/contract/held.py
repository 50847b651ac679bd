"""Contexts that end in any order: each is entered in a task of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup, TaskStatus

T = TypeVar("T")


class Held(Generic[T]):
    """A context that stays entered until it is released.

    Attributes:
        value: What entering it gave.
        broken: It was broken on purpose: errors of leaving it say nothing.
    """

    def __init__(self, value: T) -> None:
        self.value = value
        self.broken = False
        self._release = anyio.Event()
        self._released = anyio.Event()

    async def release(self) -> None:
        """Leave the context, and wait until it is left."""
        self._release.set()
        await self._released.wait()

    async def keep(self) -> None:
        """Wait until the context is to be left."""
        await self._release.wait()

    def has_been_left(self) -> None:
        self._released.set()


async def hold(tasks: TaskGroup, context: AbstractAsyncContextManager[T]) -> Held[T]:
    """Enter a context in a task of that group. What entering it raises is raised here."""
    held: Held[T] = await tasks.start(_hold, context)
    return held


async def _hold(context: AbstractAsyncContextManager[T], *, task_status: TaskStatus[Held[T]]) -> None:
    held: Held[T] | None = None
    try:
        async with context as value:
            held = Held(value)
            task_status.started(held)
            await held.keep()
    except Exception:
        if held is None or not held.broken:
            raise
    finally:
        if held is not None:
            held.has_been_left()
