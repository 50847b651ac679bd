"""How far a group is behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from eventml.backends.kafka.progress import Place, Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventml.backends.kafka.assignment import Assignment
    from eventml.backends.kafka.observer import Observer


async def group_lag(
    observer: Observer, group: str, topics: Mapping[str, int], here: Iterable[Assignment | None]
) -> dict[TopicPartition, int] | None:
    """How many records a group has not finished, by partition. None where there is no such group.

    Of a partition that another process works on, what it has not committed yet counts as unfinished.

    Args:
        observer: Asks the brokers.
        group: The group.
        topics: Its topics, and how many partitions each has.
        here: The assignments of its members in this process, which know of more than was committed.

    Raises:
        UnavailableError: no answer.
    """
    partitions = [TopicPartition(topic, p) for topic, count in topics.items() for p in range(count)]
    ends = await observer.offsets(partitions, "latest")
    ours = {p: a for a in here if a is not None for p in a.partitions if p in ends}
    committed = await observer.committed(group, partitions)
    if not committed and not ours:
        return None
    untouched = [p for p in partitions if p not in committed and p not in ours]
    begins = await observer.offsets(untouched, "earliest")
    places = {p: Place(offset) for p, offset in begins.items()} | committed
    return {
        p: (ours[p].unfinished(p, end) if p in ours else Progress(places[p]).unfinished(end))
        for p, end in ends.items()
    }
