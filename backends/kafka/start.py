#!/usr/bin/env python3
"""Start Apache Kafka on loopback, one node or three, and keep it until Ctrl-C.

Needs Java 17 or newer; the first run also needs Maven, which fetches Kafka into the user's cache.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends.foreground import hold  # noqa: E402 - found only now that the root is on the path
from backends.kafka.cluster import KafkaCluster  # noqa: E402 - the same
from backends.kafka.jars import class_path, pinned_version  # noqa: E402 - the same
from backends.process import NotInstalledError  # noqa: E402 - the same


def main() -> None:
    options = _parser().parse_args()
    if options.fetch:
        fetch(options.version)
        return
    directory = options.dir or ROOT / ".run" / f"kafka-{options.nodes}"
    try:
        cluster = KafkaCluster(
            nodes=options.nodes,
            directory=directory,
            port=options.port,
            version=options.version,
            quick=options.quick,
            heap=options.heap,
        )
    except NotInstalledError as exc:
        sys.exit(str(exc))
    hold(cluster, lambda: cluster.url, log=directory / "node-*" / "node.log")


def fetch(version: str) -> None:
    """Fill the cache and start nothing: for a machine that will have no network, or for CI."""
    try:
        print(class_path(version))  # noqa: T201 - what was asked for
    except NotInstalledError as exc:
        sys.exit(str(exc))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="(default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=9092, help="of the first node; 0 for any free ones (default: %(default)s)"
    )
    parser.add_argument("--dir", type=Path, help="where the data lives (default: .run/kafka-NODES)")
    parser.add_argument(
        "--version", default=pinned_version(), help="of Apache Kafka, from 4.0 on (default: %(default)s)"
    )
    parser.add_argument("--heap", default="512m", help="Java heap of a node (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="consumer groups start without waiting for members"
    )
    parser.add_argument("--fetch", action="store_true", help="fetch Kafka if need be, and start nothing")
    return parser


if __name__ == "__main__":
    main()
