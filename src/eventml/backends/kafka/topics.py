"""Topics: creating them, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiokafka import errors as kafka
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest

from eventml.errors import BackendError, EventMLError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import NewTopic
    from eventml.backends.kafka.observer import Observer

_TOPIC: Final = 2  # the kind of resource, in the protocol
_LIMIT: Final = "max.message.bytes"
_COPIES: Final = 3
_SEGMENT: Final = 7 * 24 * 3600 * 1000  # milliseconds: Kafka's own default
_MEMORY: Final = [  # what is crossed out goes soon, so that little has to be read
    ("cleanup.policy", "compact"),
    ("segment.bytes", "8388608"),
    ("min.cleanable.dirty.ratio", "0.2"),
    ("delete.retention.ms", "60000"),
]


async def create(observer: Observer, topics: Sequence[NewTopic]) -> list[str]:
    """Create topics, and wait until they can be used. Returns the names of those that were not there.

    Raises:
        BackendError: the brokers refused one; others may have been created.
        UnavailableError: no answer.
    """
    return await _create(observer, [_request(topic, observer.nodes) for topic in topics])


async def create_memory(observer: Observer, name: str, partitions: int) -> None:
    """Create a compacted topic for what a group remembers, if it is not there.

    Raises:
        BackendError: the brokers refused it.
        UnavailableError: no answer.
        UnsupportedError: it has too few partitions.
    """
    found = (await observer.partitions([name], patience=0.0)).get(name, 0)
    if not found:
        await _create(observer, [(name, partitions, min(_COPIES, max(observer.nodes, 1)), [], _MEMORY)])
        found = (await observer.require([name]))[name]
    if found < partitions:
        raise UnsupportedError(
            f"topic {name} has {found} partitions, and what it remembers comes from {partitions}: give it as "
            f"many (kafka-topics --alter --topic {name} --partitions {partitions})"
        )


async def _create(observer: Observer, wanted: Sequence[tuple[Any, ...]]) -> list[str]:
    if not wanted:
        return []
    answer = await observer.ask(
        CreateTopicsRequest(list(wanted), timeout=10_000, validate_only=False),
        "creating topics",
        lambda: observer.controller,
    )
    errors = {name: (kafka.for_code(code), message) for name, code, message in answer.topic_errors}
    created = [name for name, (error, _) in errors.items() if error is kafka.NoError]
    refused = [n for n, (e, _) in errors.items() if e not in {kafka.NoError, kafka.TopicAlreadyExistsError}]
    existing = await observer.partitions(refused) if refused else {}
    for name in refused:
        error, message = errors[name]
        if name not in existing:  # who may not create may still use what is there
            raise BackendError(f"cannot create topic {name}: {message or error.__name__}")
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
