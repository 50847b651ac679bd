"""Rows to a producer: in chunks as they come, at a rate if one is asked for, the bad ones told apart."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.cli.output import print_message
from eventml.cli.rows import Bad, Row
from eventml.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

    from eventml.cli.pace import Pace
    from eventml.producer import BlockingProducer

_CHUNK: Final = (
    1_000  # events: no more than publish_many writes at once, so that an error's positions are ours
)
_TICK: Final = 0.05  # seconds between two chunks where a rate is asked for


class Tally(msgspec.Struct):
    """What has become of the rows so far.

    Attributes:
        topic: Where they go.
        published: Rows that the broker has.
        skipped: Rows that made no event, or that the broker refused; each was reported.
    """

    topic: str
    published: int = 0
    skipped: int = 0

    def skip(self, bad: Bad) -> None:
        self.skipped += 1
        print_message(f"line {bad.line}: {bad.reason}", "skipped")


def chunk_size(rate: float | None) -> int:
    """How many rows go out together at that many a second."""
    return _CHUNK if rate is None else max(1, min(_CHUNK, int(rate * _TICK)))


def chunks(
    rows: Iterable[Row | Bad], size: int, *, at_hand: Callable[[], bool], skip: Callable[[Bad], None]
) -> Iterator[list[Row]]:
    """Gather rows up to `size`, but hold none back while the next has yet to come."""
    chunk: list[Row] = []
    for row in rows:
        if isinstance(row, Bad):
            skip(row)
        else:
            chunk.append(row)
        if chunk and (len(chunk) >= size or not at_hand()):
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def send(
    producer: BlockingProducer,
    batches: Iterable[Sequence[Row]],
    tally: Tally,
    *,
    key: str | None,
    pace: Pace | None,
    sent: Callable[[], None],
) -> None:
    """Publish chunks of rows, and count them.

    Raises:
        BackendError: the broker cannot be reached, or has no room; what was counted is published.
    """
    for chunk in batches:
        if pace is not None:
            time.sleep(pace.wait(len(chunk), time.monotonic()))
        with _interrupt_held_back():
            _publish(producer, chunk, tally, _key_of(key))
        sent()


def _publish(
    producer: BlockingProducer, chunk: Sequence[Row], tally: Tally, key: Callable[[Any], str] | None
) -> None:
    try:
        producer.publish_many(tally.topic, [row.event for row in chunk], key=key)
    except PublishError as exc:
        if not exc.failed:
            raise
        for position, why in exc.failed.items():
            tally.skip(Bad(chunk[position].line, why))
        tally.published += len(chunk) - len(exc.failed)
    else:
        tally.published += len(chunk)


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Hear of SIGINT only after the block, so that what it does is counted; a second one ends it."""
    heard = False

    def hear(_number: int, _frame: FrameType | None) -> None:
        nonlocal heard
        if heard:
            raise KeyboardInterrupt
        heard = True

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


def _key_of(field: str | None) -> Callable[[Any], str] | None:
    return None if field is None else lambda event: str(event[field])
