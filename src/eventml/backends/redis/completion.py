"""Completion: a script in the server adds the outputs of inputs and acknowledges them, in one step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

from eventml.backends.base import Completion, Dedupe
from eventml.backends.redis.cluster import check_outputs
from eventml.backends.redis.errors import DeniedError, ErrorReply, check_replies, error_for
from eventml.backends.redis.leases import Consumer
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.server import Script
from eventml.backends.redis.wire import alike, defect, meta_of
from eventml.records import Record

log = logging.getLogger("eventml.redis")

COMPLETE: Final = Script("complete")

MAX_COMPLETIONS: Final = 1_024
"""Completions in one call of the script: the server does nothing else meanwhile (some 4 ms)."""

_MAX_BYTES: Final = 4_000_000
"""Bytes of outputs in one call, beyond its first: a larger call delays the server's other clients."""

_MODES: Final[dict[Dedupe, int]] = {"off": 0, "drop": 1, "record": 2}


async def complete(publisher: Publisher, consumer: Consumer, done: Sequence[Completion]) -> dict[int, str]:
    """Complete deliveries of one topic. Returns why some were refused for good, by position.

    Raises:
        NoGroupError: the group does not exist any more.
        UnavailableError: the outcome of all is unknown. Repeating the call is right.
        BackendError: the server refuses until its operator removes the reason. Repeating is right.
    """
    server = publisher.server
    if server.settings.cluster:
        check_outputs(server, consumer.topic, set(_output_topics(done)))
    left: Sequence[int] = range(len(done))
    refused: dict[int, str] = {}
    try:
        calls = list(_pack_calls(consumer, done))
        check = any(len(packed) > server.largest for packed, _ in calls)
    except UnicodeEncodeError:
        check = True
    if check:
        refused = _defects(done, server.largest)
        left = [position for position in left if position not in refused]
        calls = list(_pack_calls(consumer, [done[position] for position in left]))
    if not calls:
        return refused
    action = f"completing {consumer.topic!r}"
    replies = check_replies(
        await COMPLETE.run_calls(consumer.client, [packed for packed, _ in calls]), action
    )
    start = 0
    for (elsewhere, *refusals), (_, count) in zip(replies, calls, strict=True):
        if elsewhere:
            log.info("%d completions for %s dropped: others had completed them", elsewhere, consumer)
        for number, reason in zip(refusals[::2], refusals[1::2], strict=True):
            reply = ErrorReply(reason.decode(errors="replace"))
            error = error_for(reply, action)
            if isinstance(error, DeniedError):  # the user may run the script, but not a command in it
                raise error
            refused[left[start + number]] = str(reply)
        start += count
    consumer.drop([done[position].delivery.offset for position in left if position not in refused])
    await publisher.cut(consumer.client, _output_topics(done))
    return refused


def _pack_calls(consumer: Consumer, done: Sequence[Completion]) -> Iterator[tuple[bytes, int]]:
    """Packed calls of the script, with the number of completions of each."""
    while done:
        packed, count = _pack_call(consumer, done)
        yield packed, count
        done = done[count:]


def _pack_call(consumer: Consumer, done: Sequence[Completion]) -> tuple[bytes, int]:
    """Pack as many of these as fit into one call, at least one. Returns also how many.

    Completions of one shape (as many outputs, to the same topics, with the same headers) make up a
    run, which names its shape once; the headers stand once in the whole call.
    """
    keys, metas = [consumer.topic], dict[bytes, int]()
    runs: list[Any] = []
    position = size = 0
    while position < min(len(done), MAX_COMPLETIONS) and size < _MAX_BYTES:
        start, dedupe, model = position, done[position].dedupe, done[position].outputs
        mode = _MODES[dedupe] if consumer.window else 0
        run: list[Any] = []
        for completion in done[start:MAX_COMPLETIONS]:
            outputs = completion.outputs
            if (
                size >= _MAX_BYTES
                or completion.dedupe != dedupe
                or len(outputs) != len(model)
                or (outputs and not alike(outputs[0], model[0]))
                or (len(outputs) > 1 and not all(map(alike, outputs, model)))
            ):
                break
            run.append(completion.delivery.offset)
            if mode:
                run.append(completion.delivery.record.id)
            for output in outputs:
                size += len(output.value)
                run.append(output.value)
                if output.id:
                    run.append(output.id)
                if output.key is not None:
                    run.append(output.key)
            position += 1
        runs += (position - start, mode, len(model))
        for output in model:
            runs += _shape(output, keys, metas)
        runs += run
    if consumer.window:
        keys.append(consumer.dedupe_key)
    head = (consumer.group, consumer.name, consumer.window, len(metas))
    return COMPLETE.call(keys, (*head, *metas, *runs)), position


def _shape(output: Record, keys: list[str], metas: dict[bytes, int]) -> tuple[int, int, int]:
    """The topic, the headers and the other fields of an output, as numbers (`scripts/complete.lua`)."""
    if output.topic not in keys[1:]:
        keys.append(output.topic)
    topic = keys.index(output.topic, 1) + 1
    meta = meta_of(output.headers)
    number = metas.setdefault(meta, len(metas) + 1) if meta else 0
    return topic, number, bool(output.id) + 2 * (output.key is not None)


def _output_topics(done: Sequence[Completion]) -> Iterator[str]:
    return (output.topic for completion in done for output in completion.outputs)


def _defects(done: Sequence[Completion], largest: int) -> dict[int, str]:
    """Why the server cannot accept an output, by the position of its completion."""
    return {
        position: reason
        for position, completion in enumerate(done)
        for output in completion.outputs
        if (reason := defect(output, largest)) is not None
    }
