"""The Java options of nodes for tests: start with less work instead of running faster later."""

from __future__ import annotations

import hashlib
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.kafka.jars import class_path, find_java, folder, java_details, locked
from backends.kafka.node import KafkaNode
from backends.kafka.properties import Address, properties
from backends.process import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHEAP: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # the fast compiler only
_CLUSTER: Final = "AAAAAAAAAAAAAAAAAAAAAA"  # an id: the data of this cluster are removed at once


def quick_options(version: str) -> Sequence[str]:
    """The options of a node that starts with about half of the processor time.

    Java maps Kafka's classes from an archive instead of reading and verifying each. The first call for a
    version starts a node to make the archive; processes that ask at the same time wait for it. Where this
    Java makes no archive, and where it refuses one, it reads the classes as usual.

    Raises:
        NotInstalledError: Java 17 or Maven is missing, or Maven could not fetch Kafka.
        StartError: The node did not start.
    """
    class_path(version)
    archive = _archive(version)
    if not archive.exists():
        with locked(archive.with_suffix(".lock")):
            if not archive.exists():
                _make(version, archive)
    return (*_CHEAP, f"-XX:SharedArchiveFile={archive}") if archive.stat().st_size else _CHEAP


def _archive(version: str) -> Path:
    """Where the archive is kept. Java refuses one of another Java, and one of jars of another time."""
    jars = sorted((jar.name, jar.stat().st_mtime_ns) for jar in folder(version).glob("*.jar"))
    digest = hashlib.sha256(f"{java_details(find_java())}{jars}".encode()).hexdigest()[:8]
    return folder(version).with_name(f"{folder(version).name}-{digest}.jsa")


def _make(version: str, archive: Path) -> None:
    """Start and stop a node, which writes its classes at its end; an empty file says that it did not."""
    with tempfile.TemporaryDirectory(prefix=f"{archive.name}.", suffix=".part", dir=archive.parent) as name:
        part = Path(name) / "classes.jsa"
        address = Address(1, *islice(free_ports(), 2))
        options = (*_CHEAP, f"-XX:ArchiveClassesAtExit={part}")
        node = KafkaNode(address, Path(name) / "node", version=version, heap="512m", options=options)
        node.configure(properties(address, [address], data=node.data, quick=True))
        node.format(_CLUSTER)
        node.start()
        node.stop(grace=60.0)
        part.touch()
        part.rename(archive)
