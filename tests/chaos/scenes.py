"""The brokers of the soak, each behind proxies, with users of few rights, and on a small disk."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import redis

from backends.kafka.cluster import KafkaCluster
from backends.process import LOOPBACK, NotInstalledError, free_ports
from backends.redis.server import RedisServer
from tests.brokers import without_broker
from tests.chaos.conftest import NOTICES_SOON, REDIS
from tests.chaos.faults import PASSWORD, Fault, Kafka, Network, mounted
from tests.chaos.redis_faults import CONSUMER, redis_faults
from tests.kafka.secure import USER

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from backends.kafka.node import KafkaNode

KAFKA = "session_timeout=10&heartbeat_interval=1&rebalance_timeout=30&drain=3"
"""Shorter than the defaults, and long enough for three nodes and their clients on two cores."""

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class Scene(NamedTuple):
    """A broker to run on.

    Attributes:
        url: Through all that may fail.
        direct: Around it.
        faults: Those of the broker and the network, given the name of the topic.
        ordered: Whether order per key is promised.
        exact: Whether one output for one input is promised.
        rate: Events a second, so many that the workers keep up, all faults included, on two cores.
        pauses: Shortest and longest time between two faults of the broker, in seconds.
        worker_pauses: The same of the workers. A Kafka group that has no time between two rebalances does not
            work, and would show no recovery.
        stopped: Shortest and longest time that a worker is stopped; the longest is past its lease or session.
    """

    url: str
    direct: str
    faults: Callable[[str, random.Random], list[Fault]]
    ordered: bool
    exact: bool
    rate: int
    pauses: tuple[float, float]
    worker_pauses: tuple[float, float]
    stopped: tuple[float, float]


@contextmanager
def redis_scene(folder: Path) -> Iterator[Scene]:
    """One Redis server, which has stored on disk what it has acknowledged."""
    with ExitStack() as stack:
        disk = stack.enter_context(mounted(folder))
        user = " ".join(["consumer", *CONSUMER])
        try:
            server = RedisServer(directory=folder, appendfsync="always", settings={"user": user})
        except NotInstalledError as exc:
            without_broker(str(exc))
        stack.callback(server.kill)
        server.start()
        network = stack.enter_context(Network([server.port]))
        client = stack.enter_context(redis.Redis(port=server.port))
        yield Scene(
            url=f"redis://consumer:{PASSWORD}@{LOOPBACK}:{network.ports[0]}/0?{REDIS}",
            direct=f"{server.url}?{REDIS}",
            faults=lambda _topic, _chance: [*redis_faults(server, network, disk, client), *network.faults()],
            ordered=False,
            exact=True,
            rate=200,
            pauses=(1, 4),
            worker_pauses=(1, 4),
            stopped=(1, 6),
        )


@contextmanager
def kafka_scene(folder: Path, delivery: str) -> Iterator[Scene]:
    """Three Kafka nodes, which clients reach through a proxy each; the nodes reach each other directly."""
    with ExitStack() as stack:
        disk = stack.enter_context(mounted(folder / "node-1"))
        ports = list(islice(free_ports(), 3))
        network = stack.enter_context(Network(ports))
        settings = {
            **NOTICES_SOON,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "CLIENTS:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256",
            "listener.name.clients.scram-sha-256.sasl.jaas.config": SCRAM,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
        }
        try:
            cluster = KafkaCluster(nodes=3, directory=folder, quick=True, settings=settings, heap="256m")
        except NotInstalledError as exc:
            without_broker(str(exc))
        stack.callback(cluster.kill)
        for node, port, proxied in zip(cluster.nodes, ports, network.ports, strict=True):
            _listen_for_clients(node, port, proxied)
        cluster.start()
        kafka = Kafka(cluster, network, disk)
        kafka.add_user()
        proxies = ",".join(f"{LOOPBACK}:{port}" for port in network.ports)
        login = f"security=sasl_plaintext&sasl_mechanism=SCRAM-SHA-256&delivery={delivery}"
        yield Scene(
            url=f"kafka://{USER}:{PASSWORD}@{proxies}?{login}&{KAFKA}",
            direct=f"{cluster.url}?{KAFKA}",
            faults=lambda topic, chance: [*kafka.faults(topic, chance), *network.faults()],
            ordered=True,
            exact=delivery == "exactly_once",
            rate=50 if delivery == "exactly_once" else 100,
            pauses=(3, 8),
            worker_pauses=(8, 20),
            stopped=(2, 15),
        )


def _listen_for_clients(node: KafkaNode, port: int, proxied: int) -> None:
    configure = node.configure

    def with_clients(settings: Mapping[str, str]) -> None:
        listeners = f"{settings['listeners']},CLIENTS://{LOOPBACK}:{port}"
        advertised = f"{settings['advertised.listeners']},CLIENTS://{LOOPBACK}:{proxied}"
        configure({**settings, "listeners": listeners, "advertised.listeners": advertised})

    node.configure = with_clients  # type: ignore[method-assign]  # the cluster has one setting for all its nodes
