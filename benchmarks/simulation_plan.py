"""The arithmetic from one event to millions a second: workers, brokers, network, memory, disk and money.

Costs of an event are measured (`simulation_measuring.py`). The rest are assumptions, each a field of `Assumptions`.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

GIB: Final = 2**30
MONTH: Final = 730.0  # hours


class Unit(msgspec.Struct, frozen=True):
    """What one event costs, with its prediction.

    Attributes:
        worker: CPU seconds of a worker.
        worker_rate: Events a second of one worker with cores enough.
        broker: CPU seconds of the broker to publish, read and complete it; of one thread on Redis.
        traffic: Bytes that the broker receives and sends.
        stored: Bytes that the broker keeps: memory of Redis, disk of Kafka.
    """

    worker: float
    worker_rate: float
    broker: float
    traffic: float
    stored: float


class Assumptions(msgspec.Struct, frozen=True):
    """What the plan takes for granted.

    Attributes:
        full: How much of a core, of a server's thread, of a network card and of a disk is planned for: the rest catches up.
        copies: Of each event, the first one included.
        kept: Seconds for which the broker keeps events.
        network: Bytes a second of a node's network card, and `disk` of its disk.
        memory: GiB of a Redis node; `node_cores` of its cores, and of a Kafka broker's.
        core_hour: $ for a core, `gib_hour` for a GiB of memory, `disk_month` for a GB of disk, `zone` for a GB between zones.
        between: Part of the traffic that crosses zones.
    """

    full: float = 0.6
    copies: int = 2
    kept: float = 600.0
    network: float = 12.5e9 / 8
    disk: float = 500e6
    memory: float = 64.0
    node_cores: int = 4
    worker_memory: float = 0.5
    core_hour: float = 0.032
    gib_hour: float = 0.0043
    disk_month: float = 0.08
    zone: float = 0.02
    between: float = 2 / 3


REDIS: Final = Assumptions()
KAFKA: Final = Assumptions(copies=3, kept=86_400.0, node_cores=8)


class Plan(msgspec.Struct, frozen=True):
    """What a rate of events needs.

    Attributes:
        rate: Events a second.
        workers: Processes, and `worker_cores` for them.
        parts: Topics (Redis, one a master) or partitions (Kafka).
        nodes: Broker nodes, replicas included; `node_cores` of all.
        reason: What decides on their number.
        traffic: Bytes a second of one node.
        stored: Bytes of all copies.
        money: $ a month by what it is for.
    """

    rate: float
    workers: int
    worker_cores: int
    parts: int
    nodes: int
    node_cores: int
    reason: str
    traffic: float
    stored: float
    money: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.money.values())


def _workers(rate: float, unit: Unit, given: Assumptions) -> tuple[int, int]:
    return math.ceil(rate / (unit.worker_rate * given.full)), math.ceil(rate * unit.worker / given.full)


def _plan(
    rate: float, unit: Unit, given: Assumptions, needs: dict[str, int], parts: int, copied: float, memory: float
) -> Plan:
    """A plan with as many nodes as the largest need, and `copied` bytes a second between the nodes."""
    workers, worker_cores = _workers(rate, unit, given)
    reason = max(needs, key=lambda name: needs[name])
    nodes = needs[reason]
    stored = rate * unit.stored * given.kept * given.copies
    traffic = rate * unit.traffic + 2 * copied  # a copy leaves one node and enters another
    on_disk = stored / 1e9 * given.disk_month if given is KAFKA else 0.0
    money = {
        "workers": MONTH * (worker_cores * given.core_hour + workers * given.worker_memory * given.gib_hour),
        "brokers": MONTH * nodes * (given.node_cores * given.core_hour + memory * given.gib_hour) + on_disk,
        "traffic": (rate * unit.traffic + copied) * given.between * MONTH * 3_600 / 1e9 * given.zone,
    }
    return Plan(
        rate, workers, worker_cores, parts, nodes, nodes * given.node_cores, reason, traffic / nodes, stored, money
    )


def redis_plan(rate: float, unit: Unit, given: Assumptions = REDIS) -> Plan:
    """Masters with one topic each, and their replicas."""
    copied = rate * unit.traffic / 2 * (given.copies - 1)  # about what is received is replicated
    masters = {
        "thread": math.ceil(rate * unit.broker / given.full),
        "memory": math.ceil(rate * unit.stored * given.kept / (given.memory * GIB * given.full)),
        "network": math.ceil((rate * unit.traffic + copied) / (given.network * given.full)),
    }
    needs = {name: number * given.copies for name, number in masters.items()}
    return _plan(rate, unit, given, needs, max(masters.values()), copied, given.memory)


def kafka_plan(rate: float, unit: Unit, given: Assumptions = KAFKA) -> Plan:
    """Brokers, and twice as many partitions as workers, so that there is room to grow."""
    written = rate * unit.stored * given.copies
    copied = rate * unit.stored * (given.copies - 1)
    cpu = rate * unit.broker * (1 + (given.copies - 1) / 2)  # a follower writes, and serves nobody
    needs = {
        "copies": given.copies,
        "cores": math.ceil(cpu / (given.node_cores * given.full)),
        "network": math.ceil((rate * unit.traffic + 2 * copied) / (given.network * given.full)),
        "disk": math.ceil(written / (given.disk * given.full)),
    }
    parts = 2 * _workers(rate, unit, given)[0]
    return _plan(rate, unit, given, needs, parts, copied, 4.0 * given.node_cores)
