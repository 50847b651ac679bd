"""Answering requests: what completes one also brings its reply, in the same step."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from eventml.backends.base import TrimsTopics
from eventml.codec import asks
from eventml.errors import (
    BackendError,
    ConfigError,
    EventMLError,
    FullError,
    PublishError,
    UnavailableError,
)
from eventml.runtime.failures import describe
from eventml.runtime.replies import RETENTION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventml.backends.base import Backend, Completion, Subscription
    from eventml.codec import Decoder
    from eventml.records import Delivery, Record
    from eventml.runtime.replies import Replies

log = logging.getLogger("eventml")

_SILENCE: Final = 5.0  # seconds without replies, once the broker has refused some
_TRIMMED_EVERY: Final = RETENTION / 4


class Replying:
    """A predictor's subscription that answers requests as it completes them.

    While no request is in hand, which the decoder notices once a producer, it passes everything on as
    it is. A reply that the broker refuses costs itself only: its input is completed without it.

    Args:
        subscription: The predictor's.
        decoder: Of its events: counts those that ask for a reply.
        replies: Makes the replies.
        backend: Trims the reply topic, where that takes somebody.
    """

    def __init__(
        self, subscription: Subscription, decoder: Decoder, replies: Replies, backend: Backend
    ) -> None:
        self._subscription = subscription
        self._decoder = decoder
        self._replies = replies
        self._trimming = backend if isinstance(backend, TrimsTopics) else None
        self._finished = 0
        self._silent_until = 0.0
        self._trimmed = -_TRIMMED_EVERY

    async def receive(self, limit: int) -> Sequence[Delivery]:
        return await self._subscription.receive(limit)

    async def lag(self) -> int | None:
        return await self._subscription.lag()

    async def complete(self, done: Sequence[Completion]) -> None:
        """As `Subscription.complete`, and reply to the requests among `done`."""
        if self._decoder.asked == self._finished:
            await self._subscription.complete(done)
            return
        asking = [p for p, completion in enumerate(done) if asks(completion.delivery.record.headers)]
        replies = {p: reply for p in asking if (reply := self._replies.reply(done[p])) is not None}
        try:
            await self._complete(done, replies if time.monotonic() >= self._silent_until else {})
        except PublishError as exc:
            if exc.failed:
                self._finished += sum(position not in exc.failed for position in asking)
            raise
        self._finished += len(asking)
        if replies:
            await self._trim()

    async def _complete(self, done: Sequence[Completion], replies: Mapping[int, Record]) -> None:
        if not replies:
            await self._subscription.complete(done)
            return
        try:
            await self._subscription.complete(
                [
                    replace(completion, outputs=(*completion.outputs, replies[position]))
                    if position in replies
                    else completion
                    for position, completion in enumerate(done)
                ]
            )
        except (UnavailableError, FullError):
            raise
        except (BackendError, ConfigError) as exc:  # ConfigError: not allowed to write there
            refused = exc.failed if isinstance(exc, PublishError) else {}
            await self._without_replies(done, replies, refused, exc)

    async def _without_replies(
        self,
        done: Sequence[Completion],
        replies: Mapping[int, Record],
        refused: Mapping[int, str],
        error: EventMLError,
    ) -> None:
        """Complete again what was refused, in case it was the reply that the broker would not have."""
        if not refused:
            self._silent_until = time.monotonic() + _SILENCE
        log.warning("replies to %s cannot be written: %s", self._replies.topic, describe(error))
        again = [p for p in replies if p in refused] if refused else list(range(len(done)))
        still = {p: why for p, why in refused.items() if p not in replies}
        try:
            await self._subscription.complete([done[position] for position in again])
        except PublishError as exc:
            if not exc.failed:
                raise
            still |= {again[number]: why for number, why in exc.failed.items()}
        if still:
            raise PublishError(next(iter(still.values())), still) from error

    async def _trim(self) -> None:
        if self._trimming is None or time.monotonic() < self._trimmed + _TRIMMED_EVERY:
            return
        self._trimmed = time.monotonic()
        try:
            await self._trimming.trim(self._replies.topic, older_than=RETENTION)
        except EventMLError as exc:
            log.warning("%s is not trimmed: %s", self._replies.topic, describe(exc))
