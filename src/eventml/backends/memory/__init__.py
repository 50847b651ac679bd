"""The in-memory backend: topics, partitions and consumer groups in one process.

It promises: records of one key in order; every record handled at least once while the process lives; one
output for one input; publishers wait when a group's lag reaches `retention` records. It promises nothing
across processes or after the end of this one.

Read `hub.py` (the backend: settings, locking and waiting), then the state that it guards: `topic.py` (records
and what each group has in flight) and `group.py` (members and their partitions). Imports `backends.base`,
`records` and `errors` only.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from eventml.backends.base import Backend
from eventml.backends.memory.hub import Hub, Settings, capabilities

__all__ = ["Hub", "Settings", "capabilities", "open", "temporary"]

_HUBS: Final[dict[tuple[int, str], Hub]] = {}
# A hub lives as long as the process, so that closing the bus loses nothing that was published. A fork copies
# it with locks that are held and members that are not there: a forked process has hubs of its own.


@asynccontextmanager
async def open(url: str, settings: Settings) -> AsyncIterator[Backend]:  # noqa: A001 - the seam's name for it
    """The hub of that name (`memory://NAME`), shared by the whole process, but not with one forked from it.

    The settings of the first to open a name apply.
    """
    yield _HUBS.setdefault((os.getpid(), urlsplit(url).netloc), Hub(settings))


@asynccontextmanager
async def temporary(url: str, settings: Settings) -> AsyncIterator[Hub]:
    """A new hub that has this name while the context is entered; for tests."""
    name = os.getpid(), urlsplit(url).netloc
    hub = _HUBS[name] = Hub(settings)
    try:
        yield hub
    finally:
        del _HUBS[name]
