"""Sources: reading goes on behind every position, for each kind of source."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventml.deploy.batch.job import open_source
from eventml.deploy.batch.locations import parse_location
from eventml.deploy.batch.output_columns import as_list
from tests.batch.conftest import SOURCES, rides, write


@pytest.mark.parametrize("place", SOURCES)
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_reading_goes_on_behind_every_position(place: str, size: int) -> None:
    write(place, rides(100))
    source = open_source(parse_location(place, option="--from"), "ride_id")
    wanted = ["ride_id", "distance"]

    def read(after: Any) -> list[Any]:
        chunks = list(source.chunks(wanted, rows=size, after=after))
        assert all(len(chunk) <= size for chunk in chunks)
        return [
            (msgspec.json.decode(msgspec.json.encode(chunk.position)), row)
            for chunk in chunks
            for row in chunk.lines or zip(*map(as_list, chunk.columns.values()), strict=True)
        ]

    whole = read(None)
    assert len(whole) == 100
    for position in {str(after): after for after, _ in whole}.values():
        behind = [row for after, row in whole[[a for a, _ in whole].index(position) :] if after != position]
        assert [row for _, row in read(position)] == behind
    source.close()
