"""Replies to requests over the bus: adding them to the completions of requests, and reading them.

A request is a record with the header `eventml-reply-to: <its topic>.replies`. A reply to it is published to
that topic, with the id `<request id>/<predictor>@<model version>`, in the same step that completes the
request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from eventml import records
from eventml.backends.base import Backend, Completion, Subscription, TrimsTopics
from eventml.codec import Decoder
from eventml.errors import (
    BackendError,
    DecodeError,
    EventMLError,
    FullError,
    PredictionError,
    PublishError,
    UnavailableError,
)
from eventml.handlers import Handler
from eventml.records import REPLAY_GROUP, REPLY_FROM, REPLY_TO, Delivery, Record
from eventml.runtime.calls.handler_call import HandlerCall
from eventml.runtime.calls.outputs import answer_is_list, output_headers, outputs_as_json, union_of
from eventml.runtime.failures.dead_letters import DLQ_PREFIX, DeadLetterCompletion
from eventml.runtime.failures.exceptions import describe

log = logging.getLogger("eventml")

REPLY_RETENTION: Final = 60.0
"""How long replies are kept, in seconds: those who wait for them read them at once."""

_PAUSE: Final = 5.0  # seconds without replies after the broker has refused all replies of a batch
_TRIM_INTERVAL: Final = REPLY_RETENTION / 4


def reply_topic(topic: str) -> str:
    """The topic of the replies to the requests on a topic.

    On a Redis cluster it is in the topic's slot, as the dead letters are: they share the hash tag.
    """
    return f"{topic}.replies"


def is_request(headers: Mapping[str, str]) -> bool:
    """Whether a record with these headers is a request. A replayed dead letter is not any more."""
    return REPLY_TO in headers and REPLAY_GROUP not in headers


class FailureReply(msgspec.Struct, frozen=True):
    """The value of a reply that says why there is no output.

    Attributes:
        exception: The class of the failure, by its name.
        message: The failure in one line, without values of the event; the message of a `Reject` is unchanged.
        dead_letters: The topic of the dead letter.
    """

    exception: str
    message: str
    dead_letters: str


class Replies:
    """Completes one predictor's deliveries, and replies to the requests among them.

    While no request is in flight, completions are passed on unchanged. A reply that the broker refuses is
    left out: its request is completed without it.

    Replies go to the reply topic of the predictor's own topic only: a header that names another topic is
    ignored.

    Args:
        backend: Trims the reply topic, if its topics do not trim themselves.
        call: Calls the handler; the ids of replies without an output end as those of its outputs do.
        source: The replies' `ce_source`.
    """

    def __init__(
        self,
        subscription: Subscription,
        backend: Backend,
        handler: Handler,
        *,
        call: HandlerCall,
        source: str,
    ) -> None:
        self._subscription = subscription
        self._trimmer = backend if isinstance(backend, TrimsTopics) else None
        self._topic = reply_topic(handler.topic)
        self._predictor = handler.name
        self._call = call
        self._several = handler.several
        headers = output_headers(handler, self._topic, source, records.JSON)
        self._no_output_headers = MappingProxyType({**headers, records.REPLY: records.NO_OUTPUT})
        self._failed_headers = MappingProxyType({**headers, records.REPLY: records.FAILED})
        self._in_flight = 0
        self._paused_until = 0.0
        self._trimmed = -_TRIM_INTERVAL

    def expect(self, deliveries: Sequence[Delivery], all_headers: Sequence[Mapping[str, str]]) -> None:
        """Count the requests among received deliveries; their headers are as in a `DecodedBatch`."""
        if any(map(is_request, all_headers)):
            self._in_flight += sum(is_request(delivery.record.headers) for delivery in deliveries)

    async def complete(self, completions: Sequence[Completion]) -> None:
        """As `Subscription.complete`, with a reply to each request among the completions."""
        if not self._in_flight:
            await self._subscription.complete(completions)
            return
        requests = [p for p, c in enumerate(completions) if is_request(c.delivery.record.headers)]
        replies = {p: reply for p in requests if (reply := self._reply(completions[p])) is not None}
        try:
            await self._complete(completions, replies if time.monotonic() >= self._paused_until else {})
        except PublishError as exc:
            if exc.failed:
                self._in_flight -= sum(position not in exc.failed for position in requests)
            raise
        self._in_flight -= len(requests)
        if replies:
            await self._trim()

    async def _complete(self, completions: Sequence[Completion], replies: Mapping[int, Record]) -> None:
        if not replies:
            await self._subscription.complete(completions)
            return
        with_replies = [
            msgspec.structs.replace(completion, outputs=(*completion.outputs, replies[position]))
            if position in replies
            else completion
            for position, completion in enumerate(completions)
        ]
        try:
            await self._subscription.complete(with_replies)
        except (UnavailableError, FullError):
            raise
        except BackendError as exc:
            # The replies may have been the reason: complete what was refused again, without them.
            log.warning("replies to %s cannot be written: %s", self._topic, describe(exc))
            refused = exc.failed if isinstance(exc, PublishError) else {}
            if not refused:
                self._paused_until = time.monotonic() + _PAUSE
            again = [p for p in replies if p in refused] if refused else list(range(len(completions)))
            still_refused = {p: reason for p, reason in refused.items() if p not in replies}
            try:
                await self._subscription.complete([completions[position] for position in again])
            except PublishError as second:
                if not second.failed:
                    raise
                still_refused |= {again[number]: reason for number, reason in second.failed.items()}
            if still_refused:
                raise PublishError(next(iter(still_refused.values())), still_refused) from exc

    def _reply(self, completion: Completion) -> Record | None:
        """The reply to a request; None if it names another reply topic or another predictor."""
        request = completion.delivery.record
        if request.headers.get(REPLY_TO) != self._topic:
            return None
        if request.headers.get(REPLY_FROM, self._predictor) != self._predictor:
            return None
        if not completion.outputs and not self._several:
            return self._without_output(request, b"null", self._no_output_headers)
        if not completion.dead_letter:
            return self._with_outputs(request, completion.outputs)
        output = completion.outputs[0]
        exception = message = output.headers[f"{DLQ_PREFIX}exception"]
        # The requester may show it to anybody. Other messages may hold the event, or whatever a library says.
        if isinstance(completion, DeadLetterCompletion):
            if completion.intended and completion.message:
                message = f"{exception}: {completion.message}"
            elif issubclass(completion.error_type, DecodeError):
                message = completion.cause  # how it fails its type
        failure = FailureReply(exception=exception, message=message, dead_letters=output.topic)
        return self._without_output(request, msgspec.json.encode(failure), self._failed_headers)

    def _with_outputs(self, request: Record, outputs: Sequence[Record]) -> Record:
        if not answer_is_list(outputs, request.id):
            [output] = outputs
            return Record(self._topic, output.value, output.key, output.id, output.headers)
        topics = {output.topic for output in outputs}
        headers = {
            **(outputs[0].headers if outputs else self._no_output_headers),
            records.CONTENT_TYPE: records.JSON,
            records.REPLY: records.SEVERAL,
            records.TYPE: topics.pop() if len(topics) == 1 else self._topic,
        }
        return self._without_output(request, outputs_as_json(outputs), headers)

    def _without_output(self, request: Record, value: bytes, headers: Mapping[str, str]) -> Record:
        suffix = self._predictor if self._call.outputs is None else self._call.outputs.suffix
        return Record(self._topic, value, request.key, f"{request.id}/{suffix}", headers)

    async def _trim(self) -> None:
        if self._trimmer is None or time.monotonic() < self._trimmed + _TRIM_INTERVAL:
            return
        self._trimmed = time.monotonic()
        try:
            await self._trimmer.trim(self._topic, older_than=REPLY_RETENTION)
        except EventMLError as exc:
            log.warning("%s cannot be trimmed: %s", self._topic, describe(exc))


def request_id(reply: Record) -> str:
    """The id of the request that a reply answers: the reply's id up to the first slash."""
    return reply.id.partition("/")[0]


def predictor_of(reply: Record) -> str:
    """The name of the predictor that replied; empty if the reply does not say."""
    return reply.headers.get(records.PREDICTOR, "")


def read_reply(reply: Delivery, output_type: Any, types: Mapping[str, Any]) -> Any:
    """The output in a reply, or the list of them; None if the predictor returned None.

    It is decoded to `output_type`; if that is None, to the type of the output's topic, if `types` has it.

    Raises:
        PredictionError: the predictor failed.
        DecodeError: the output is not of that type.
    """
    kind = reply.record.headers.get(records.REPLY)
    if kind == records.NO_OUTPUT:
        return None
    if output_type is None:
        topic = reply.record.headers.get(records.TYPE, "")
        output_type = types[topic] if topic in types else union_of(types.values())
        output_type = list[output_type] if kind == records.SEVERAL else output_type
    [value] = Decoder(FailureReply if kind == records.FAILED else output_type).decode([reply])
    if isinstance(value, DecodeError):
        raise value
    if kind == records.FAILED:
        raise PredictionError(
            f"{predictor_of(reply.record)} failed: {value.message}. The event is in {value.dead_letters}",
            exception=value.exception,
            reason=value.message,
        )
    return value
