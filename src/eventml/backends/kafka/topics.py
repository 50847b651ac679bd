"""Topics: creating them, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiokafka import errors as kafka
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest

from eventml.errors import BackendError, EventMLError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import NewTopic
    from eventml.backends.kafka.observer import Observer

_TOPIC: Final = 2  # the kind of resource, in the protocol
_LIMIT: Final = "max.message.bytes"
_COPIES: Final = 3
_SEGMENT: Final = 7 * 24 * 3600 * 1000  # milliseconds: Kafka's own default


async def create(observer: Observer, topics: Sequence[NewTopic]) -> list[str]:
    """Create topics, and wait until they can be used. Returns the names of those that were not there.

    Raises:
        BackendError: the brokers refused one; those named before it were created.
        UnavailableError: no answer.
    """
    existing = await observer.partitions([topic.name for topic in topics])
    wanted = [_request(topic, observer.nodes) for topic in topics if topic.name not in existing]
    if not wanted:
        return []
    answer = await observer.ask(
        CreateTopicsRequest(wanted, timeout=10_000, validate_only=False),
        "creating topics",
        lambda: observer.controller,
    )
    for name, code, message in answer.topic_errors:
        error = kafka.for_code(code)
        # Somebody else may have been faster; so may we, if an answer of ours was lost.
        if error not in {kafka.NoError, kafka.TopicAlreadyExistsError}:
            raise BackendError(f"cannot create topic {name}: {message or error.__name__}")
    created = [topic.name for topic in topics if topic.name not in existing]
    await observer.require(created)
    return created


async def limit(observer: Observer, topic: str) -> int | None:
    """The most bytes that a topic takes in one batch; None where we may not know."""
    request = DescribeConfigsRequest([(_TOPIC, topic, [_LIMIT])])
    try:
        answer = await observer.ask(request, f"asking for the limits of {topic}")
    except EventMLError:
        return None
    for code, _message, _kind, _name, entries in answer.resources:
        if kafka.for_code(code) is kafka.NoError:
            for name, value, *_ in entries:
                if name == _LIMIT:
                    return int(value)
    return None


def _request(topic: NewTopic, brokers: int) -> tuple[Any, ...]:
    config = []
    if topic.retention is not None:
        kept = max(round(topic.retention * 1000), 1)
        config.append(("retention.ms", str(kept)))
        # A segment goes as a whole, once its last record is too old: by default that is a week's worth.
        config.append(("segment.ms", str(min(kept, _SEGMENT))))
    copies = topic.replication or min(_COPIES, max(brokers, 1))
    return (topic.name, topic.partitions or 8, copies, [], config)
