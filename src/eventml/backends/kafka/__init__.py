"""The Kafka backend: the log that scales past one machine. Needs the extra `kafka`.

It promises that a publish that returned is on all in-sync replicas; that every record is handled at least
once, because only offsets are committed before which all records are completed; and the order of records of
one key. With `delivery=exactly_once` one input gives one output, to readers of committed records. It does not
promise more than the topics' own replication and retention, and it does not deduplicate.

Reading order: `settings`, `errors`, `connection` (aiokafka's clients), `partitions`, `admin`, `wire`,
`batches`, `publishing`, `assignment`, `completion`, `fetching`, `member`, `lag`, `subscription`, `backend`.
The package imports `eventml.backends.base`, `eventml.records`, `eventml.errors` and aiokafka.
"""

from __future__ import annotations

from eventml.errors import MissingExtraError

try:
    from eventml.backends.kafka.backend import KafkaBackend, capabilities, open  # noqa: A004 - the name in the seam
    from eventml.backends.kafka.settings import Settings
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "aiokafka":
        raise
    raise MissingExtraError("kafka", "kafka://") from exc

__all__ = ["KafkaBackend", "Settings", "capabilities", "open"]
