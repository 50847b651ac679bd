"""An Apache Kafka cluster on this machine: one node, or three, that can be stopped, killed and restarted."""

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
from backends.kafka.node import LONG_LIVED, KafkaNode
from backends.kafka.properties import Address, properties
from backends.kafka.quick import quick_options
from backends.process import LOOPBACK, POLL, StartError, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROLLERS_ABOVE: Final = 1_000
"""Distance of a controller's port from its broker's, where the caller chooses the ports."""


class KafkaCluster:
    """Nodes on loopback, each a broker and a controller, without encryption or passwords.

    Nothing runs until `start()`. As a context manager it is started, and closed on exit. The first start of
    a version fetches Kafka with Maven, which takes some seconds and needs the network.

    Args:
        nodes: 1, or 3 for replication.
        directory: Folder of the data; by default a temporary folder, which `close()` removes.
        port: Port of the first node; the others follow. 0 for any free ports.
        version: Version of Apache Kafka, 4.0 or newer; by default the one in `pom.xml`.
        quick: For tests: starts take less time; see `properties` and `quick_options`. The first one makes
            an archive of classes beside the jars.
        heap: Java heap of a node.
        settings: Broker properties that override the defaults, from the next start on.

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
            options = quick_options(self.version) if quick else LONG_LIVED
            self.nodes = tuple(
                KafkaNode(
                    a, self.directory / f"node-{a.node}", version=self.version, heap=heap, options=options
                )
                for a in self._addresses
            )
        except BaseException:
            self._remove()
            raise

    @property
    def bootstrap(self) -> str:
        """`host:port` of every node, as Kafka's clients expect them. The same over restarts."""
        return ",".join(f"{LOOPBACK}:{address.port}" for address in self._addresses)

    @property
    def url(self) -> str:
        """The URL for eventml."""
        return f"kafka://{self.bootstrap}"

    def start(self, *, timeout: float = 90.0) -> None:
        """Start every node that is not running; wait until all are ready and know each other.

        Raises:
            StartError: a node did not start; all are stopped then.
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

        Call it between two steps of a rolling restart; otherwise the second step may leave a partition with
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
        """Stop all nodes with SIGTERM; kill those that run after `grace` seconds.

        The last nodes have no other to hand their leaderships to, and would wait.
        """
        for node in self.nodes:
            node.terminate()
        deadline = time.monotonic() + grace
        for node in self.nodes:
            node.stop(grace=max(deadline - time.monotonic(), 0))

    def kill(self) -> None:
        """Send SIGKILL to all nodes. Their data stays."""
        for node in self.nodes:
            node.kill()

    def close(self) -> None:
        """Stop all nodes. A temporary folder is removed; its nodes are killed."""
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
            defaults = properties(node.address, self._addresses, data=node.data, quick=self._quick)
            node.configure(defaults | self.settings)
        with ThreadPoolExecutor(len(self.nodes)) as at_once:
            list(at_once.map(lambda node: node.format(cluster_id), missing))
        for node in missing:
            node.launch()

    def _cluster_id(self) -> str:
        """The cluster id, the same for the whole life of the folder."""
        kept = self.directory / "cluster.id"
        if not kept.exists():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # the data is nobody else's
            kept.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
        return kept.read_text()

    def _in_sync(self) -> bool:
        """Whether every node reports so: one may be behind."""
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
