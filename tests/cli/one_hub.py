"""A backend for tests: it claims to be shared between processes, and commands in one process share it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from eventml.backends import memory
from eventml.errors import PublishError
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventml.backends.base import Backend, Capabilities, Start, Subscription


class Settings(msgspec.Struct, frozen=True):
    """Settings of the backend.

    Attributes:
        records: Number of records to publish to the topic `numbers` when it is opened.
        ordering: Ordering that its capabilities claim.
        creates: Whether topics must be created first.
    """

    records: int = 0
    ordering: str = "per_key"
    creates: bool = False


def capabilities(settings: Settings) -> Capabilities:
    best = memory.capabilities(memory.Settings())
    ordering: Any = settings.ordering
    return msgspec.structs.replace(best, shared=True, ordering=ordering)


class OneHub:
    """An in-memory hub that claims the ordering of the settings, and refuses values that contain `refuse`."""

    def __init__(self) -> None:
        self.hub = memory.Hub()
        self.ordering: Any = "per_key"
        self.groups: list[str | None] = []

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(self.hub.capabilities, shared=True, ordering=self.ordering)

    async def publish(self, records: Sequence[Record]) -> None:
        refused = {i: "too sensitive" for i, record in enumerate(records) if b"refuse" in record.value}
        await self.hub.publish([record for i, record in enumerate(records) if i not in refused])
        if refused:
            raise PublishError("some were refused", refused)

    def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AbstractAsyncContextManager[Subscription]:
        self.groups.append(group)
        return self.hub.subscribe(topics, group=group, start=start)

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        return await self.hub.lag(topic, group=group)


class Creating(OneHub):
    """A hub whose topics must be created first."""

    def __init__(self) -> None:
        super().__init__()
        self.created: dict[str, Any] = {}

    async def create_topics(self, topics: Sequence[Any]) -> list[str]:
        new = {topic.name: topic for topic in topics if topic.name not in self.created}
        self.created |= new
        return list(new)

    async def missing_topics(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self.created]


held: dict[str, OneHub] = {}


@asynccontextmanager
async def open(url: str, settings: Settings) -> AsyncIterator[Backend]:  # noqa: A001 - the seam's name for it
    """Open the hub of the URL, which lasts as long as the process or its test."""
    hub = held.setdefault(url, Creating() if settings.creates else OneHub())
    hub.ordering = settings.ordering
    await hub.publish(
        [Record("numbers", b"%d" % number, id=str(number)) for number in range(settings.records)]
    )
    yield hub
