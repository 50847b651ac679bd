"""Outputs of a handler become records that name their input, predictor and model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, reduce
from itertools import islice
from operator import or_
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from eventml import records
from eventml.backends.base import Completion
from eventml.codec import Encoder, Format, shorten
from eventml.errors import OutputError, Reject
from eventml.event_types import check_event_type, is_list_type
from eventml.handler_options import is_reserved
from eventml.handlers import Handler
from eventml.models import Model
from eventml.records import Delivery, Output, Record
from eventml.runtime.calls.output_checks import OutputChecks, Prediction, each_alone
from eventml.runtime.failures.classification import CallResults, Failed
from eventml.runtime.tracing import HandlerTracing
from eventml.signatures import functions_of, type_hints


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
        self._handler = handler
        self._name = handler.name
        self._types = handler.outputs
        self._carry = handler.options.carry
        self._checks = OutputChecks(handler)
        self._encoders = {topic: Encoder(formats.get(topic, "json")) for topic in handler.outputs}
        self._headers = {
            topic: MappingProxyType(output_headers(handler, topic, source, encoder.content_type, model))
            for topic, encoder in self._encoders.items()
        }
        self._tracing = tracing
        self.suffix = output_suffix(handler, model)
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
        # Each row of an array or a frame is one output.
        if not self._is_plain or not are_values(self._handler, returned, rows=returned is not outputs):
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
        all_headers: Sequence[Mapping[str, str]] = [headers] * len(deliveries)
        if self._tracing is not None:
            all_headers = self._tracing.output_headers(headers, [d.record.headers for d in deliveries])
        if self._carry:
            all_headers = self._with_carried(all_headers, [d.record.headers for d in deliveries])
        return [
            Record(topic, value, d.record.key, f"{d.record.id}/{suffix}", own)
            for d, value, own in zip(deliveries, values, all_headers, strict=True)
        ]

    def _with_carried(
        self, all_headers: Sequence[Mapping[str, str]], inputs: Sequence[Mapping[str, str]]
    ) -> list[Mapping[str, str]]:
        """Headers with those of the inputs that are carried. Inputs that share a mapping share the result."""
        made: dict[int, Mapping[str, str]] = {}
        for own, found in zip(all_headers, inputs, strict=True):
            if id(found) not in made:
                carried = {name: found[name] for name in self._carry if name in found}
                made[id(found)] = MappingProxyType({**carried, **own}) if carried else own
        return [made[id(found)] for found in inputs]

    # Several outputs for an event, several topics, a key and headers of its own, or a Reject

    def _all_completions(self, deliveries: Sequence[Delivery], values: Sequence[Any]) -> CallResults:
        made = [self._parts(delivery, value) for delivery, value in zip(deliveries, values, strict=True)]
        encoded = iter(self._encode_parts([part for parts in made for part in parts]))
        return [
            Failed(value) if isinstance(value, Reject) else Completion(d, tuple(islice(encoded, len(parts))))
            for d, value, parts in zip(deliveries, values, made, strict=True)
        ]

    def _parts(self, delivery: Delivery, value: Any) -> list[_Part]:
        outputs = [] if isinstance(value, Reject) else _outputs_of(self._handler, value)
        numbered = is_several(self._handler, value)
        return [_Part(delivery, o, f"/{n}" if numbered else "") for n, o in enumerate(outputs, 1)]

    def _encode_parts(self, parts: Sequence[_Part]) -> list[Record]:
        values, are_numbers, _ = self._checks.check_values([part.output.value for part in parts])
        topics = [part.output.topic or self._topic_of(type(part.output.value)) for part in parts]
        encoded: dict[int, Record] = {}
        for topic in dict.fromkeys(topics):
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
        headers = {**record.headers, **output.headers} if output.headers else record.headers
        return Record(
            record.topic, record.value, record.key if key is None else key, record.id + end, headers
        )

    def _find_topic(self, type_: Any) -> str:
        """The topic of the outputs of a type, where they do not name one: that of the nearest class."""
        if len(self._types) == 1:
            return self._topic
        nearest = next((class_ for class_ in type_.__mro__ if class_ in self._types.values()), None)
        found = [topic for topic, expected in self._types.items() if expected is nearest]
        if len(found) == 1:
            return found[0]
        shown = ", ".join(f"{topic!r} for {expected.__name__}" for topic, expected in self._types.items())
        raise OutputError(
            f"{self._name}: {'several topics are' if found else 'no topic is'} for an output of type "
            f"{type_.__name__}; to=... has {shown}; return Output(value, topic=...), or change to=..."
        )


def is_several(handler: Handler, value: Any) -> bool:
    """Whether what a handler returned for an event is a list of outputs, not one output.

    If no annotation says so, a list is one unless it is a row of numbers.
    """
    if handler.several is not None:
        return handler.several and isinstance(value, list | tuple)
    if not isinstance(value, list):
        return False
    return not value or not all(isinstance(v, (int, float, list)) or hasattr(v, "tolist") for v in value)


def are_values(handler: Handler, outputs: Sequence[Any], *, rows: bool = False) -> bool:
    """Whether what a handler returned for each event is a value: no list of outputs, `Output` or `Reject`.

    `rows` says that the values are the rows of an array or a frame, which are no lists of outputs.
    """
    kinds = set(map(type, outputs))
    if any(issubclass(kind, (Output, Reject)) for kind in kinds):
        return False
    if rows or handler.several is False or not any(issubclass(kind, list) for kind in kinds):
        return True
    return not any(is_several(handler, value) for value in outputs)


def plain_outputs(handler: Handler, outputs: Sequence[Any]) -> list[Any]:
    """The values of outputs where there are no topics and keys, one for each event; None for no output.

    In the place of an event that was rejected, or has an output that is not possible, there is `Failed`.
    """
    if are_values(handler, outputs):
        return list(outputs)
    return each_alone(outputs, lambda part: [_plain_output(handler, output) for output in outputs[part]])


def _plain_output(handler: Handler, value: Any) -> Any:
    if isinstance(value, Reject):
        raise value
    outputs = _outputs_of(handler, value)
    if outputs and is_several(handler, value):
        raise OutputError(f"{handler.name} returned a list of outputs for an event, where one is written")
    return outputs[0].value if outputs else None


def _outputs_of(handler: Handler, value: Any) -> list[Output]:
    """The outputs in what a handler returned for an event, without those that are None.

    Raises:
        OutputError: one is not possible, or there is no list of them where the annotation says so.
    """
    some = value if is_several(handler, value) else [value]
    if handler.several and some is not value and value is not None:
        raise OutputError(f"{handler.name}: an event's outputs are a {type(value).__name__}, not a list")
    outputs = [_checked(handler, one) if isinstance(one, Output) else Output(one) for one in some]
    return [output for output in outputs if output.value is not None]


def _checked(handler: Handler, output: Output) -> Output:
    key, headers, topic = output.key, output.headers, output.topic
    if not records.is_key(key):
        raise OutputError(f"{handler.name}: an output's key is text or bytes, not {shorten(key)}")
    if not records.are_headers(headers):
        raise OutputError(f"{handler.name}: an output's headers are texts by name, not {shorten(headers)}")
    if reserved := list(filter(is_reserved, headers)):
        raise OutputError(f"{handler.name}: an output's header {reserved[0]!r} is written by the library")
    if topic is not None and topic not in list(handler.outputs):
        raise OutputError(f"{handler.name}: an output is for the topic {topic!r}, which is not in its to=...")
    return output


class _Part(NamedTuple):
    """One of the outputs for a delivery, and the end of its id."""

    delivery: Delivery
    output: Output
    end: str


def output_suffix(handler: Handler, model: Model | None) -> str:
    """The end of the ids of a predictor's outputs: `<predictor>@<model version>`, or the predictor's name."""
    return handler.name if model is None else f"{handler.name}@{model.version}"


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


def answer_is_list(outputs: Sequence[Record], input_id: str) -> bool:
    """Whether the outputs of one event are a list; if not, there is one, whose id has no number behind it."""
    if len(outputs) != 1:
        return True
    headers = outputs[0].headers
    version = f"@{headers[records.MODEL_VERSION]}" if records.MODEL_VERSION in headers else ""
    return outputs[0].id != f"{input_id}/{headers.get(records.PREDICTOR)}{version}"


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
    type_: Any = union_of(set(output_event_types(handler).values()))
    return list[type_] if handler.several else type_


def union_of(types: Collection[Any]) -> Any:
    """The type that values of these types are decoded to; Any if their union cannot be told apart."""
    type_ = reduce(or_, types) if types and Any not in types else Any
    try:
        check_event_type(type_)
    except TypeError:
        return Any
    return type_


def _event_type(handler: Handler, type_: Any) -> Any:
    if type_ is Any:
        type_ = type_hints(handler.name, functions_of(handler.function)[0]).get("return", Any)
        return Prediction if hasattr(type_, "tolist") or hasattr(type_, "to_list") else Any
    numbers = type_ in (bool, int, float) or is_list_type(type_) or hasattr(type_, "tolist")
    return Prediction if numbers else type_
