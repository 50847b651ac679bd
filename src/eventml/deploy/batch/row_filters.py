"""Rows that are not scored: those with the id of an earlier row, and those whose prediction is to be kept."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from anyio import from_thread

from eventml.deploy.batch.chunks import DUPLICATE_ID, RejectedRow, RowChunk, Source, normalize_ids
from eventml.deploy.batch.output_columns import Values, as_list
from eventml.deploy.batch.row_decoding import RowDecoder, row_texts
from eventml.errors import SourceError


def find_duplicates(source: Source, decoder: RowDecoder, rows: int) -> dict[str, str]:
    """Return, by label, each row of a file that has the id of an earlier row, and the label of that row.

    The ids are read once, and again if two of their hashes are equal. It runs in a worker thread of anyio.
    """
    import pyarrow as pa  # noqa: PLC0415 - it comes with an extra, and is installed if a job runs
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    hashes = array("q")
    for chunk in _chunks(source, rows):
        hashes.extend(map(hash, decoder.ids(chunk)))
    ordered = pa.Array.from_buffers(pa.int64(), len(hashes), [None, pa.py_buffer(hashes)]).sort()
    repeated = set(ordered[1:].filter(pc.equal(ordered[1:], ordered[:-1])).to_pylist())
    labels: dict[str, list[str]] = {}
    for chunk in _chunks(source, rows) if repeated else ():
        for number, one in enumerate(decoder.ids(chunk)):
            if one is not None and hash(one) in repeated:
                labels.setdefault(one, []).append(chunk.label(number))
    return {label: first for first, *others in labels.values() for label in others}


def _chunks(source: Source, rows: int) -> Iterator[RowChunk]:
    """The chunks up to the first that cannot be read: the run ends there too, after the rows before it."""
    with suppress(SourceError):
        for chunk in source.chunks([], rows=rows, after=None):
            from_thread.check_cancelled()
            yield chunk


class DuplicateFilter:
    """Rejects the rows that `find_duplicates` has found; for None, those with the id of the row before."""

    def __init__(self, decoder: RowDecoder, found: Mapping[str, str] | None) -> None:
        self._ids = decoder.ids
        self._found = found
        self._last: str | None = None

    def __call__(self, chunk: RowChunk) -> RowChunk:
        if self._found == {}:
            return chunk
        ids, row, rejected, rest = self._ids(chunk), row_texts(chunk), [*chunk.rejected], []
        for number, one in enumerate(ids):
            if self._found is None:
                earlier = "the row before" if one is not None and one == self._last else None
                self._last = one
            else:
                earlier = self._found.get(chunk.label(number))
            if earlier is None:
                rest.append(number)
            else:
                reason = f"{chunk.label(number)} has the id of {earlier}; only the first of them is scored"
                rejected.append(RejectedRow(str(one), DUPLICATE_ID, reason, row(number)))
        whole = len(rest) == len(ids)
        return chunk if whole else msgspec.structs.replace(chunk.take(rest), rejected=rejected)


def drop_known(chunk: RowChunk, known: Callable[[Values], set[Any]]) -> RowChunk:
    """Return the chunk without the rows that the target knows.

    The ids of JSON lines are not known before they are decoded, so nothing is dropped there.
    """
    if chunk.lines is not None or not len(chunk.ids):
        return chunk
    ids = normalize_ids(chunk.ids)[0]
    there = known(ids)
    if not there:
        return chunk
    left = [number for number, one in enumerate(as_list(ids)) if one not in there]
    return msgspec.structs.replace(chunk.take(left), known=len(ids) - len(left))
