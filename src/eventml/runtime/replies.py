"""Replies to requests over the bus: how one is made of a completion, and what one says. Pure.

A request is a record whose header `eventml-reply-to` names its topic's reply topic. Its id is what a
reply is known by: a reply's id is `<request id>/<predictor>@<model version>`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml import records
from eventml.codec import Decoder
from eventml.errors import DecodeError, PredictionError
from eventml.records import Record, prediction_id
from eventml.runtime.deadletters import DLQ_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventml.backends.base import Completion
    from eventml.records import Delivery

RETENTION: Final = 60.0
"""Seconds that a reply is kept: those who wait read it at once, and nobody else wants it."""


def reply_topic(topic: str) -> str:
    """Where requests to a topic are answered. It shares the topic's hash tag, as dead letters do."""
    return f"{topic}.replies"


class Failure(msgspec.Struct, frozen=True):
    """The value of a reply that says why there is no output.

    Attributes:
        exception: The class of the failure, by its name.
        message: What it said, in one line.
        dead_letters: The topic where the event was set aside.
    """

    exception: str
    message: str
    dead_letters: str


class Replies:
    """Makes one predictor's replies.

    The topic is the predictor's own and no other: what a header from outside names is compared, never
    written to.

    Args:
        topic: What the predictor reads.
        name: The predictor's.
        suffix: `<predictor>@<model version>`, as in the ids of its outputs.
        source: The bus's name.
    """

    def __init__(self, topic: str, name: str, *, suffix: str, source: str) -> None:
        self.topic = reply_topic(topic)
        self._name = name
        self._suffix = suffix
        said = {
            records.SPEC_VERSION: "1.0",
            records.TYPE: self.topic,
            records.SOURCE: source,
            records.CONTENT_TYPE: records.JSON,
            records.PREDICTOR: name,
        }
        self._no_output = MappingProxyType({**said, records.REPLY: records.NO_OUTPUT})
        self._failed = MappingProxyType({**said, records.REPLY: records.FAILED})

    def reply(self, completion: Completion) -> Record | None:
        """The reply to a request that is completed so; None where this predictor was not asked."""
        asked = completion.delivery.record
        if asked.headers.get(records.REPLY_TO) != self.topic:
            return None
        if asked.headers.get(records.REPLY_FROM, self._name) != self._name:
            return None
        if not completion.outputs:
            return self._made(asked, b"null", self._no_output)
        output = completion.outputs[0]
        if f"{DLQ_PREFIX}group" in output.headers:
            return self._made(asked, msgspec.json.encode(_failure(output)), self._failed)
        return Record(self.topic, output.value, output.key, output.id, output.headers)

    def _made(self, asked: Record, value: bytes, headers: Mapping[str, str]) -> Record:
        return Record(self.topic, value, asked.key, prediction_id(asked.id, self._suffix), headers)


def _failure(letter: Record) -> Failure:
    said = letter.headers
    return Failure(said.get(f"{DLQ_PREFIX}exception", ""), said.get(f"{DLQ_PREFIX}message", ""), letter.topic)


def answers(reply: Record) -> str:
    """The id of the request that a reply is to. Ours hold no slash."""
    return reply.id.partition("/")[0]


def predictor_of(reply: Record) -> str:
    return reply.headers.get(records.PREDICTOR, "")


def read_reply(reply: Delivery, output_type: Any) -> Any:
    """The output that a reply brings; None where the predictor gave none.

    Raises:
        PredictionError: it says that there is none, and why.
        DecodeError: it is not of that type.
    """
    kind = reply.record.headers.get(records.REPLY)
    if kind == records.NO_OUTPUT:
        return None
    [read] = Decoder(Failure if kind == records.FAILED else output_type).decode([reply])
    if isinstance(read, DecodeError):
        raise read
    if kind == records.FAILED:
        raise PredictionError(
            f"{predictor_of(reply.record)} failed: {read.message}. The event is in {read.dead_letters}",
            exception=read.exception,
            reason=read.message,
        )
    return read
