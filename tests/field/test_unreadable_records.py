"""Another team's producer writes records that the broker accepts and the client library cannot read."""

from __future__ import annotations

import json
import struct
import subprocess
from importlib import import_module
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
from aiokafka.record.default_records import DefaultRecordBase, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from eventml.backends.kafka.connection import ReadableBatches
from eventml.bus import import_bus
from eventml.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from backends.kafka.cluster import KafkaCluster

APP = """
import msgspec
import eventml

bus = eventml.Bus("NAME")
seen = []

class Ride(msgspec.Struct):
    ride: str

@bus.consumer("NAME.rides")
def rides(events: list[Ride]) -> None:
    seen.extend(event.ride for event in events)
"""


def eventml(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_kafka_header_names_in_latin_1_cost_nothing(
    kafka_broker: KafkaCluster,
    foreign_client: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"latin{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(APP.replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTML_BACKEND", kafka_broker.url)
    monkeypatch.setenv("EVENTML_DRAIN", "1")
    bus, topic = import_bus(f"{name}:bus"), f"{name}.rides"
    argv = [foreign_client("kcat"), "-q", "-b", kafka_broker.bootstrap, "-P", "-t", topic]
    kcat = [word.encode() for word in argv]

    async def run() -> None:
        with anyio.fail_after(30):
            await bus.run(until_idle=0.1)

    eventml("topics", "create", f"{name}:bus", "--partitions", "1")
    latin = [b"-H", "café=ü".encode("latin-1")]
    lines = b'{"ride": "a"}', b'{"ride": "b"}', b"bad", b'{"ride": "d"}'
    for line, headers in zip(lines, (kcat, kcat + latin, kcat + latin, kcat), strict=True):
        subprocess.run(headers, input=line, check=True, timeout=30)  # noqa: S603 - found on PATH
    anyio.run(run)
    assert import_module(name).seen == ["a", "b", "d"]
    tailed = eventml("tail", topic, "--from", "earliest", "-n", "4").splitlines()
    escaped = {r"caf\xe9": r"\udcfc"}
    assert [json.loads(line)["headers"] for line in tailed] == [{}, escaped, escaped, {}]
    [group] = json.loads(eventml("lag", f"{name}:bus", "--json"))["groups"]
    assert group["lag"] == 0
    for run_again in (True, False):  # it fails again, with its header
        shown = eventml("dlq", "show", f"{name}:bus")
        assert r"caf\xe9: \udcfc" in shown
        assert ("eventml-replay-run" in shown) is not run_again
        if run_again:
            eventml("dlq", "replay", f"{name}:bus")
            anyio.run(run)


def batch(values: list[bytes]) -> bytearray:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for offset, value in enumerate(values):
        builder.append(offset, 1_000, b"key", value, [("name", b"value"), ("null", None)])
    return bytearray(builder.build())


RECORDS = DefaultRecordBase.HEADER_STRUCT.size


@given(st.data(), st.integers(1, 4))
def test_a_damaged_record_costs_no_other_and_no_offset_is_given_twice(
    data: st.DataObject, count: int
) -> None:
    raw = batch([b"value-%d" % n for n in range(count)])
    position = data.draw(st.integers(RECORDS, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255))
    checked = bytes(raw[DefaultRecordBase.ATTRIBUTES_OFFSET :])
    struct.pack_into(">I", raw, DefaultRecordBase.CRC_OFFSET, calc_crc32c(checked))
    batches = ReadableBatches(bytes(raw), 0)
    found = list(batches.next_batch())
    offsets = [record.offset for record in found]
    assert offsets == sorted(set(offsets))
    assert set(offsets) <= set(range(count))
    assert not batches.has_next()
    length = (len(raw) - RECORDS) // count  # the records are equally long
    damaged = (position - RECORDS) // length
    if (position - RECORDS) % length:  # the lengths are whole: all others are read
        others = {record.offset: record.value for record in found if record.offset != damaged}
        assert others == {n: b"value-%d" % n for n in range(count) if n != damaged}


def test_a_record_without_structure_is_its_bytes_and_those_before_the_offset_are_not_repeated() -> None:
    raw = batch([b"one", b"two", b"six"])
    raw[raw.index(b"two") + 4] = 0xFF  # the length of the first header's name
    [*before, malformed, last] = ReadableBatches(bytes(raw) + bytes(batch([])), 0).next_batch()
    assert [record.value for record in before] == [b"one"]
    assert (malformed.offset, malformed.key) == (1, None)
    assert b"two" in malformed.value
    assert (last.offset, last.value) == (2, b"six")
    assert not ReadableBatches(bytes(raw), 3).has_next()
