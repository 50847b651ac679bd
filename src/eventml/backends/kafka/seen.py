"""The ids that a group finished last in one partition, and which of them are written down where.

They are written in slots, a record of a compacted topic each, that holds the ids of one commit. A slot
of which no id is remembered any more is crossed out, and the broker drops it: so the topic stays as
small as what is remembered. It is pure; whoever writes tells it what was written.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import count
from secrets import token_hex
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_UNWRITTEN: Final = b""
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


class Entry(NamedTuple):
    """What is to be written: slots by their names, None for one that is crossed out.

    Attributes:
        slots: What each of them holds.
        ids: Which id is in which of them, and what it was when this was made up.
    """

    slots: Mapping[bytes, bytes | None]
    ids: Mapping[str, tuple[bytes, int]]


class Seen:
    """The last ids that were finished in a partition.

    Args:
        within: How many.
        largest: How many characters of ids go into a slot.
    """

    def __init__(self, within: int, largest: int) -> None:
        self._within = within
        self._largest = largest
        self._ids: OrderedDict[str, tuple[bytes, int]] = OrderedDict()  # the slot, and when it was finished
        self._slots: Counter[bytes] = Counter()  # how many of its ids are remembered
        self._unwritten: dict[str, None] = {}
        self._dead: dict[bytes, None] = {}
        self._time = count()
        self._name = token_hex(6)  # a former owner may be writing still
        self._number = count()

    def __contains__(self, id_: str) -> bool:
        return id_ in self._ids

    def load(self, slot: bytes, held: bytes | None) -> None:
        """Take in what was written, in its order."""
        if held is None:
            self._dead.pop(slot, None)
            return
        for raw in _decode(held):
            self._add(raw.decode(errors="surrogateescape"), slot)
        self._bury_if_empty(slot)

    def finish(self, id_: str) -> None:
        """This one is the last that was finished. It is not written yet."""
        self._unwritten.pop(id_, None)
        self._unwritten[id_] = None
        self._add(id_, _UNWRITTEN)

    def entry(self, more: Iterable[str] = ()) -> Entry | None:
        """What is to be written, with `more` ids as if they were finished; None if there is nothing."""
        slots: dict[bytes, bytes | None] = dict.fromkeys(self._dead)
        ids: dict[str, tuple[bytes, int]] = {}
        fresh = {**self._unwritten, **dict.fromkeys(more)}
        for some in _parts(fresh, self._largest):
            slot = f"{self._name}-{next(self._number)}".encode()
            slots[slot] = _encode([id_.encode(errors="surrogateescape") for id_ in some])
            for id_ in some:
                ids[id_] = slot, self._ids.get(id_, (_UNWRITTEN, -1))[1]
        return Entry(slots, ids) if slots else None

    def written(self, entry: Entry) -> None:
        """That was written. An id that was finished once more meanwhile has to be written again."""
        for id_, (slot, when) in entry.ids.items():
            if self._ids.get(id_) == (_UNWRITTEN, when):
                self._unwritten.pop(id_, None)
                self._ids[id_] = slot, when
                self._slots[slot] += 1
        self._note(entry)

    def finished_with(self, entry: Entry) -> None:
        """That was written, in one step with the finishing of the ids in it."""
        for id_, (slot, _) in entry.ids.items():
            self._add(id_, slot)
        self._note(entry)

    def _note(self, entry: Entry) -> None:
        for slot, held in entry.slots.items():
            if held is None:
                self._dead.pop(slot, None)
            else:
                self._bury_if_empty(slot)

    def _add(self, id_: str, slot: bytes) -> None:
        self._forget(id_)
        self._ids[id_] = slot, next(self._time)
        if slot != _UNWRITTEN:
            self._slots[slot] += 1
            self._dead.pop(slot, None)
        while len(self._ids) > self._within:
            oldest = next(iter(self._ids))
            self._forget(oldest)
            self._unwritten.pop(oldest, None)

    def _forget(self, id_: str) -> None:
        slot, _ = self._ids.pop(id_, (_UNWRITTEN, -1))
        if slot != _UNWRITTEN:
            self._slots[slot] -= 1
            self._bury_if_empty(slot)

    def _bury_if_empty(self, slot: bytes) -> None:
        if not self._slots[slot]:
            del self._slots[slot]
            self._dead[slot] = None


def _parts(ids: Iterable[str], largest: int) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for id_ in ids:
        if part and size + len(id_) > largest:
            yield part
            part, size = [], 0
        part.append(id_)
        size += len(id_)
    if part:
        yield part
