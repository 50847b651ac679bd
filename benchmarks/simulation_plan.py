"""The arithmetic from one event to millions a second: workers, brokers, network, memory, disk and money.

Costs of an event are measured (`simulation_fit.units`); the rest are fields of `Assumptions`.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

MONTH: Final = 730.0  # hours


class Unit(msgspec.Struct, frozen=True):
    """What one event costs, with its prediction.

    Attributes:
        worker: CPU seconds of a worker, which handles `worker_rate` events a second with cores enough.
        broker: CPU seconds of the broker to publish, return and complete it; on Redis of its one thread.
        traffic: Bytes to and from clients; the broker keeps `stored`, and sends `copied` to each replica.
    """

    worker: float
    worker_rate: float
    broker: float
    traffic: float
    stored: float
    copied: float


class Assumptions(msgspec.Struct, frozen=True):
    """What the plan takes for granted.

    Attributes:
        full: Planned part of cores, threads, memory, network and disks: the rest is for catching up.
        copies: Of each event; `kept` seconds.
        cores: Of a node, with `memory` bytes, `network` and `disk` bytes a second.
        core_hour: $ for a core; `gb_hour` for a GB of memory, `disk_month` for one of disk, `zone` for one
            that is sent to another zone, as `between` of the clients' traffic is, and every copy.
    """

    full: float = 0.6
    copies: int = 2
    kept: float = 600.0
    cores: int = 4
    memory: float = 64e9
    network: float = 12.5e9 / 8
    disk: float = 500e6
    worker_memory: float = 0.5e9
    core_hour: float = 0.032
    gb_hour: float = 0.0043
    disk_month: float = 0.0
    zone: float = 0.02
    between: float = 2 / 3


REDIS: Final = Assumptions()
KAFKA: Final = Assumptions(copies=3, kept=86_400.0, cores=8, memory=32e9, disk_month=0.08)


class Plan(msgspec.Struct, frozen=True):
    """What a rate of events needs.

    Attributes:
        workers: Processes, on `worker_cores`.
        parts: Topics on Redis, one a master; partitions on Kafka.
        nodes: Of the broker, replicas included; `needs` has how many each resource asks for.
        traffic: Bytes a second of a node.
        stored: Bytes of all copies.
        money: $ a month by what it is for.
    """

    workers: int
    worker_cores: int
    parts: int
    nodes: int
    node_cores: int
    needs: dict[str, int]
    traffic: float
    stored: float
    money: dict[str, float]


def redis_plan(rate: float, unit: Unit) -> Plan:
    """Masters with one topic each, and a replica for each."""
    masters = {
        "thread": rate * unit.broker,
        "memory": rate * unit.stored * REDIS.kept / REDIS.memory,
        "network": rate * (unit.traffic + unit.copied) / REDIS.network,
    }
    needs = {name: REDIS.copies * math.ceil(need / REDIS.full) for name, need in masters.items()}
    return _plan(rate, unit, REDIS, needs, max(needs.values()) // REDIS.copies)


def kafka_plan(rate: float, unit: Unit) -> Plan:
    """Brokers, and twice as many partitions as workers, so that there is room to grow."""
    followers = KAFKA.copies - 1  # a follower serves nobody: half of the CPU time
    brokers = {
        "cores": rate * unit.broker * (1 + followers / 2) / KAFKA.cores,
        "network": rate * (unit.traffic + 2 * followers * unit.copied) / KAFKA.network,
        "disk": rate * unit.stored * KAFKA.copies / KAFKA.disk,
    }
    needs = {name: max(math.ceil(need / KAFKA.full), KAFKA.copies) for name, need in brokers.items()}
    return _plan(rate, unit, KAFKA, needs, 2 * math.ceil(rate / (unit.worker_rate * KAFKA.full)))


def _plan(rate: float, unit: Unit, given: Assumptions, needs: dict[str, int], parts: int) -> Plan:
    """A plan with as many nodes as the largest need."""
    workers = math.ceil(rate / (unit.worker_rate * given.full))
    cores, nodes = math.ceil(rate * unit.worker / given.full), max(needs.values())
    traffic, copied = rate * unit.traffic, rate * unit.copied * (given.copies - 1)
    stored, month = rate * unit.stored * given.kept * given.copies, MONTH * 3_600

    def machines(cores: float, memory: float) -> float:
        return MONTH * (cores * given.core_hour + memory / 1e9 * given.gb_hour)

    money = {
        "workers": machines(cores, workers * given.worker_memory),
        "broker": machines(nodes * given.cores, nodes * given.memory) + stored / 1e9 * given.disk_month,
        "traffic": (traffic * given.between + copied) * month / 1e9 * given.zone,
    }
    per_node = (traffic + 2 * copied) / nodes  # a copy leaves one node and enters another
    return Plan(workers, cores, parts, nodes, nodes * given.cores, needs, per_node, stored, money)
