"""Outputs of a handler become records that name their input, predictor and model."""

from __future__ import annotations

from functools import cache, reduce
from itertools import islice
from operator import or_
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_origin, get_type_hints

import msgspec

from eventml import records
from eventml.backends.base import Completion
from eventml.codec import Encoder, Format
from eventml.errors import OutputError, Reject
from eventml.handler_options import is_reserved
from eventml.handlers import Handler
from eventml.models import Model
from eventml.records import Delivery, Output, Record
from eventml.runtime.failures import CallResults, Failed
from eventml.runtime.output_checks import OutputChecks, Prediction, each_alone
from eventml.runtime.tracing import HandlerTracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_NOT_PLAIN: Final = {Output, Reject, list}


class Outputs:
    """Makes completions of one predictor's outputs.

    An output has its input's key, so that its order per key is kept, and the id
    `<input id>/<predictor>@<model version>`, which is the same if the event is handled again. The outputs of
    a list are numbered: `/1`, `/2` and so on behind that.

    Args:
        formats: The formats of its topics, by topic.
        model: The predictor's model, if it has one.
        source: The bus's name: the outputs' `ce_source`.
        tracing: Gives the outputs their trace context; None if tracing is off.

    Attributes:
        suffix: `<predictor>@<model version>`, or the predictor's name alone if it has no model.
    """

    def __init__(
        self,
        handler: Handler,
        formats: Mapping[str, Format],
        *,
        model: Model | None,
        source: str,
        tracing: HandlerTracing | None = None,
    ) -> None:
        self._name = handler.name
        self._types = handler.outputs
        self._several = handler.several
        self._carry = handler.options.carry
        self._checks = OutputChecks(handler)
        self._encoders = {topic: Encoder(formats.get(topic, "json")) for topic in handler.outputs}
        self._headers = {
            topic: MappingProxyType(output_headers(handler, topic, source, encoder.content_type, model))
            for topic, encoder in self._encoders.items()
        }
        self._tracing = tracing
        self.suffix = handler.name if model is None else f"{handler.name}@{model.version}"
        [self._topic, *others] = handler.outputs
        self._is_plain = handler.several is not True and not others
        self._topic_of: Callable[[Any], str] = cache(self._find_topic)

    def completions(self, deliveries: Sequence[Delivery], outputs: Any) -> CallResults:
        """The completions of a batch, in its order; without an output where the handler returned None.

        In the place of an event that the handler rejected there is `Failed`.

        Raises:
            OutputError: the outputs do not fit the inputs, or cannot be encoded.
        """
        returned = self._checks.as_list(outputs)
        self._checks.check_length(returned, len(deliveries))
        if not self._are_plain(returned):
            return self._all_completions(deliveries, returned)
        values, are_numbers, complete = self._checks.check_values(returned)
        if are_numbers:
            values = [
                None if value is None else Prediction(delivery.record.id, value)
                for delivery, value in zip(deliveries, values, strict=True)
            ]
        if complete:
            return self.encode(deliveries, values)
        answered = [(d, value) for d, value in zip(deliveries, values, strict=True) if value is not None]
        encoded = iter(self.encode(*zip(*answered, strict=True)) if answered else ())
        return [
            Completion(delivery) if value is None else next(encoded)
            for delivery, value in zip(deliveries, values, strict=True)
        ]

    def completions_each(self, deliveries: Sequence[Delivery], outputs: Sequence[Any]) -> CallResults:
        """As `completions`, for outputs of single events: a bad one fails alone."""
        return each_alone(outputs, lambda part: self.completions(deliveries[part], outputs[part]))

    def encode(self, deliveries: Sequence[Delivery], outputs: Sequence[Any]) -> list[Completion]:
        """The completions of a batch in which each delivery has an output, which is not checked.

        Raises:
            OutputError: an output cannot be encoded.
        """
        encoded = self._encode(self._topic, deliveries, outputs)
        return [Completion(d, (record,)) for d, record in zip(deliveries, encoded, strict=True)]

    def _encode(self, topic: str, deliveries: Sequence[Delivery], outputs: Sequence[Any]) -> list[Record]:
        """The records of checked outputs to one topic, one for each delivery."""
        suffix, headers = self.suffix, self._headers[topic]
        values = self._encoders[topic].encode_all(outputs)
        all_headers: Iterable[Mapping[str, str]] = [headers] * len(deliveries)
        if self._tracing is not None:
            all_headers = self._tracing.output_headers(headers, [d.record.headers for d in deliveries])
        if self._carry:
            all_headers = [
                {**own, **{name: h[name] for name in self._carry if name in (h := d.record.headers)}}
                for d, own in zip(deliveries, all_headers, strict=True)
            ]
        return [
            Record(topic, value, d.record.key, f"{d.record.id}/{suffix}", own)
            for d, value, own in zip(deliveries, values, all_headers, strict=True)
        ]

    # Several outputs for an event, several topics, a key and headers of its own, or a Reject

    def _are_plain(self, values: Sequence[Any]) -> bool:
        """Whether each value is one output, for the predictor's only topic."""
        if not self._is_plain:
            return False
        kinds = _NOT_PLAIN.intersection(map(type, values))
        return not kinds or (kinds == {list} and not any(map(self._is_several, values)))

    def _is_several(self, value: Any) -> bool:
        """Whether a value is a list of outputs. A list of numbers is one, a row, if no annotation says so."""
        if not isinstance(value, list) or self._several is not None:
            return isinstance(value, list) and self._several is True
        return not value or not all(isinstance(v, int | float | list) or hasattr(v, "tolist") for v in value)

    def _all_completions(self, deliveries: Sequence[Delivery], values: Sequence[Any]) -> CallResults:
        made = [self._parts(delivery, value) for delivery, value in zip(deliveries, values, strict=True)]
        encoded = iter(self._encode_parts([part for parts in made for part in parts]))
        return [
            Failed(value) if isinstance(value, Reject) else Completion(d, tuple(islice(encoded, len(parts))))
            for d, value, parts in zip(deliveries, values, made, strict=True)
        ]

    def _parts(self, delivery: Delivery, value: Any) -> list[_Part]:
        if value is None or isinstance(value, Reject):
            return []
        if self._is_several(value):
            outputs = [output for output in value if output is not None]
            return [_Part(delivery, _as_output(o), f"/{n}") for n, o in enumerate(outputs, 1)]
        if self._several:
            raise OutputError(f"{self._name}: an event's outputs are a {type(value).__name__}, not a list")
        return [_Part(delivery, _as_output(value), "")]

    def _encode_parts(self, parts: Sequence[_Part]) -> list[Record]:
        values, are_numbers, _ = self._checks.check_values([part.output.value for part in parts])
        topics = [part.output.topic or self._topic_of(type(part.output.value)) for part in parts]
        encoded: dict[int, Record] = {}
        for topic in dict.fromkeys(topics):
            if topic not in self._encoders:
                raise OutputError(
                    f"{self._name}: an output is for the topic {topic!r}, which is not in its to=..."
                )
            places = [place for place, other in enumerate(topics) if other == topic]
            if are_numbers:
                outputs = [Prediction(parts[place].delivery.record.id, values[place]) for place in places]
            else:
                outputs = [values[place] for place in places]
            made = self._encode(topic, [parts[place].delivery for place in places], outputs)
            encoded |= {p: self._with_own(record, parts[p]) for p, record in zip(places, made, strict=True)}
        return [encoded[place] for place in range(len(parts))]

    def _with_own(self, record: Record, part: _Part) -> Record:
        """A record with the key and the headers that the handler gave."""
        _, output, end = part
        key = output.key.encode() if isinstance(output.key, str) else output.key
        for name in output.headers:
            if is_reserved(name):
                raise OutputError(f"{self._name}: an output's header {name!r} is written by the library")
        headers = {**record.headers, **output.headers} if output.headers else record.headers
        return Record(
            record.topic, record.value, record.key if key is None else key, record.id + end, headers
        )

    def _find_topic(self, type_: Any) -> str:
        """The topic of the outputs of a type, where they do not name one."""
        if len(self._types) == 1:
            return self._topic
        found = [topic for topic, expected in self._types.items() if issubclass(type_, expected)]
        if len(found) == 1:
            return found[0]
        shown = ", ".join(f"{topic!r} for {expected.__name__}" for topic, expected in self._types.items())
        raise OutputError(
            f"{self._name}: {'several topics are' if found else 'no topic is'} for an output of type "
            f"{type_.__name__}; to=... has {shown}; return Output(value, topic=...), or change to=..."
        )


