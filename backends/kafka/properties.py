"""The settings of a Kafka node."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from backends.process import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


PLAIN: Final = frozenset(string.ascii_letters + string.digits + "._-/:;,@*=\"'+?&%()[]{}<>|$^~")


@dataclass(frozen=True)
class Address:
    """One node of a cluster: a broker and a controller in one process."""

    node: int
    port: int
    controller_port: int


def properties(here: Address, everyone: Sequence[Address], *, data: Path, quick: bool) -> dict[str, str]:
    """The broker properties of a node.

    Topics are not created automatically. With three nodes each record has three copies, and an `acks=all`
    publish returns once two are written, so that one node may be down.

    Args:
        here: The node.
        everyone: All nodes, including this one.
        data: Folder of its data.
        quick: For tests: groups start at once instead of waiting three seconds for more members, and
            the internal topics have few partitions.
    """
    copies = str(len(everyone))
    in_sync = "2" if len(everyone) > 2 else "1"  # noqa: PLR2004 - a majority of three
    settings = {
        "process.roles": "broker,controller",
        "node.id": str(here.node),
        "controller.quorum.voters": ",".join(f"{a.node}@{LOOPBACK}:{a.controller_port}" for a in everyone),
        "listeners": f"PLAINTEXT://{LOOPBACK}:{here.port},CONTROLLER://{LOOPBACK}:{here.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{here.port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "unclean.leader.election.enable": "false",
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
    }
    if quick:
        settings |= {
            "group.initial.rebalance.delay.ms": "0",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.num.partitions": "4",
        }
    return settings


def render(settings: Mapping[str, str]) -> str:
    """A Java properties file, in the plain ASCII that Java reads everywhere."""
    return "".join(f"{name}={_escaped(value)}\n" for name, value in settings.items())


def _escaped(value: str) -> str:
    """Letters and the like stand for themselves, all else by its UTF-16 code."""
    return "".join(c if c in PLAIN else _code(c) for c in value)


def _code(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
