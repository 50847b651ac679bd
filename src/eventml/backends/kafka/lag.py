"""How far a group is behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from eventml.backends.kafka.progress import Place, Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventml.backends.kafka.assignment import Assignment
    from eventml.backends.kafka.counting import Counting
    from eventml.backends.kafka.observer import Observer


async def group_lag(
    observer: Observer,
    counting: Counting,
    group: str,
    topics: Mapping[str, int],
    here: Iterable[Assignment | None],
) -> dict[TopicPartition, int] | None:
    """How many records a group has not finished, by partition.

    None where there is no such group, where the records of a partition are too many to be counted (see
    `Counting`), or where a partition has just gone to another member. Of a partition that another
    process works on, what it has not committed yet counts as unfinished.

    Args:
        observer: Asks the brokers.
        counting: Counts records.
        group: The group.
        topics: Its topics, and how many partitions each has.
        here: The assignments of its members in this process, which know of more than was committed.

    Raises:
        UnavailableError: no answer.
    """
    partitions = [TopicPartition(topic, p) for topic, count in topics.items() for p in range(count)]
    assignments = [assignment for assignment in here if assignment is not None]
    ends = await observer.offsets(partitions, "latest")
    committed = await observer.committed(group, partitions)
    if not committed and not any(assignment.partitions for assignment in assignments):
        return None
    begins = await observer.offsets([p for p in partitions if p not in committed], "earliest")
    places = {
        p: Progress(place) for p, place in ({p: Place(o) for p, o in begins.items()} | committed).items()
    }
    ours = _by_partition(assignments)
    at = {p: ours[p].position(p) if p in ours else places[p].position for p in partitions}
    holes = await counting.holes({p: (at[p], end) for p, end in ends.items() if at[p] < end})
    if None in holes.values() or ours != _by_partition(assignments):  # unknown, or a rebalance was faster
        return None
    lags: dict[TopicPartition, int] = {}
    for partition, end in ends.items():
        known = holes.get(partition) or ()
        lags[partition] = (
            ours[partition].unfinished(partition, end, known)
            if partition in ours
            else places[partition].unfinished(end, known)
        )
    return lags


def _by_partition(assignments: Iterable[Assignment]) -> dict[TopicPartition, Assignment]:
    return {partition: assignment for assignment in assignments for partition in assignment.partitions}
