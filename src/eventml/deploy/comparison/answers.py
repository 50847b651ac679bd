"""The predictions of a model: read from its topic, or made again from the events of the input topic."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from eventml.bus import Bus
from eventml.codec import Decoder
from eventml.errors import DecodeError, TopicNotFoundError, UnsupportedError
from eventml.event_types import to_builtin
from eventml.handlers import Handler
from eventml.records import MODEL_VERSION, Delivery
from eventml.runtime import (
    DeadLetterCompletion,
    Item,
    Retry,
    Stats,
    bare_prediction,
    call_without_stream,
    dead_letter_topic,
    load_handlers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BATCH: Final = 4096  # events predicted again in one call; a limit of the handler is kept

Fields = dict[str, Any]
"""The fields of an event or of a prediction, as JSON has them; those of a bare value are `value` alone."""


class Events(msgspec.Struct):
    """Events of a topic, by id; of those with the same id the first.

    Attributes:
        deliveries: As they were received.
        fields: Their fields.
    """

    deliveries: dict[str, Delivery] = {}
    fields: dict[str, Fields] = {}

    def __repr__(self) -> str:
        """Short, because asyncio makes the repr of what a task returns."""
        return f"Events({len(self.deliveries)})"


class Answers(msgspec.Struct):
    """The predictions of one model.

    Attributes:
        name: The predictor's name.
        fields: The fields of its predictions, by the id of the event.
        timestamps: When each was published, in seconds since the epoch; empty for predictions made again.
        version_of: The version of the model that made each prediction, by the id of the event.
        failed: Ids of the events that became dead letters, and have no prediction since.
    """

    name: str
    fields: dict[str, Fields] = {}
    timestamps: dict[str, float] = {}
    version_of: dict[str, str] = {}
    failed: set[str] = set()

    def __repr__(self) -> str:
        """Short, as that of `Events`."""
        return f"Answers({self.name!r}, {len(self.fields)})"

    def add(self, input_id: str, fields: Fields, version: str) -> None:
        """Add a prediction, in the place of an earlier one for the same event."""
        self.fields[input_id] = fields
        self.version_of[input_id] = version

    @property
    def versions(self) -> dict[str, int]:
        """The versions of its model, each with the number of its predictions."""
        return dict(Counter(self.version_of.values()))


async def read_events(bus: Bus, handler: Handler, *, start: Any, until: Any) -> Events:
    """Read the events of a predictor's topic between two times. The arguments are those of `Bus.read`."""
    events = Events()
    async for delivery in bus.read(handler.topic, start=start, until=until):
        if delivery.id not in events.deliveries and not isinstance(delivery.decoded, DecodeError):
            events.deliveries[delivery.id] = Delivery(
                delivery.record, delivery.partition, delivery.offset, delivery.timestamp
            )
            events.fields[delivery.id] = _fields(delivery.decoded)
    return events


async def read_answers(bus: Bus, handler: Handler, events: Events, *, start: Any) -> Answers:
    """Read the predictions for these events from the predictor's topic, and count their dead letters."""
    answers = Answers(handler.name)
    [topic] = handler.outputs
    mark = f"/{handler.name}"
    async for delivery in bus.read(topic, start=start, until="end"):
        input_id, found, behind = delivery.id.rpartition(mark)
        if not found or (behind and behind[0] != "@") or isinstance(delivery.decoded, DecodeError):
            continue  # of another publisher
        if input_id in events.deliveries:
            answers.add(input_id, _fields(delivery.decoded), delivery.headers.get(MODEL_VERSION, ""))
            answers.timestamps[input_id] = delivery.timestamp
    failed = dead_letter_topic(handler.topic, handler.options.group)
    with suppress(TopicNotFoundError):  # nothing has failed
        async for delivery in bus.read(failed, start=start, until="end"):
            if delivery.id in events.deliveries and delivery.id not in answers.fields:
                answers.failed.add(delivery.id)  # one with a prediction has been replayed
    return answers


async def predict_again(
    bus: Bus, handler: Handler, events: Events, *, publish_to: str = "", progress: Callable[[int], None]
) -> Answers:
    """Predict events again, a batch at a time, and publish the predictions to a topic if one is given.

    `progress` is called with the number of events after each batch. The model is not checked on golden rows,
    whose recorded predictions are those of another one.

    Raises:
        ModelError: The model cannot be loaded.
        UnsupportedError: They would be published as events of the predictor.
        BackendError: The predictions cannot be published.
    """
    if publish_to == handler.topic:
        raise UnsupportedError(f"{publish_to} has the events of {handler.name}: publish to another topic")
    options = replace(handler.options, golden=None, model_poll=None)
    handler = replace(handler, options=options)
    answers = Answers(handler.name)
    declared = bus.declared_topic(handler.topic)
    decoder = Decoder(handler.event_type, strict=declared.strict)
    async with AsyncExitStack() as stack:
        [loaded] = await load_handlers(stack, [handler], bus.lifespans, [(decoder, {})])
        stats = Stats()
        call = call_without_stream(handler, loaded.model, loaded.resources, source=bus.name, stats=stats)
        retry = Retry(call, handler, stats=stats, ordered=False)
        version = "" if loaded.model is None else loaded.model.version
        size = handler.options.max_batch or _BATCH
        deliveries = list(events.deliveries.values())
        for first in range(0, len(deliveries), size):
            batch = deliveries[first : first + size]
            items = list(map(Item, batch, decoder.decode(batch)))
            valid = [item for item in items if not isinstance(item.event, DecodeError)]
            completions = await retry.process_all(valid) if valid else []
            answered = [one for one in completions if not isinstance(one, DeadLetterCompletion)]
            answers.failed |= {one.id for one in batch} - {one.delivery.id for one in answered}
            made = [(one.delivery.id, record) for one in answered for record in one.outputs]
            for input_id, record in made:
                answers.add(input_id, _fields(msgspec.json.decode(record.value)), version)
            if publish_to:
                await bus.backend.publish([replace(record, topic=publish_to) for _, record in made])
            progress(first + len(batch))
    return answers


def check_single_output(handler: Handler) -> None:
    """Check that a predictor has one prediction for each event: others cannot be compared.

    Raises:
        UnsupportedError: It has several outputs, or none.
    """
    if len(handler.outputs) != 1 or handler.several:
        raise UnsupportedError(f"{handler.name} cannot be compared: it has not one prediction for each event")


def latencies(answers: Answers, events: Events) -> Sequence[float]:
    """Seconds from each event to its prediction, by the broker's timestamps."""
    found = answers.timestamps.items()
    return [max(time - events.deliveries[input_id].timestamp, 0.0) for input_id, time in found]


def _fields(value: Any) -> Fields:
    # What JSON gives is builtin already, and a copy would take as long as decoding it.
    built = value if type(value) is dict else msgspec.to_builtins(value, enc_hook=to_builtin)
    built = bare_prediction(built)
    return built if isinstance(built, dict) else {"value": built}
