"""Records out of what a broker answers to a fetch, as a reader of committed records gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import KafkaError
from aiokafka.record.memory_records import MemoryRecords

from eventml.backends.kafka.faults import describe
from eventml.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import TopicPartition

    from eventml.backends.kafka.observer import Fetched


def records(
    partition: TopicPartition, fetched: Fetched, start: int, of: Callable[[Any], Any]
) -> tuple[list[Any], int]:
    """What `of` makes of each record from an offset on, and the offset to go on from.

    Raises:
        UnavailableError: they cannot be read: damaged, or compressed by what is not installed.
    """
    found = PartitionRecords(
        partition,
        MemoryRecords(fetched.records),
        fetched.aborted,
        start,
        None,
        None,
        False,
        READ_COMMITTED,
    )
    found._consumer_record = lambda _, record: of(record)  # noqa: SLF001 - a record of its own is not needed
    try:
        return list(found), found.next_fetch_offset
    except KafkaError as exc:
        raise UnavailableError(f"cannot read the records of {partition}: {describe(exc)}") from exc


def transactional(fetched: Fetched) -> bool:
    """Whether a transaction wrote any of this, its mark included."""
    batches = MemoryRecords(fetched.records)
    while batches.has_next():
        if getattr(batches.next_batch(), "is_transactional", False):  # the oldest formats know of none
            return True
    return False
