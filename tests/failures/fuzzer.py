"""Ride events, good and malformed ones, the same for the same seed."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.records import CONTENT_TYPE, FIELDS, JSON, MSGPACK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    Payload = tuple[bytes, Mapping[str, str]]

_JSON: Final = {CONTENT_TYPE: JSON}
_MSGPACK: Final = {CONTENT_TYPE: MSGPACK}
_FIELDS: Final = {CONTENT_TYPE: FIELDS}
_NOTHING: Final[dict[str, str]] = {}
_REQUIRED: Final = (
    "ride_id",
    "pickup_location_id",
    "dropoff_location_id",
    "trip_distance",
    "pickup_datetime",
)


def ride(random: Random, ride_id: str) -> dict[str, Any]:
    """A ride, as a producer has it."""
    return {
        "ride_id": ride_id,
        "pickup_location_id": random.randint(1, 263),
        "dropoff_location_id": random.randint(1, 263),
        "trip_distance": round(random.uniform(0.1, 30.0), 2),
        "pickup_datetime": f"2024-01-{random.randint(1, 31):02}T{random.randint(0, 23):02}:30:00",
        "passenger_count": random.choice([None, 1, 2, 5]),
    }


# Good ones, however unusual


def _plain(random: Random, event: dict[str, Any]) -> Payload:
    return msgspec.json.encode(event), _JSON


def _spaced_out_and_shuffled(random: Random, event: dict[str, Any]) -> Payload:
    members = list(event.items())
    random.shuffle(members)
    return json.dumps(dict(members), indent=4).encode(), _NOTHING


def _with_more_fields(random: Random, event: dict[str, Any]) -> Payload:
    more = {"vendor": "ünïcode \U0001f695", "nested": [[{"a": [1, None, True]}]] * 3, "huge": 10**30}
    return json.dumps({**more, **event}).encode(), _JSON


def _in_msgpack(random: Random, event: dict[str, Any]) -> Payload:
    return msgspec.msgpack.encode(event), _MSGPACK


def _in_flat_text(random: Random, event: dict[str, Any]) -> Payload:
    texts = {name: str(value) for name, value in event.items() if value is not None}
    return msgspec.json.encode(texts), _FIELDS


# Malformed ones


def _truncated(random: Random, event: dict[str, Any]) -> Payload:
    value = msgspec.json.encode(event)
    return value[: random.randrange(len(value))], _JSON


def _truncated_msgpack(random: Random, event: dict[str, Any]) -> Payload:
    value = msgspec.msgpack.encode(event)
    return value[: random.randrange(len(value))], _MSGPACK


def _nested(random: Random, event: dict[str, Any]) -> Payload:
    depth = random.randint(1, 5_000)
    opening, closing = random.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inside = msgspec.json.encode(event)
    return opening * depth + random.choice([b"", inside, inside + closing * depth]), _JSON


def _nested_in_a_field(random: Random, event: dict[str, Any]) -> Payload:
    depth = random.randint(1_200, 3_000)  # Python's own limit is 1,000
    return json.dumps(event).encode()[:-1] + b', "more": ' + b"[" * depth + b"]" * depth + b"}", _JSON


def _bad_utf8(random: Random, event: dict[str, Any]) -> Payload:
    bad = random.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
    return msgspec.json.encode({**event, "ride_id": "@"}).replace(b"@", bad), _JSON


def _other_encoding(random: Random, event: dict[str, Any]) -> Payload:
    text = json.dumps(event)
    return text.encode(random.choice(["utf-16", "utf-32", "utf-8-sig"])), _JSON


def _compressed(random: Random, event: dict[str, Any]) -> Payload:
    return gzip.compress(msgspec.json.encode(event), 1, mtime=0), _JSON


def _wrong_type(random: Random, event: dict[str, Any]) -> Payload:
    field = random.choice(_REQUIRED)
    wrong: list[Any] = [None, [], {}, [event], {"a": 1}, True]
    wrong += [12] if field == "ride_id" else ["twelve", "", "\x00", "NaN"]
    return msgspec.json.encode({**event, field: random.choice(wrong)}), _JSON


def _missing_field(random: Random, event: dict[str, Any]) -> Payload:
    gone = random.sample(_REQUIRED, random.randint(1, 5))
    return msgspec.json.encode({name: v for name, v in event.items() if name not in gone}), _JSON


def _huge_number(random: Random, event: dict[str, Any]) -> Payload:
    field, number = random.choice(
        [
            ("trip_distance", "1e999"),
            ("trip_distance", "-1e400"),
            ("trip_distance", "9" * 400),
            ("pickup_location_id", "9" * random.randint(10, 5_000)),
            ("dropoff_location_id", "-1"),
            ("dropoff_location_id", str(2**31)),
            ("passenger_count", "1.5"),
        ]
    )
    rest = {name: value for name, value in event.items() if name != field}
    return json.dumps(rest).encode()[:-1] + f', "{field}": {number}}}'.encode(), _JSON


def _no_json(random: Random, event: dict[str, Any]) -> Payload:
    value = json.dumps(event)
    malformed = [
        value.replace('"', "'"),
        value + "}",
        value + value,
        "," + value,
        value.replace(":", "=", 1),
        value.replace('"ride_id": "', '"ride_id": "\n', 1),
        value.replace('"ride_id": "', '"ride_id": "\\u12', 1)[:40],
        "NaN",
        "undefined",
        f"callback({value})",
    ]
    return random.choice(malformed).encode(), random.choice([_JSON, _NOTHING])


def _other_schema(random: Random, event: dict[str, Any]) -> Payload:
    others: list[Any] = [
        {"order_id": 7, "amount": "12.50"},
        [event],
        {"data": event},
        list(event.values()),
        "ride",
        17,
        None,
        True,
        {},
        [],
        {name.upper(): value for name, value in event.items()},
    ]
    return msgspec.json.encode(random.choice(others)), _JSON


def _other_format(random: Random, event: dict[str, Any]) -> Payload:
    if random.random() < 0.5:
        return msgspec.json.encode(event), _MSGPACK
    return msgspec.msgpack.encode(event), _JSON


def _noise(random: Random, event: dict[str, Any]) -> Payload:
    return random.randbytes(random.randint(0, 400)), random.choice([_JSON, _MSGPACK, _NOTHING, _FIELDS])


def _wrong_flat_text(random: Random, event: dict[str, Any]) -> Payload:
    texts = {name: str(value) for name, value in event.items() if value is not None}
    return msgspec.json.encode({**texts, random.choice(_REQUIRED[1:]): "n/a"}), _FIELDS


GOOD: Final[tuple[Callable[[Random, dict[str, Any]], Payload], ...]] = (
    _plain,
    _spaced_out_and_shuffled,
    _with_more_fields,
    _in_msgpack,
    _in_flat_text,
)
MALFORMED: Final[tuple[Callable[[Random, dict[str, Any]], Payload], ...]] = (
    _truncated,
    _truncated_msgpack,
    _nested,
    _nested_in_a_field,
    _bad_utf8,
    _other_encoding,
    _compressed,
    _wrong_type,
    _missing_field,
    _huge_number,
    _no_json,
    _other_schema,
    _other_format,
    _noise,
    _wrong_flat_text,
)
