"""Output of commands: deliveries as JSON lines whatever they hold."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.console import delivery_to_json
from eventml.records import CONTENT_TYPE, JSON, MSGPACK, Delivery, Record

HEADERS = st.dictionaries(st.text(max_size=5), st.text(st.characters(), max_size=5))


def to_json(
    value: bytes, key: bytes | None = None, timestamp: float = 0.0, **headers: str
) -> dict[str, object]:
    record = Record("t", value, key, "1", {name.replace("_", "-"): text for name, text in headers.items()})
    found: dict[str, object] = json.loads(delivery_to_json(Delivery(record, 0, 0, timestamp)))
    return found


@given(
    st.binary(),
    st.none() | st.binary(),
    st.text(),
    HEADERS,
    st.floats(),
    st.sampled_from(["", JSON, MSGPACK]),
)
def test_every_delivery_is_one_line_of_json(
    value: bytes, key: bytes | None, id_: str, headers: dict[str, str], timestamp: float, content_type: str
) -> None:
    record = Record("t", value, key, id_, {**headers, CONTENT_TYPE: content_type})
    line = delivery_to_json(Delivery(record, 0, 0, timestamp))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert list(json.loads(line)) == ["topic", "key", "id", "time", "headers", "value"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_value_is_unchanged(value: object) -> None:
    assert to_json(json.dumps(value, indent=1).encode())["value"] == value
    assert to_json(msgspec.json.encode(value), content_type=JSON)["value"] == value


def test_messagepack_value_is_decoded() -> None:
    assert to_json(msgspec.msgpack.encode({"n": [1, None]}), content_type=MSGPACK)["value"] == {
        "n": [1, None]
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"plain text", "plain text"),
        (b"", ""),
        (b"1e999", "1e999"),
        (b"[" * 100_000, "[" * 100_000),
        (b"\xff\x00", {"base64": base64.b64encode(b"\xff\x00").decode()}),
    ],
)
def test_other_values_are_text_or_base64(value: bytes, expected: object) -> None:
    assert to_json(value)["value"] == expected


def test_messagepack_value_that_json_cannot_hold_is_base64() -> None:
    value = msgspec.msgpack.encode({(1, 2): 3})
    assert to_json(value, content_type=MSGPACK)["value"] == {"base64": base64.b64encode(value).decode()}


@given(st.text().filter(bool))
def test_key_is_text(key: str) -> None:
    assert to_json(b"1", key.encode())["key"] == key


def test_key_that_is_not_text_is_base64_and_no_key_is_null() -> None:
    assert to_json(b"1", b"\xff")["key"] == {"base64": "/w=="}
    assert to_json(b"1")["key"] is None


@given(st.integers(0, 4_000_000_000_000))
def test_time_is_utc_to_the_millisecond(milliseconds: int) -> None:
    text = str(to_json(b"1", timestamp=milliseconds / 1000)["time"])
    assert text.endswith("Z")
    assert (
        abs(datetime.fromisoformat(text) - datetime.fromtimestamp(milliseconds / 1000, UTC)).total_seconds()
        <= 1e-3
    )


@pytest.mark.parametrize("timestamp", [float("nan"), float("inf"), 1e18])
def test_time_outside_the_calendar_is_null(timestamp: float) -> None:
    assert to_json(b"1", timestamp=timestamp)["time"] is None
