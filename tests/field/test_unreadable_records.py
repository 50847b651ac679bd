"""Another team's producer writes records that the broker accepts and the client library cannot read."""

from __future__ import annotations

import json
import struct
import subprocess
from importlib import import_module
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBase, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from typer.testing import CliRunner

from eventml.backends.kafka.fetching import ReadableBatches
from eventml.bus import import_bus
from eventml.cli.app import app
from tests.kafka.conftest import new_topic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


def batch(first: int, *values: bytes, damaged: bytes = b"", **damage: bytes) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for offset, value in enumerate(values):
        builder.append(offset, 1_000, b"key", value, [("name", b"value"), ("null", None)])
    raw = bytearray(builder.build())
    if damaged:
        at = raw.index(damaged)
        raw[at:] = raw[at:].replace(damage["of"], damage["by"], 1)
    struct.pack_into(">q", raw, 0, first)
    checked = bytes(raw[DefaultRecordBase.ATTRIBUTES_OFFSET :])
    struct.pack_into(">I", raw, DefaultRecordBase.CRC_OFFSET, calc_crc32c(checked))
    return bytes(raw)


def test_the_record_alone_is_escaped_and_batches_before_it_are_not_read_again() -> None:
    latin = batch(1, b"b", b"c", b"d", damaged=b"c", of=b"name", by=b"n\xe4me")
    batches, found = ReadableBatches(batch(0, b"a") + latin + batch(4, b"e"), 2), []
    while batches.has_next():
        some = batches.next_batch()
        assert some.validate_crc()
        found += [(record.offset, record.value, record.headers) for record in some]
    plain, escaped = ([(name, b"value"), ("null", None)] for name in ("name", r"n\xe4me"))
    assert found == [(1, b"b", plain), (2, b"c", escaped), (3, b"d", plain), (4, b"e", plain)]


LENGTHS = [(b"\x08name", b"\x07name"), (b"\x08name", b"\xffname"), (b"\x04\x08n", b"\x03\x08n")]


@pytest.mark.parametrize(("of", "by"), LENGTHS)
def test_the_broker_refuses_a_malformed_record(kafka_broker: KafkaCluster, of: bytes, by: bytes) -> None:
    """So it cannot stop a partition, and nothing has to be done for it."""

    async def publish() -> None:
        topic = await new_topic(kafka_broker, 1)
        async with AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap) as producer:
            sound = producer.create_batch()
            sound.append(timestamp=None, key=b"key", value=b"value", headers=[])
            malformed = batch(0, b"value", damaged=b"value", of=of, by=by)
            sound._build = lambda: bytearray(malformed)
            with pytest.raises(KafkaError):
                await (await producer.send_batch(sound, topic, partition=0))

    anyio.run(publish)
