"""Keeping topics short: by what all groups have finished, or by a cap that says what it cost."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from eventml.backends.redis.replies import checked
from eventml.backends.redis.scripts import CAP, TRIM
from eventml.errors import BackendError

if TYPE_CHECKING:
    from eventml.backends.redis.link import Link
    from eventml.backends.redis.losses import Losses
    from eventml.backends.redis.settings import Settings

log = logging.getLogger("eventml.redis")

_TRIMMED: Final = 10_000  # entries removed by one call at most, some 2 ms
_CAPPED: Final = 1_000  # the same where each is looked at
_SLACK: Final = 100  # entries: a stream's nodes hold as many


class Retention:
    """Applies the settings `retention` and `max_length`.

    Args:
        settings: What they say.
        losses: Where what `max_length` cost is counted.
    """

    def __init__(self, settings: Settings, losses: Losses) -> None:
        self._keep = settings.retention
        self._cap = settings.max_length
        self._losses = losses
        self._written: Counter[str] = Counter()

    async def trim(self, link: Link, topic: str) -> None:
        """Remove what every group has finished and is old enough.

        Raises:
            BackendError: the server cannot be reached, or refuses.
        """
        if self._keep is None:
            return
        bound = f"{int((time.time() - self._keep) * 1000)}-0"
        removed = _TRIMMED
        while removed >= _TRIMMED // 2:
            [removed] = checked(
                await TRIM.run(link, [TRIM.call([topic], (bound, _TRIMMED))]), f"trimming {topic!r}"
            )

    def wrote(self, topic: str, records: int) -> bool:
        """Note that records were added. Returns whether it is time to look at the topic's length."""
        if self._cap is None:
            return False
        self._written[topic] += records
        return self._written[topic] > min(_SLACK, self._cap)

    async def cap(self, link: Link, topic: str) -> None:
        """Cut the topic down to `max_length`, and count what that cost.

        A failure is logged, and made good with the next cut: what was written is written.
        """
        self._written.pop(topic, None)
        try:
            await self._cut(link, topic)
        except BackendError as exc:
            log.warning("backend.max_length: %s", exc)

    async def _cut(self, link: Link, topic: str) -> None:
        removed = _CAPPED
        while removed >= _CAPPED:
            [[removed, unread]] = checked(
                await CAP.run(link, [CAP.call([topic], (self._cap or 0, _CAPPED))]), f"capping {topic!r}"
            )
            if unread:
                self._losses.unread += unread
                log.warning(
                    "backend.max_length cut %d entries of %r that a group had not been given yet; it will "
                    "never see them",
                    unread,
                    topic,
                )
