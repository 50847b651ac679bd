"""Completions, as the arguments of the script that acknowledges inputs and adds their outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventml.backends.redis.scripts import COMPLETE
from eventml.backends.redis.write import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventml.backends.base import Completion, Dedupe
    from eventml.backends.redis.group import Consumer
    from eventml.backends.redis.wire import HeaderEncoder
    from eventml.records import Delivery, Record

ENTRIES: Final = 1_024
"""Completions in one call of the script: the server serves nobody else meanwhile (some 4 ms)."""

BYTES: Final = 4_000_000
"""What one command may carry, beyond its first record: larger ones only hold others up."""

_REMEMBER: Final[dict[Dedupe, int]] = {"off": 0, "drop": 1, "record": 2}


class Call:
    """One call of the script, under construction.

    Completions of one shape (as many outputs, to the same topics, with the same headers) make up a
    run, which says its shape once; so do the headers, for the whole call.

    Args:
        consumer: Who received the inputs.
        headers: Encodes headers.
    """

    def __init__(self, consumer: Consumer, headers: HeaderEncoder) -> None:
        self._consumer = consumer
        self._keys = [consumer.topic]
        self._encoder = headers
        self._metas: dict[bytes, int] = {}
        self._runs: list[Any] = []

    def add(self, done: Sequence[Completion]) -> int:
        """Take as many of these as fit into one call. Returns how many, at least one."""
        position = 0
        size = 0
        while position < len(done) and position < ENTRIES and size < BYTES:
            outputs = done[position].outputs
            start = position
            remember = _REMEMBER[done[position].dedupe] if self._consumer.window else 0
            run: list[Any] = []
            if not outputs:
                position = self._acks(done, position, run)
            elif len(outputs) == 1:
                position, size = self._single(done, position, run, size)
            else:
                position, size = self._several(done[position], position, run, size)
            self._runs += (position - start, remember, len(outputs), *self._shape(outputs), *run)
        return position

    def packed(self) -> bytes:
        who = self._consumer
        keys = [*self._keys, who.finished_ids] if who.window else self._keys
        return COMPLETE.call(
            keys, (who.group, who.name, who.window, len(self._metas), *self._metas, *self._runs)
        )

    def _acks(self, done: Sequence[Completion], position: int, run: list[Any]) -> int:
        """A run of completions without outputs, all remembered or not."""
        said = done[position].dedupe
        some = []
        for completion in done[position:ENTRIES]:
            if completion.outputs or completion.dedupe != said:
                break
            some.append(completion.delivery)
        for delivery in some:
            run += self._input(delivery, said)
        return position + len(some)

    def _single(
        self, done: Sequence[Completion], position: int, run: list[Any], size: int
    ) -> tuple[int, int]:
        """The usual run: completions of one output each, all of one shape."""
        model, said = done[position].outputs[0], done[position].dedupe
        topic, headers, keyed, named = model.topic, model.headers, model.key is not None, bool(model.id)
        for completion in done[position:ENTRIES]:
            outputs = completion.outputs
            if len(outputs) != 1 or size >= BYTES or completion.dedupe != said:
                break
            output = outputs[0]
            if (
                output.headers is not headers
                or output.topic != topic
                or (output.key is not None) is not keyed
                or bool(output.id) is not named
            ):
                break
            value = output.value
            size += len(value)
            run += self._input(completion.delivery, said)
            if keyed:
                run += (value, output.id, output.key) if named else (value, output.key)
            elif named:
                run += (value, output.id)
            else:
                run.append(value)
            position += 1
        return position, size

    def _several(self, completion: Completion, position: int, run: list[Any], size: int) -> tuple[int, int]:
        """A run of one completion, with any number of outputs."""
        run += self._input(completion.delivery, completion.dedupe)
        for output in completion.outputs:
            size += len(output.value)
            run.append(output.value)
            if output.id:
                run.append(output.id)
            if output.key is not None:
                run.append(output.key)
        return position + 1, size

    def _input(self, delivery: Delivery, said: Dedupe) -> tuple[Any, ...]:
        if said == "off" or not self._consumer.window:
            return (delivery.offset,)
        return (delivery.offset, delivery.record.id)

    def _shape(self, outputs: Sequence[Record]) -> Iterator[int]:
        for output in outputs:
            if output.topic not in self._keys[1:]:
                self._keys.append(output.topic)
            yield self._keys.index(output.topic, 1) + 1
            meta = self._encoder.encode(output.headers)
            if not meta:
                yield 0
            else:
                yield self._metas.setdefault(meta, len(self._metas) + 1)
            yield bool(output.id) + 2 * (output.key is not None)


def refused_by(reply: list[Any]) -> dict[int, str]:
    """What the script refused: the position in its call, and why."""
    return {reply[at]: reply[at + 1].decode(errors="replace") for at in range(2, len(reply), 2)}


def larger(done: Sequence[Completion], limit: int) -> Iterator[int]:
    """The positions of completions whose outputs have a part of more bytes than that."""
    for position, completion in enumerate(done):
        if any(size(output) > limit for output in completion.outputs):
            yield position


def unencodable(done: Sequence[Completion]) -> Iterator[int]:
    """The positions of completions that hold text with no form in UTF-8."""
    for position, completion in enumerate(done):
        try:
            for output in completion.outputs:
                "".join((output.topic, output.id, *output.headers, *output.headers.values())).encode()
        except UnicodeEncodeError:
            yield position
