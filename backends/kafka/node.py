"""One Kafka node: a broker and a controller in one Java process."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.kafka import probe, properties
from backends.kafka.jars import class_path, find_java
from backends.process import ServerProcess, StartError, require_free

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backends.kafka.properties import Address

LOG4J: Final = Path(__file__).with_name("log4j2.properties")
FORMAT_TIMEOUT: Final = 120.0
"""Seconds for Kafka's storage tool."""

LONG_LIVED: Final = ("-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")


class KafkaNode:
    """A node of a `KafkaCluster`. Its port, data and log stay the same over restarts.

    Args:
        address: Its ports.
        directory: Folder of its data and log.
        version: Version of Apache Kafka.
        heap: Java heap.
        options: More options of Java.

    Raises:
        NotInstalledError: Java 17 or Maven is missing, or Maven could not fetch Kafka.
    """

    def __init__(
        self,
        address: Address,
        directory: Path,
        *,
        version: str,
        heap: str,
        options: Sequence[str] = LONG_LIVED,
    ) -> None:
        self.address = address
        self.directory = directory
        self._java = [
            str(find_java()),
            f"-Xmx{heap}",
            *options,
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",  # nothing outside its folder, so that SIGKILL leaves nothing behind
            f"-Djava.io.tmpdir={directory / 'tmp'}",
            f"-Dlog4j2.configurationFile={LOG4J}",
            "-cp",
            class_path(version),
        ]
        self._process: ServerProcess | None = None

    @property
    def log(self) -> Path:
        """The output of all its starts."""
        return self.directory / "node.log"

    @property
    def data(self) -> Path:
        """Folder of its data."""
        return self.directory / "data"

    @property
    def process(self) -> ServerProcess:
        """The node's process, for its pid and for signals; the last one, if it has ended by itself.

        Raises:
            RuntimeError: it has not been started, or was stopped.
        """
        if self._process is None:
            raise RuntimeError(f"Kafka node {self.address.node} has not been started; call start() first")
        return self._process

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.running

    def configure(self, settings: Mapping[str, str]) -> None:
        """Write the settings of its next start."""
        for needed in (self.directory / "tmp", self.data):
            needed.mkdir(parents=True, exist_ok=True)
        self._config.write_text(properties.render(settings))

    def format(self, cluster_id: str) -> None:
        """Format its storage, unless that has been done.

        Raises:
            StartError: Kafka's storage tool refused.
        """
        if (self.data / "meta.properties").exists():
            return
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
        tool += ["--config", str(self._config), "--ignore-formatted"]
        done = subprocess.run(  # noqa: S603 - Kafka's own tool
            [*self._java, *tool], capture_output=True, text=True, timeout=FORMAT_TIMEOUT, check=False
        )
        if done.returncode:
            raise StartError(f"Kafka could not format {self.data}:\n{done.stdout}{done.stderr}")

    def launch(self) -> None:
        """Start the process without waiting: one node of three alone never becomes ready.

        Raises:
            StartError: one of its ports is in use, or it is running already.
        """
        if self.running:
            raise StartError(f"Kafka node {self.address.node} is running already")
        require_free(self.address.port)
        require_free(self.address.controller_port)
        self._process = ServerProcess([*self._java, "kafka.Kafka", str(self._config)], log=self.log)

    def wait_until_ready(self, *, timeout: float = 60.0) -> None:
        """Wait until it answers and lists itself as alive.

        Raises:
            StartError: it ended, or was not ready in `timeout` seconds; it is killed then.
        """
        try:
            self.process.wait_until(self._ready, timeout=timeout, what=f"Kafka node {self.address.node}")
        except StartError:
            self._process = None
            raise

    def start(self, *, timeout: float = 60.0) -> None:
        """Start it again on its port and data, and wait until it is ready.

        Raises:
            StartError: as `launch` and `wait_until_ready`.
        """
        self.launch()
        self.wait_until_ready(timeout=timeout)

    def terminate(self) -> None:
        """Send SIGTERM, on which it hands over its leaderships and ends. Does not wait."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, *, grace: float = 30.0) -> None:
        """Stop it with SIGTERM, so that leaderships move first; kill it after `grace` seconds."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(grace=grace)
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL. The other nodes notice after its session timeout (nine seconds by default)."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop it and start it again. Call `KafkaCluster.wait_until_in_sync` before the next restart."""
        self.stop()
        self.start()

    @property
    def _config(self) -> Path:
        return self.directory / "server.properties"

    def _ready(self) -> bool:
        return self.address.node in probe.ask(self.address.port).nodes
