"""What Kafka is told and how it is fetched and asked, without Kafka."""

from __future__ import annotations

import os
import re
import stat
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kafka import jars, probe, properties
from backends.kafka.cluster import KafkaCluster
from backends.kafka.properties import Address
from backends.process import NotInstalledError

if TYPE_CHECKING:
    from collections.abc import Sequence


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def addresses(nodes: int) -> tuple[Address, ...]:
    return tuple(Address(n, 20_000 + n, 21_000 + n) for n in range(1, nodes + 1))


class TestKafkaProperties:
    @pytest.mark.parametrize(("nodes", "copies", "in_sync"), [(1, "1", "1"), (3, "3", "2")])
    def test_every_record_is_kept_as_often_as_there_are_nodes(
        self, nodes: int, copies: str, in_sync: str
    ) -> None:
        everyone = addresses(nodes)
        told = properties.properties(everyone[0], everyone, data=Path("/data"), quick=False)
        assert {v for k, v in told.items() if k.endswith("replication.factor")} == {copies}
        assert {v for k, v in told.items() if k.endswith(("min.isr", "min.insync.replicas"))} == {in_sync}

    @pytest.mark.parametrize("quick", [False, True])
    def test_no_topic_is_created_by_accident(self, *, quick: bool) -> None:
        told = properties.properties(addresses(1)[0], addresses(1), data=Path("/data"), quick=quick)
        assert told["auto.create.topics.enable"] == "false"

    def test_nothing_listens_beyond_this_machine(self) -> None:
        told = properties.properties(addresses(3)[1], addresses(3), data=Path("/data"), quick=False)
        hosts = re.findall(r"(?://|@)([^:]*):", ",".join(told.values()))
        assert len(hosts) == 6
        assert set(hosts) == {"127.0.0.1"}

    @given(settings=st.dictionaries(st.from_regex(r"[a-z][a-z.]{0,9}", fullmatch=True), st.text()))
    def test_java_reads_what_was_said(self, settings: dict[str, str]) -> None:
        assert read_as_java_does(properties.render(settings)) == settings


