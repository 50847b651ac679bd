"""The in-memory backend: topics, partitions and consumer groups in one process.

It promises: records of one key in order; every record handled at least once while the process lives; one
output for one input; publishers wait when a group's lag reaches `retention` records. It promises nothing
across processes or after the end of this one.

Read `hub.py` (the backend: locking and waiting), then the state it guards: `topic.py`, `group.py`,
`partition.py`. Imports `backends.base`, `records` and `errors` only.
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
# A hub lives as long as the process, so that closing the bus loses nothing that was published.


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `memory://`.

    Attributes:
        partitions: Partitions of each topic; a group's members share them.
        retention: Records that a topic keeps. Publishers wait while a group has not finished them; without
            a group the oldest are dropped.
        publish_timeout: Seconds that a publisher waits for room before `FullError`.
    """

    partitions: Annotated[int, msgspec.Meta(ge=1)] = 8
    retention: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    publish_timeout: Annotated[float, msgspec.Meta(gt=0)] = 30.0


def capabilities(_settings: Settings) -> Capabilities:
    """The capabilities; they do not depend on the settings."""
    return CAPABILITIES


@asynccontextmanager
async def open(url: str, settings: Settings) -> AsyncIterator[Backend]:  # noqa: A001 - the seam's name for it
    """The hub of that name (`memory://NAME`), shared by the whole process.

    The settings of the first to open a name apply.
    """
    name = urlsplit(url).netloc
    yield _HUBS.setdefault(name, new_hub(settings))


@asynccontextmanager
async def temporary(url: str, settings: Settings) -> AsyncIterator[Hub]:
    """A new hub that has this name while the context is entered; for tests."""
    name = urlsplit(url).netloc
    hub = _HUBS[name] = new_hub(settings)
    try:
        yield hub
    finally:
        del _HUBS[name]


def new_hub(settings: Settings | None = None) -> Hub:
    """A new hub without a name; for tests."""
    settings = settings or Settings()
    return Hub(settings.partitions, settings.retention, settings.publish_timeout)
