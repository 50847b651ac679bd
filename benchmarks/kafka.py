"""eventml over Kafka, against FastStream, a plain aiokafka loop, and librdkafka.

    python benchmarks/kafka.py [--events N] [--rounds N] [--only MODEL] [--mock | --quick]

Ride events of 250 bytes are fetched, decoded, predicted from, and committed once their results are
produced, by one worker in one process, on a topic of 8 partitions. The cases take turns within one run,
on one machine. The broker is a real one, started for the occasion; or with `--mock` librdkafka's mock
broker, which costs next to nothing: what is left then is the client's own work.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # from its own folder, this file would be found in the place of others

from confluent_kafka import Producer  # noqa: E402 - only from here on is everything found
from rich.console import Console  # noqa: E402 - the same

from backends.kafka.cluster import KafkaCluster  # noqa: E402 - the same
from benchmarks import kafka_cases as ways  # noqa: E402 - the same
from benchmarks.measuring import interleave, linear, machine, no_op, report, rides  # noqa: E402 - the same
from eventml.backends import kafka as backend  # noqa: E402 - the same
from eventml.backends.base import NewTopic  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTITIONS = 8
MOCK_KEEPS = 40_000  # events: the mock broker forgets beyond 5 MB a partition
ONE_BY_ONE = "FastStream, one by one"
IN_BATCHES = "FastStream, batches"
PLAIN = "aiokafka loop, send_batch"
OVERLAPPED = "confluent-kafka, overlapped"
AIMS = {ONE_BY_ONE: 60.0, IN_BATCHES: 4.0, PLAIN: 1.3, OVERLAPPED: 0.75}
MODELS = {"no-op": no_op, "linear": linear}


def cases(brokers: str, events: int, predict: ways.Predict) -> dict[str, Callable[[], float]]:
    """The cases by name, each with as many events as it handles in a second or two."""
    return {
        "eventml": lambda: ways.with_eventml(brokers, events, predict),
        ONE_BY_ONE: lambda: ways.with_faststream(brokers, events // 50, predict, ways.one_by_one),
        IN_BATCHES: lambda: ways.with_faststream(brokers, events // 4, predict, ways.in_batches),
        PLAIN: lambda: ways.with_aiokafka(brokers, events, predict),
        f"{PLAIN}, eventml's headers": lambda: ways.with_aiokafka(brokers, events, predict, headers=True),
        "confluent-kafka, awaited": lambda: ways.with_confluent(brokers, events, predict, awaited=True),
        OVERLAPPED: lambda: ways.with_confluent(brokers, events, predict, awaited=False),
    }


@contextmanager
def real(*, quick: bool) -> Iterator[str]:
    """Start a Kafka broker for this run."""
    with KafkaCluster(quick=quick, settings={"group.initial.rebalance.delay.ms": "0"}) as cluster:
        yield cluster.bootstrap


@contextmanager
def mock() -> Iterator[str]:
    """Start librdkafka's mock broker in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    yield ours.recv()
    process.kill()


def _serve(parent: Any) -> None:
    producer = Producer({"test.mock.num.brokers": 1})
    for topic in (ways.SOURCE, ways.TARGET):
        producer.list_topics(topic, timeout=10)  # asking creates it, with 4 partitions
    brokers = producer.list_topics(timeout=10).brokers
    parent.send(",".join(f"{broker.host}:{broker.port}" for broker in brokers.values()))
    parent.recv()


def create_topics(brokers: str) -> None:
    async def main() -> None:
        async with backend.open(f"kafka://{brokers}", backend.Settings()) as broker:
            await broker.create_topics(
                [NewTopic(name=name, partitions=PARTITIONS) for name in (ways.SOURCE, ways.TARGET)]
            )

    asyncio.run(main())


def main() -> None:
    options = _parser().parse_args()
    console = Console(width=110)
    console.print(machine("eventml", "aiokafka", "faststream", "confluent-kafka"), soft_wrap=True)
    events = options.events or (MOCK_KEEPS if options.mock else 200_000)
    with mock() if options.mock else real(quick=options.quick) as brokers:
        if options.mock:
            console.print("librdkafka's mock broker")
        else:
            create_topics(brokers)
        ways.fill(brokers, rides(events))
        for name in [options.only] if options.only else MODELS:
            figures = interleave(cases(brokers, events, MODELS[name]), options.rounds)
            report(f"Kafka, {name} model, {events:,} events", figures, PLAIN)
            ours = statistics.median(figures["eventml"])
            for other, aim in AIMS.items():
                ratio = ours / statistics.median(figures[other])
                console.print(f"eventml / {other}: {ratio:.3g} (aim: {aim:g})")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, help=f"(default: 200,000, with --mock {MOCK_KEEPS:,})")
    parser.add_argument("--rounds", type=int, default=5, help="that count; one more warms up (default: 5)")
    parser.add_argument("--only", choices=list(MODELS))
    parser.add_argument("--mock", action="store_true", help="librdkafka's mock broker, not a real one")
    parser.add_argument("--quick", action="store_true", help="a broker that starts sooner and is slower")
    return parser


if __name__ == "__main__":
    main()