def read_as_java_does(text: str) -> dict[str, str]:
    """As much of `java.util.Properties.load` as rendered files need: they are ASCII, one setting a line."""
    text.encode("ascii")
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        units = re.sub(r"\\u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), value.lstrip(" \t\f"))
        found[name] = units.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return found


def answer(brokers: dict[int, int], partitions: Sequence[probe.Partition]) -> bytes:
    """A Metadata response as a broker would write it, with a topic a partition."""

    def text(value: str | None) -> bytes:
        return struct.pack(">h", -1) if value is None else struct.pack(">h", len(value)) + value.encode()

    def nodes(ids: frozenset[int]) -> bytes:
        return struct.pack(f">i{len(ids)}i", len(ids), *ids)

    said = struct.pack(">iii", probe.CORRELATION, 0, len(brokers))
    for node, port in brokers.items():
        said += struct.pack(">i", node) + text("127.0.0.1") + struct.pack(">i", port) + text(None)
    said += text("a-cluster") + struct.pack(">ii", 1, len(partitions))
    for p in partitions:
        said += struct.pack(">h", 0) + text(p.topic) + struct.pack(">?i", False, 1)
        said += (
            struct.pack(">hiii", 0, p.index, p.leader, 0)
            + nodes(p.replicas)
            + nodes(p.in_sync)
            + nodes(frozenset())
        )
    return said


NODES = st.frozensets(st.integers(1, 9), max_size=3)
PARTITIONS = st.builds(
    probe.Partition, st.text("abc.", max_size=5), st.integers(0, 9), st.integers(-1, 9), NODES, NODES
)
BROKERS = st.dictionaries(st.integers(1, 9), st.integers(1, 65_535), max_size=3)


class TestKafkaProbe:
    @given(brokers=BROKERS, partitions=st.lists(PARTITIONS, max_size=4))
    def test_reads_what_a_broker_writes(
        self, brokers: dict[int, int], partitions: list[probe.Partition]
    ) -> None:
        assert probe.parse(answer(brokers, partitions)) == probe.Metadata(brokers, tuple(partitions))

    @given(brokers=BROKERS, partitions=st.lists(PARTITIONS, max_size=4), data=st.data())
    def test_half_an_answer_is_none(
        self, brokers: dict[int, int], partitions: list[probe.Partition], data: st.DataObject
    ) -> None:
        whole = answer(brokers, partitions)
        cut = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(ConnectionError):
            probe.parse(whole[:cut])

    @pytest.mark.parametrize(
        ("leader", "in_sync", "verdict"), [(1, {1, 2}, True), (1, {1}, False), (-1, {1, 2}, False)]
    )
    def test_in_sync_is_every_copy_and_a_leader(
        self, *, leader: int, in_sync: set[int], verdict: bool
    ) -> None:
        partition = probe.Partition("rides", 0, leader, frozenset({1, 2}), frozenset(in_sync))
        assert probe.Metadata({1: 20_001}, (partition,)).in_sync is verdict


class TestKafkaJars:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVENTML_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def test_are_fetched_once_however_many_ask(self, tmp_path: Path) -> None:
        program(
            tmp_path / "mvn",
            f"echo called >>{tmp_path}/calls; sleep 0.2\n"
            'for word; do case "$word" in -DoutputDirectory=*) touch "${word#*=}/kafka.jar";; esac; done',
        )
        with ThreadPoolExecutor(8) as askers:
            paths = set(askers.map(jars.class_path, ["4.0.2"] * 8))
        (path,) = paths
        assert [jar.name for jar in Path(path).parent.iterdir()] == ["kafka.jar"]
        assert (tmp_path / "calls").read_text() == "called\n"

    def test_other_jars_than_those_listed_are_not_used(self, tmp_path: Path) -> None:
        listed = [line.split()[1] for line in jars.CHECKSUMS.read_text().splitlines()]
        assert f"kafka_2.13-{jars.pinned_version()}.jar" in listed
        program(
            tmp_path / "mvn",
            'for word; do case "$word" in -DoutputDirectory=*) out=${word#*=};; esac; done\n'
            f'touch "$out/extra.jar"; for name in {" ".join(listed)}; do touch "$out/$name"; done',
        )
        with pytest.raises(NotInstalledError, match=r"fetched other files than .*: .*extra\.jar, .*zstd-jni"):
            jars.class_path(jars.pinned_version())
        assert [kept.suffix for kept in jars.cache().iterdir()] == [".lock"]

    def test_a_fetch_that_fails_leaves_nothing_and_says_why(self, tmp_path: Path) -> None:
        program(tmp_path / "mvn", "echo '[ERROR] no route to the repository'; exit 1")
        with pytest.raises(NotInstalledError, match=r"could not fetch Kafka 4\.3\.1(.|\n)*no route"):
            jars.class_path("4.3.1")
        assert [kept.suffix for kept in jars.cache().iterdir()] == [".lock"]

    def test_without_maven_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(NotInstalledError, match="install Maven"):
            jars.class_path("4.3.1")

    def test_another_version_is_another_folder(self) -> None:
        assert jars.folder("4.0.0") != jars.folder("4.3.1")


class TestJava:
    @pytest.mark.parametrize(
        ("said", "version"),
        [
            ('openjdk version "17.0.15" 2025-04-15', 17),
            ('java version "1.8.0_202"', 8),
            ('openjdk version "25" 2025-09-16', 25),
            ("command not found", 0),
        ],
    )
    def test_version_is_read(self, said: str, version: int) -> None:
        assert jars.java_version(said) == version

    def test_too_old_a_one_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin").mkdir()
        program(tmp_path / "bin" / "java", "echo 'openjdk version \"11.0.2\"' >&2")
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        with pytest.raises(NotInstalledError, match="older than Java 17"):
            KafkaCluster()

    def test_a_missing_one_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        with pytest.raises(NotInstalledError, match="install version 17"):
            KafkaCluster()


class TestCompose:
    COMPOSE = jars.POM.parents[1].joinpath("compose.yaml").read_text()

    def test_runs_the_kafka_that_is_tested(self) -> None:
        assert f"image: apache/kafka:{jars.pinned_version()} " in self.COMPOSE

    def test_publishes_on_loopback_only(self) -> None:
        published = re.findall(r'- "([^"]+):\d+"', self.COMPOSE)
        assert published == ["127.0.0.1:6379", "127.0.0.1:9092"]
