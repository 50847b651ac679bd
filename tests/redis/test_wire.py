"""The wire format: records come back as they were, and foreign entries are decoded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventml
from eventml.backends import redis
from eventml.backends.redis.errors import ErrorReply
from eventml.backends.redis.publishing import errors_of, pack_write, split_writes
from eventml.backends.redis.wire import (
    _encoded,
    add_commands,
    decode_entries,
    decode_headers,
    encode_headers,
)
from eventml.records import CONTENT_TYPE, FIELDS, Record, foreign_id
from tests.redis import scene

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backends.redis.server import RedisServer

NAMES = st.one_of(
    st.sampled_from(
        ["ce_type", "ce_", "ce_headers", "ce_datacontenttype", "content-type", "headers", "meta"]
    ),
    st.text(max_size=8),
)
HEADERS = st.dictionaries(NAMES, st.text(max_size=8), max_size=6)
RECORDS = st.tuples(
    st.just("topic"), st.binary(max_size=20), st.none() | st.binary(max_size=8), st.text(max_size=8), HEADERS
).map(lambda parts: Record(*parts))


@given(HEADERS)
def test_headers_come_back(headers: Mapping[str, str]) -> None:
    meta = encode_headers(headers)
    assert dict(decode_headers(meta) if meta else {}) == headers


@given(st.binary(max_size=40))
def test_any_meta_can_be_decoded(meta: bytes) -> None:
    headers = decode_headers(meta)
    assert all(isinstance(text, str) for item in headers.items() for text in item)
    msgspec.json.encode(dict(headers))


def test_cloudevents_attributes_have_their_own_names() -> None:
    headers = {"ce_specversion": "1.0", "ce_type": "ride", "content-type": "application/json", "x-note": "ü"}
    assert json.loads(encode_headers(headers)) == {
        "specversion": "1.0",
        "type": "ride",
        "datacontenttype": "application/json",
        "headers": {"x-note": "ü"},
    }


@given(st.lists(RECORDS, max_size=12))
def test_records_come_back(records: list[Record]) -> None:
    for part in split_writes(records, range(len(records))):
        some = [records[number] for number in part]
        packed, expected = pack_write(add_commands(some))
        commands = parse(packed)
        assert len(commands) == expected
        adds = [command for command in commands if command[0] == b"XADD"]
        entries = [(b"%d-7" % number, command[3:]) for number, command in enumerate(adds)]
        for record, delivery in zip(some, decode_entries("topic", entries), strict=True):
            wanted = record.id or foreign_id("topic", 0, delivery.offset)
            assert delivery.record == msgspec.structs.replace(record, id=wanted)


def parse(packed: bytes) -> list[list[bytes]]:
    """Commands, as the server takes them apart."""
    commands = []
    while packed:
        assert packed[:1] == b"*"
        count, packed = packed[1:].split(b"\r\n", 1)
        command = []
        for _ in range(int(count)):
            assert packed[:1] == b"$"
            length, packed = packed[1:].split(b"\r\n", 1)
            command.append(packed[: int(length)])
            assert packed[int(length) : int(length) + 2] == b"\r\n"
            packed = packed[int(length) + 2 :]
        commands.append(command)
    return commands


@given(st.lists(st.sampled_from([0, 1, 1_000_000, 3_999_999, 4_000_000, 9_000_000]), max_size=30))
def test_writes_are_bounded_and_leave_nothing_out(sizes: list[int]) -> None:
    values = {size: bytes(size) for size in set(sizes)}
    records = [Record("topic", values[size]) for size in sizes]
    positions = list(range(0, len(sizes), 2))
    parts = list(split_writes(records, positions))
    assert [number for part in parts for number in part] == positions
    for part in parts:
        assert len(part) == 1 or sum(sizes[number] for number in part) <= 4_000_000
    assert all(len(part) <= 1_000 for part in split_writes([Record("topic", b"")] * 2_500, range(2_500)))


@pytest.mark.parametrize(
    ("replies", "wanted"),
    [
        ([b"1-1"], [None]),
        ([ErrorReply("OOM no")], ["OOM no"]),
        ([b"OK", b"QUEUED", b"QUEUED", [b"1-1", b"1-2"]], [None, None]),
        ([b"OK", b"QUEUED", b"QUEUED", [b"1-1", ErrorReply("WRONGTYPE")]], [None, "WRONGTYPE"]),
        (
            [b"OK", b"QUEUED", ErrorReply("NOPERM"), ErrorReply("EXECABORT since")],
            ["EXECABORT since", "NOPERM"],
        ),
        (
            [ErrorReply("NOPERM multi"), b"1-1", ErrorReply("OOM no"), ErrorReply("ERR EXEC without MULTI")],
            [None, "OOM no"],
        ),
    ],
)
def test_the_error_of_each_record_of_a_write(replies: list[Any], wanted: list[str | None]) -> None:
    found = errors_of(replies)
    assert [None if reply is None else str(reply) for reply in found] == wanted


def test_headers_are_shared_between_records() -> None:
    meta = encode_headers({"ce_type": "x"})
    entries = [(b"%d-1" % n, [b"data", b"1", b"id", b"i", b"meta", meta]) for n in range(3)]
    first, second, third = decode_entries("t", entries)
    assert first.record.headers is second.record.headers is third.record.headers


def test_large_headers_stay_in_no_cache() -> None:
    """Strangers choose how large they are."""
    decode_headers.cache_clear()
    _encoded.clear()
    for number in range(20):
        headers = {"note": f"{number}" * 10_000}
        add_commands([Record("t", b"", None, "1", headers)])
        fields = [b"data", b"", b"id", b"1", b"meta", encode_headers(headers)]
        [found] = decode_entries("t", [(b"1-0", fields)])
        assert found.record.headers == headers
    assert not decode_headers.cache_info().currsize
    assert not _encoded


def test_times_are_those_of_the_entries() -> None:
    entries = [
        (b"1700000000123-4", [b"data", b""]),
        (b"5-0", [b"data", b""]),
        (b"17000000001234-0", [b"a", b""]),
    ]
    times = [delivery.timestamp for delivery in decode_entries("t", entries)]
    assert times == [1_700_000_000.123, 0.005, 17_000_000_001.234]


@pytest.mark.parametrize(
    ("fields", "record"),
    [
        ([b"data", b"7"], Record("t", b"7", None, "t/0/5-1")),
        ([b"data", b"7", b"id", b"x"], Record("t", b"7", None, "x")),
        ([b"data", b"7", b"id", b""], Record("t", b"7", None, "t/0/5-1")),
        ([b"key", b"k", b"data", b"7"], Record("t", b"7", b"k", "t/0/5-1")),
        ([b"data", b"7", b"colour", b"red"], Record("t", b"7", None, "t/0/5-1", {"colour": "red"})),
        ([b"data", b"7", b"meta", b"junk"], Record("t", b"7", None, "t/0/5-1", {"meta": "junk"})),
        ([b"data", b"7", b"id", b"\xff"], Record("t", b"7", None, "\\xff")),
        (
            [b"ride_id", b"7", b"trip_distance", b"2.5"],
            Record("t", b'{"ride_id":"7","trip_distance":"2.5"}', None, "t/0/5-1", {CONTENT_TYPE: FIELDS}),
        ),
        ([b"\xff", b"\xfe"], Record("t", rb'{"\\xff":"\\xfe"}', None, "t/0/5-1", {CONTENT_TYPE: FIELDS})),
    ],
)
def test_foreign_entries(fields: list[bytes], record: Record) -> None:
    [delivery] = decode_entries("t", [(b"5-1", fields)])
    assert delivery.record == record


class Ride(msgspec.Struct):
    ride_id: str
    pickup_location_id: int
    trip_distance: float


class Duration(msgspec.Struct):
    ride_id: str
    minutes: float


@pytest.mark.anyio
@pytest.mark.redis
async def test_a_foreign_producer_gets_predictions_that_a_person_can_read(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    bus = eventml.Bus("rides")

    def duration(rides: list[Ride]) -> list[Duration]:
        return [Duration(ride.ride_id, ride.trip_distance * 2 + ride.pickup_location_id) for ride in rides]

    bus.predictor(topic, to=to, name="duration")(duration)
    async with (
        scene.asking(redis_server.url) as client,
        scene.working(bus, redis_server.url, redis.Settings()) as worker,
    ):
        whole = b'{"ride_id":"7","pickup_location_id":1,"trip_distance":2.5}'
        first = await client.xadd(topic, {"data": whole})
        second = await client.xadd(topic, {"ride_id": 8, "pickup_location_id": 2, "trip_distance": "3.5"})
        await scene.until(lambda: worker.stats["duration"].completed == 2, "not predicted")
        entries = [fields for _, fields in await client.xrange(to)]
    assert [fields[b"data"] for fields in entries] == [
        b'{"ride_id":"7","minutes":6.0}',
        b'{"ride_id":"8","minutes":9.0}',
    ]
    assert [fields[b"id"].decode() for fields in entries] == [
        f"{topic}/0/{id_.decode()}/duration" for id_ in (first, second)
    ]
    assert json.loads(entries[0][b"meta"]) == {
        "specversion": "1.0",
        "type": to,
        "source": "rides",
        "datacontenttype": "application/json",
        "predictor": "duration",
    }
    assert list(entries[0]) == [b"data", b"id", b"meta"]
