"""A compacted topic holds deletes (records without a value), null headers and headers of one name."""

from __future__ import annotations

import json
import subprocess
from importlib import import_module
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from eventml import Bus
from eventml.backends.kafka.wire import DeliveryDecoder, kafka_headers
from eventml.bus import import_bus
from eventml.cli.app import app
from eventml.testing import TestBus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backends.kafka.cluster import KafkaCluster
    from eventml.codec import Format


class Ride(msgspec.Struct):
    ride: str


@pytest.mark.anyio
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_delete_is_none_or_skipped_or_a_dead_letter(codec: Format) -> None:
    bus, seen = Bus("app"), list[object]()
    bus.topic("rides", codec=codec)

    @bus.consumer("rides")
    def deletes(rides: list[Ride | None]) -> None:
        seen.extend(rides)

    @bus.consumer("rides")
    def single(ride: Ride | None) -> None:
        seen.append(ride)

    @bus.consumer("rides", skip_tombstones=True)
    def skips(rides: list[Ride]) -> None:
        seen.extend(rides)

    @bus.consumer("rides")
    def strict(rides: list[Ride]) -> None:
        seen.extend(rides)

    async with TestBus(bus) as tested:
        await tested.publish("rides", Ride("a"), key="a")
        await tested.publish("rides", None, key="a")
        await tested.settle()
        [dead] = tested.dead_letters()
        assert (dead.handler, dead.exception) == ("strict", "DecodeError")
    assert sorted(map(repr, seen)) == ["None", "None", *["Ride(ride='a')"] * 4]


APP = """
import msgspec
import eventml

bus = eventml.Bus("NAME")
seen = []

class Ride(msgspec.Struct):
    ride: str

@bus.consumer("NAME.rides")
def deletes(rides: list[Ride | None]) -> None:
    seen.extend(rides)

@bus.consumer("NAME.rides", skip_tombstones=True)
def skips(rides: list[Ride]) -> None:
    seen.extend(rides)

@bus.consumer("NAME.rides")
def strict(rides: list[Ride]) -> None:
    seen.extend(rides)
"""


def test_kafka_keeps_nulls_through_dead_letter_and_replay(
    kafka_broker: KafkaCluster,
    foreign_client: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"deletes{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(APP.replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTML_BACKEND", kafka_broker.url)
    bus, topic = import_bus(f"{name}:bus"), f"{name}.rides"
    kcat = [foreign_client("kcat"), "-q", "-b", kafka_broker.bootstrap, "-t"]

    def eventml(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    def consumed(topic: str) -> list[tuple[object, dict[str, list[str | None]]]]:
        found = []
        argv = [*kcat, topic, "-C", "-o", "beginning", "-e", "-J"]
        for line in subprocess.run(argv, capture_output=True, check=True, timeout=30).stdout.splitlines():  # noqa: S603 - found on PATH
            message, headers = json.loads(line), dict[str, list[str | None]]()
            for header, value in zip(message["headers"][::2], message["headers"][1::2], strict=True):
                headers.setdefault(header, []).append(value)
            found.append((message["payload"], headers))
        return found

    async def run() -> None:
        with anyio.fail_after(30):
            await bus.run(until_idle=0.1)

    async def delete() -> None:
        async with bus.open():
            await bus.publish(topic, None, key="b")

    eventml("topics", "create", f"{name}:bus", "--partitions", "1")
    argv = [*kcat, topic, "-P", "-K", ":", "-Z", "-H", "null", "-H", "two=1", "-H", "two=2"]
    subprocess.run(argv, input="a:\n", text=True, check=True, timeout=30)  # noqa: S603 - found on PATH
    anyio.run(delete)
    anyio.run(run)
    assert import_module(name).seen == [None, None]
    dead_letters = consumed(f"{topic}.{name}.strict.dlq")
    eventml("dlq", "replay", f"{name}:bus")
    for (value, headers), (published, _) in zip(dead_letters, consumed(topic), strict=False):
        assert value is published is None
        assert headers["eventml-dlq-exception"] == ["DecodeError"]
    replayed = consumed(topic)[2]
    for value, headers in (dead_letters[0], replayed):
        assert (value, headers["null"], headers["two"]) == (None, [None], ["1", "2"])
    [first, *_] = eventml("tail", topic, "--from", "earliest", "-n", "3").splitlines()
    assert json.loads(first)["value"] is None


NAMES = st.sampled_from(["a", "b", "null"])


@given(st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=3)), max_size=6))
def test_headers_of_one_name_keep_their_order(raw: list[tuple[str, bytes | None]]) -> None:
    class Fetched(msgspec.Struct):
        headers: list[tuple[str, bytes | None]]
        offset: int = 0
        key: None = None
        value: None = None
        timestamp: int = 0

    headers = DeliveryDecoder().deliveries(("t", 0), [Fetched(raw)], 0)[0].record.headers
    encoded = kafka_headers({**headers, "more": "text"})
    for name in ("a", "b", "null"):
        assert [v for other, v in encoded if other == name] == [v for other, v in raw if other == name]
