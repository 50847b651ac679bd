"""Apache Kafka on this machine: one node, or three that can be stopped, killed and restarted."""

from __future__ import annotations

import base64
import shutil
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from backends.kafka import probe
from backends.kafka.jars import pinned_version
from backends.kafka.node import KafkaNode
from backends.kafka.properties import Address, properties
from backends.process import LOOPBACK, POLL, StartError, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROLLERS_ABOVE: Final = 1_000
"""A controller listens this far above its broker where the ports are chosen by the caller."""


class KafkaCluster:
    """Nodes on loopback, each a broker and a controller, without encryption or passwords.

    Nothing runs until `start()`. As a context manager it is started, and closed in the end. The first
    one of a version fetches Kafka with Maven, which takes some seconds and needs the network.

    Args:
        nodes: 1, or 3 for what needs copies.
        directory: Where the data lives; by default a temporary folder, removed by `close()`.
        port: The first node's; the others follow. 0 for any free ones.
        version: Of Apache Kafka, 4.0 or newer; by default the one in `pom.xml`.
        quick: For tests: see `properties`.
        heap: A node's Java heap.
        settings: Broker properties, which win over ours at the next start.

    Raises:
        NotInstalledError: Java 17 or Maven is missing, or Maven could not fetch Kafka.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        directory: Path | None = None,
        port: int = 0,
        version: str | None = None,
        quick: bool = False,
        heap: str = "512m",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.version = version or pinned_version()
        self.settings = dict(settings or {})
        self._quick = quick
        self._addresses = _chosen(nodes, port) if port else _free(nodes)
        self._temporary = directory is None
        self.directory = (directory or Path(tempfile.mkdtemp(prefix="eventml-kafka-"))).resolve()
        try:
            self.nodes = tuple(
                KafkaNode(a, self.directory / f"node-{a.node}", version=self.version, heap=heap)
                for a in self._addresses
            )
        except BaseException:
            self._remove()
            raise

    @property
    def bootstrap(self) -> str:
        """`host:port` of every node, as Kafka's clients want them. Holds over restarts."""
        return ",".join(f"{LOOPBACK}:{address.port}" for address in self._addresses)

    @property
    def url(self) -> str:
        """The same, as eventml wants it."""
        return f"kafka://{self.bootstrap}"

    def start(self, *, timeout: float = 90.0) -> None:
        """Start every node that is not running; wait until all are ready and know each other.

        Raises:
            StartError: one did not; none is left running.
        """
        try:
            self._launch()
            for node in self.nodes:
                node.wait_until_ready(timeout=timeout)
            self.wait_until_in_sync(timeout=timeout)
        except BaseException:
            self.kill()
            raise

    def wait_until_in_sync(self, *, timeout: float = 60.0) -> None:
        """Wait until every node is alive and every partition has all its copies.

        Between two steps of a rolling restart: without it the second step may leave a partition with
        fewer copies than a publish needs.

        Raises:
            StartError: that did not happen in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._in_sync():
            if time.monotonic() > deadline:
                raise StartError(f"the Kafka nodes at {self.bootstrap} were not in sync within {timeout:g} s")
            time.sleep(POLL)

    def stop(self, *, grace: float = 10.0) -> None:
        """End all nodes in order, by SIGKILL after `grace` seconds: the last have nobody to hand over to."""
        for node in self.nodes:
            node.terminate()
        deadline = time.monotonic() + grace
        for node in self.nodes:
            node.stop(grace=max(deadline - time.monotonic(), 0))

    def kill(self) -> None:
        """SIGKILL all nodes. Their data stays."""
        for node in self.nodes:
            node.kill()

    def close(self) -> None:
        """End all nodes; with a temporary folder by SIGKILL, and the folder goes."""
        if self._temporary:
            self.kill()
            self._remove()
        else:
            self.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _launch(self) -> None:
        cluster_id = self._cluster_id()
        missing = [node for node in self.nodes if not node.running]
        for node in missing:
            told = properties(node.address, self._addresses, data=node.data, quick=self._quick)
            node.configure(told | self.settings)
        with ThreadPoolExecutor(len(self.nodes)) as at_once:
            list(at_once.map(lambda node: node.format(cluster_id), missing))
        for node in missing:
            node.launch()

    def _cluster_id(self) -> str:
        """The same for a folder's whole life, whatever it went through."""
        kept = self.directory / "cluster.id"
        if not kept.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            kept.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
        return kept.read_text()

    def _in_sync(self) -> bool:
        """In the eyes of every node: one may not have heard yet."""
        try:
            views = [probe.ask(address.port) for address in self._addresses]
        except OSError:
            return False
        return all(len(view.nodes) == len(self.nodes) and view.in_sync for view in views)

    def _remove(self) -> None:
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)


def _chosen(nodes: int, port: int) -> tuple[Address, ...]:
    return tuple(Address(n + 1, port + n, port + n + CONTROLLERS_ABOVE) for n in range(nodes))


def _free(nodes: int) -> tuple[Address, ...]:
    ports = list(islice(free_ports(), 2 * nodes))
    return tuple(Address(n + 1, ports[n], ports[nodes + n]) for n in range(nodes))
