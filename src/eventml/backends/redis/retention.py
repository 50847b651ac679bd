"""Keeping topics short: the settings `retention` and `max_length`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from eventml.backends.redis.connection import Client, pack
from eventml.backends.redis.errors import check_replies
from eventml.backends.redis.scripts import CAP, TRIM
from eventml.backends.redis.servers import Counters
from eventml.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("eventml.redis")

_TRIM_AT_ONCE: Final = 10_000  # entries removed by one call at most; takes some 2 ms
_CAP_AT_ONCE: Final = 1_000  # the same where the script looks at each entry
_SLACK: Final = 100  # entries: as many as a node of a stream holds
_EXPIRE_AFTER: Final = 3_600  # seconds


async def trim_finished(client: Client, topic: str, keep: float) -> None:
    """Remove the entries that every group has finished and that are at least `keep` seconds old.

    Raises:
        BackendError: the server cannot be reached, or refuses.
    """
    bound = f"{int((time.time() - keep) * 1000)}-0"
    removed = _TRIM_AT_ONCE
    while removed >= _TRIM_AT_ONCE // 2:
        calls = [TRIM.call([topic], (bound, _TRIM_AT_ONCE))]
        [removed] = check_replies(await TRIM.run(client, calls), f"trimming {topic!r}")


async def trim_old(client: Client, topic: str, older_than: float) -> None:
    """Remove the entries that are at least so many seconds old, whether groups have finished them or not.

    The stream is deleted once it has not been trimmed for an hour.

    Raises:
        BackendError: the server cannot be reached, or refuses.
    """
    oldest = int((time.time() - older_than) * 1000)
    commands = pack("XTRIM", topic, "MINID", oldest) + pack("EXPIRE", topic, _EXPIRE_AFTER)
    check_replies(await client.request(commands, 2), f"trimming {topic!r}")


class LengthCap:
    """Holds the topics that are written to at `max_length` entries, and counts what groups lose by it.

    Args:
        max_length: The setting; None is no limit.
        counters: Where entries that a group had not read are counted.
    """

    def __init__(self, max_length: int | None, counters: Counters) -> None:
        self._max_length = max_length
        self._counters = counters
        self._added: Counter[str] = Counter()

    async def added(self, client: Client, topics: Iterable[str]) -> None:
        """Cut topics that are due for it, after entries were added to them.

        A failure is logged, and the next cut makes up for it.

        Args:
            client: A client of the server that has the topics.
            topics: The topic of each entry.
        """
        if self._max_length is None:
            return
        for topic, count in Counter(topics).items():
            self._added[topic] += count
            if self._added[topic] > min(_SLACK, self._max_length):
                del self._added[topic]
                try:
                    await self._cut(client, topic, self._max_length)
                except BackendError as exc:
                    log.warning("backend.max_length: %s", exc)

    async def _cut(self, client: Client, topic: str, max_length: int) -> None:
        removed = _CAP_AT_ONCE
        while removed >= _CAP_AT_ONCE:
            calls = [CAP.call([topic], (max_length, _CAP_AT_ONCE))]
            [[removed, unread]] = check_replies(await CAP.run(client, calls), f"capping {topic!r}")
            if unread:
                self._counters.unread += unread
                log.warning(
                    "backend.max_length removed %d entries of %r that a group had not read; the group has "
                    "lost them",
                    unread,
                    topic,
                )
