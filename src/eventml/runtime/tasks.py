"""Task groups whose errors come out as they went in."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """As `anyio.create_task_group`, but a single error leaves it bare and not in an ExceptionGroup.

    A user who writes `except PublishError` around `async with bus:` need not know that the bus has a
    task of its own. Several errors at once are still a group.
    """
    alone: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        alone = _only(group)
        if alone is None:
            raise
    if alone is not None:
        raise alone


def _only(error: BaseException) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        [error] = error.exceptions
    return error