def plain_outputs(handler: Handler, outputs: Sequence[Any]) -> list[Any]:
    """The values of outputs where there are no topics and keys; with `Failed` for an event that is rejected.

    Raises:
        OutputError: an event has a list of outputs.
    """
    values = []
    for output in outputs:
        value = output.value if isinstance(output, Output) else output
        if isinstance(value, list) and value and not isinstance(value[0], int | float | list):
            raise OutputError(f"{handler.name} returned several outputs for an event, where one is written")
        values.append(Failed(value) if isinstance(value, Reject) else value)
    return values


class _Part(NamedTuple):
    """One of the outputs for a delivery, and the end of its id."""

    delivery: Delivery
    output: Output
    end: str


def _as_output(value: Any) -> Output:
    return value if isinstance(value, Output) else Output(value)


def output_headers(
    handler: Handler, topic: str, source: str, content_type: str, model: Model | None = None
) -> dict[str, str]:
    """Headers of the records that a predictor publishes to a topic."""
    headers = {
        records.SPEC_VERSION: "1.0",
        records.TYPE: topic,
        records.SOURCE: source,
        records.CONTENT_TYPE: content_type,
        records.PREDICTOR: handler.name,
    }
    if model is not None:
        headers |= {records.MODEL: model.name, records.MODEL_VERSION: model.version}
    return headers


def outputs_as_json(outputs: Sequence[Record]) -> bytes:
    """The values of several outputs, as a list in JSON."""
    values = [
        msgspec.msgpack.decode(record.value)
        if record.headers[records.CONTENT_TYPE] == records.MSGPACK
        else msgspec.Raw(record.value)
        for record in outputs
    ]
    return msgspec.json.encode(values)


def output_event_types(handler: Handler) -> dict[str, Any]:
    """The type of the events that a predictor publishes, by topic: `Prediction` if it returns numbers."""
    return {topic: _event_type(handler, type_) for topic, type_ in handler.outputs.items()}


def answer_type(handler: Handler) -> Any:
    """The type of what a predictor answers for one event: of its outputs, or a list of them."""
    types = set(output_event_types(handler).values())
    type_: Any = reduce(or_, types) if Any not in types else Any
    return list[type_] if handler.several else type_


def _event_type(handler: Handler, type_: Any) -> Any:
    if type_ is Any:
        type_ = get_type_hints(handler.function).get("return", Any)
        return Prediction if hasattr(type_, "tolist") or hasattr(type_, "to_list") else Any
    numbers = type_ in (bool, int, float) or get_origin(type_) is list or hasattr(type_, "tolist")
    return Prediction if numbers else type_
