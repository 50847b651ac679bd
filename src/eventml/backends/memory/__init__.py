"""The in-memory backend: topics, partitions and consumer groups in one process.

What it promises: records of one key in order; every record handled at least once while the process
lives; one output for one input; publishers held back when a group falls `retention` records behind.
What it does not: anything across processes, or past this one's end.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import msgspec

from eventml.backends.memory.hub import CAPABILITIES, Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.backends.base import Backend, Capabilities

__all__ = ["Settings", "capabilities", "new_hub", "open", "temporary"]

_HUBS: Final[dict[str, Hub]] = {}
# A name's hub lives as long as the process: a publish that returned is not lost by closing the bus.


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `memory://`.

    Attributes:
        partitions: How many partitions each topic has; a group's members share them.
        retention: How many records a topic keeps. Where a group has not finished them, publishers
            wait; where no group reads the topic, the oldest make room.
        publish_timeout: How long a publisher waits for room, in seconds, before `FullError`.
    """

    partitions: Annotated[int, msgspec.Meta(ge=1)] = 8
    retention: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    publish_timeout: Annotated[float, msgspec.Meta(gt=0)] = 30.0


def capabilities(_settings: Settings) -> Capabilities:
    """What holds, whatever the settings."""
    return CAPABILITIES


@asynccontextmanager
async def open(url: str, settings: Settings) -> AsyncIterator[Backend]:  # noqa: A001 - the seam's name for it
    """Reach the hub of that name (`memory://NAME`), which the whole process shares.

    The first to open a name decides its settings.
    """
    name = urlsplit(url).netloc
    yield _HUBS.setdefault(name, new_hub(settings))


@asynccontextmanager
async def temporary(url: str, settings: Settings) -> AsyncIterator[Hub]:
    """As `open`, for a test: the hub has that name while this is entered, and is forgotten after it."""
    name = urlsplit(url).netloc
    hub = _HUBS[name] = new_hub(settings)
    try:
        yield hub
    finally:
        del _HUBS[name]


def new_hub(settings: Settings | None = None) -> Hub:
    """A hub that nobody else can reach, for a test."""
    settings = settings or Settings()
    return Hub(settings.partitions, settings.retention, settings.publish_timeout)
