"""Counting the records in a stretch of a log: offsets are no count where transactions write.

A transaction leaves a mark at an offset of its own, an aborted one its records as well, and compaction
and retention take records away. A stretch is read and counted where it is short. A long one is read
only if transactions were seen in it, and then so far and no further: the brokers do not tell how many
offsets are records, and reading a whole backlog would cost as much as working it off.
"""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from eventml.backends.kafka.reading import records, transactional

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiokafka import TopicPartition

    from eventml.backends.kafka.observer import Observer
    from eventml.backends.kafka.progress import Ranges

_OFFSET: Final = attrgetter("offset")
_SHORT: Final = 256  # offsets that are always read
_LOOK: Final = 65_536  # bytes of a partition at first
_STEP: Final = 1_048_576  # and then
_MOST: Final = 4  # steps
_HOLDS: Final = 10.0  # seconds for which a log that was seen without transactions is taken to be so


class Stretch:
    """What is known of the offsets from one to another.

    Attributes:
        end: Where it ends.
        upto: It is known up to here.
        holes: The offsets among those that are no records.
        torn: A transaction was seen, or a hole.
    """

    def __init__(self, start: int, end: int) -> None:
        self.end = end
        self.upto = start
        self.torn = False
        self._holes: list[tuple[int, int]] = []

    @property
    def known(self) -> bool:
        return self.upto >= self.end

    @property
    def holes(self) -> Ranges:
        return tuple(self._holes)

    def saw(self, offsets: Iterable[int], upto: int) -> None:
        """Note the records from where it is known so far up to `upto`, in rising order."""
        for offset in (*offsets, upto):
            if offset > self.upto:
                self._holes.append((self.upto, offset))
                self.torn = True
            self.upto = offset + 1
        self.upto = upto


class Counting:
    """Finds the holes in stretches of logs.

    Args:
        observer: Reads them.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._whole: dict[TopicPartition, float] = {}  # when they were last seen without transactions

    async def holes(
        self, spans: Mapping[TopicPartition, tuple[int, int]]
    ) -> dict[TopicPartition, Ranges | None]:
        """The holes from the first to the second of these offsets, by partition; None if there are too many.

        Of a long stretch the beginning and the last batch are looked at. If neither knows of a
        transaction there are taken to be none.

        Raises:
            UnavailableError: no answer.
        """
        stretches = {p: Stretch(start, end) for p, (start, end) in spans.items()}
        now = time.monotonic()
        looked_at = {
            p: stretch
            for p, stretch in stretches.items()
            if stretch.end - stretch.upto <= _SHORT or now - self._whole.get(p, -_HOLDS) >= _HOLDS
        }
        await self._read(looked_at, _LOOK)
        await self._look_at_ends({p: s for p, s in looked_at.items() if not s.known and not s.torn})
        for _ in range(_MOST):
            await self._read({p: s for p, s in stretches.items() if s.torn and not s.known}, _STEP)
        self._whole |= {p: now for p, stretch in looked_at.items() if not stretch.torn}
        for p in [p for p, stretch in stretches.items() if stretch.torn]:
            self._whole.pop(p, None)
        return {p: None if s.torn and not s.known else s.holes for p, s in stretches.items()}

    async def _read(self, stretches: Mapping[TopicPartition, Stretch], size: int) -> None:
        """Read on, about so many bytes of each."""
        todo = {p: stretch.upto for p, stretch in stretches.items() if not stretch.known}
        fetched = await self._observer.fetch(todo, size)
        begins = await self._observer.offsets(
            [p for p, found in fetched.items() if found is None], "earliest"
        )
        for partition, found in fetched.items():
            stretch = stretches[partition]
            if found is None:  # retention has overtaken it
                stretch.saw((), max(begins[partition], stretch.upto))
            else:
                stretch.torn = stretch.torn or transactional(found)
                stretch.saw(*records(partition, found, stretch.upto, _OFFSET))

    async def _look_at_ends(self, stretches: Mapping[TopicPartition, Stretch]) -> None:
        fetched = await self._observer.fetch({p: stretch.end - 1 for p, stretch in stretches.items()}, 1)
        for partition, found in fetched.items():
            stretches[partition].torn = found is not None and transactional(found)
