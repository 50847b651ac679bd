"""Completion: a script in the server adds the outputs of inputs and acknowledges them, in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventml.backends.base import Completion, Dedupe
from eventml.backends.redis.errors import ErrorReply, NoGroupError, check_replies, error_for, is_denied
from eventml.backends.redis.group import Consumer, dedupe_key
from eventml.backends.redis.leases import Leases
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.scripts import COMPLETE
from eventml.backends.redis.servers import Server, same_slot_names
from eventml.backends.redis.wire import RecordEncoder, defect
from eventml.errors import PublishError, UnsupportedError
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    Refused = dict[int, str]

MAX_COMPLETIONS: Final = 1_024
"""Completions in one call of the script: the server does nothing else meanwhile (some 4 ms)."""

_MAX_BYTES: Final = 4_000_000
"""Bytes of outputs in one call, beyond its first: a larger call delays the server's other clients."""

_MODES: Final[dict[Dedupe, int]] = {"off": 0, "drop": 1, "record": 2}


class Call:
    """Builds one call of the script.

    Completions of one shape (as many outputs, to the same topics, with the same headers) make up a
    run, which names its shape once; the headers stand once in the whole call.

    Args:
        consumer: The consumer that received the inputs.
        encoder: Encodes headers.
    """

    def __init__(self, consumer: Consumer, encoder: RecordEncoder) -> None:
        self._consumer = consumer
        self._keys = [consumer.topic]
        self._encoder = encoder
        self._metas: dict[bytes, int] = {}
        self._runs: list[Any] = []

    def add(self, done: Sequence[Completion]) -> int:
        """Add as many of these as fit into one call. Returns how many: at least one."""
        position = size = 0
        while position < len(done) and position < MAX_COMPLETIONS and size < _MAX_BYTES:
            outputs = done[position].outputs
            start = position
            mode = _MODES[done[position].dedupe] if self._consumer.window else 0
            run: list[Any] = []
            if not outputs:
                position = self._add_acks(done, position, run, mode)
            elif len(outputs) == 1:
                position, size = self._add_singles(done, position, run, size, mode)
            else:
                size = self._add_multiple(done[position], run, size, mode)
                position += 1
            self._runs += (position - start, mode, len(outputs), *self._shape(outputs), *run)
        return position

    def packed(self) -> bytes:
        """The packed command."""
        consumer = self._consumer
        keys = [*self._keys, consumer.dedupe_key] if consumer.window else self._keys
        head = (consumer.group, consumer.name, consumer.window, len(self._metas))
        return COMPLETE.call(keys, (*head, *self._metas, *self._runs))

    def _add_acks(self, done: Sequence[Completion], position: int, run: list[Any], mode: int) -> int:
        """Add a run of completions without outputs."""
        dedupe = done[position].dedupe
        for completion in done[position:MAX_COMPLETIONS]:
            if completion.outputs or completion.dedupe != dedupe:
                break
            run.append(completion.delivery.offset)
            if mode:
                run.append(completion.delivery.record.id)
            position += 1
        return position

    def _add_singles(
        self, done: Sequence[Completion], position: int, run: list[Any], size: int, mode: int
    ) -> tuple[int, int]:
        """Add the usual run: completions of one output each, all of one shape."""
        model, dedupe = done[position].outputs[0], done[position].dedupe
        topic, headers, keyed, named = model.topic, model.headers, model.key is not None, bool(model.id)
        for completion in done[position:MAX_COMPLETIONS]:
            outputs = completion.outputs
            if len(outputs) != 1 or size >= _MAX_BYTES or completion.dedupe != dedupe:
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
            run.append(completion.delivery.offset)
            if mode:
                run.append(completion.delivery.record.id)
            if keyed:
                run += (value, output.id, output.key) if named else (value, output.key)
            elif named:
                run += (value, output.id)
            else:
                run.append(value)
            position += 1
        return position, size

    def _add_multiple(self, completion: Completion, run: list[Any], size: int, mode: int) -> int:
        """Add a run of one completion with several outputs."""
        run.append(completion.delivery.offset)
        if mode:
            run.append(completion.delivery.record.id)
        for output in completion.outputs:
            size += len(output.value)
            run.append(output.value)
            if output.id:
                run.append(output.id)
            if output.key is not None:
                run.append(output.key)
        return size

    def _shape(self, outputs: Sequence[Record]) -> Iterator[int]:
        for output in outputs:
            if output.topic not in self._keys[1:]:
                self._keys.append(output.topic)
            yield self._keys.index(output.topic, 1) + 1
            meta = self._encoder.meta(output.headers)
            yield self._metas.setdefault(meta, len(self._metas) + 1) if meta else 0
            yield bool(output.id) + 2 * (output.key is not None)


class Completer:
    """Completes the deliveries of one backend's subscriptions.

    Args:
        server: The server that has the topics.
        publisher: Writes outputs that cannot be added in one step with the ack.
    """

    def __init__(self, server: Server, publisher: Publisher) -> None:
        self._server = server
        self._publisher = publisher

    def check_outputs(self, topic: str, outputs: Iterable[str]) -> bool:
        """Whether inputs of one topic can be completed in one step with outputs to other topics.

        Raises:
            UnsupportedError: they cannot, and `backend.atomic` requires it.
        """
        slot = self._server.slot(topic)
        other = next((output for output in outputs if self._server.slot(output) != slot), None)
        if other is not None and self._server.settings.atomic:
            first, second = same_slot_names(topic, other)
            raise UnsupportedError(
                f"topics {topic!r} and {other!r} are in different slots of the cluster, so an input cannot "
                f"be completed together with its output. Give them one hash tag, as in {first!r} and "
                f"{second!r}, or set backend.atomic=false to complete at least once"
            )
        return other is None

    def check_deduplication(self, topic: str, group: str) -> None:
        """Check that ids can be recorded in one step with the ack.

        Raises:
            UnsupportedError: they cannot; says what to do.
        """
        if self._server.slot(dedupe_key(topic, group)) != self._server.slot(topic):
            raise UnsupportedError(
                f"dedupe_window: the ids that group {group!r} completes at {topic!r} would be recorded in "
                f"another slot of the cluster. Give the topic a hash tag, as in "
                f"{same_slot_names(topic, topic)[0]!r}"
            )

    async def complete(
        self, leases: Leases, done: Sequence[Completion], recreate_groups: Callable[[], Awaitable[None]]
    ) -> Refused:
        """Complete deliveries of one topic. Returns why some were refused for good, by position.

        Args:
            leases: The leases of the deliveries.
            done: The completions.
            recreate_groups: Called if the group does not exist any more.

        Raises:
            UnavailableError: the outcome of all is unknown. Repeating the call is right.
            BackendError: the server refuses until somebody removes the reason. Repeating is right.
        """
        settings, topic = self._server.settings, leases.consumer.topic
        if settings.cluster and not self.check_outputs(topic, set(_output_topics(done))):
            return await self._complete_in_two_steps(leases, done, recreate_groups)
        refused: Refused = {}
        left: Sequence[int] = range(len(done))
        again = True
        while again and left:
            some = done if len(left) == len(done) else [done[position] for position in left]
            try:
                found, again = await self._attempt(leases.consumer, some)
            except NoGroupError:
                await recreate_groups()
                continue
            if found:
                refused |= {left[number]: reason for number, reason in found.items()}
                left = [position for position in left if position not in refused]
        leases.drop([done[position].delivery.offset for position in left])
        if settings.max_length is not None:
            await self._publisher.cap.added(leases.consumer.client, _output_topics(done))
        return refused

    async def _attempt(self, consumer: Consumer, done: Sequence[Completion]) -> tuple[Refused, bool]:
        """Run the script. Returns what was refused, and whether the others have to be attempted again."""
        calls: list[bytes] = []
        sizes: list[int] = []
        largest = self._server.features.largest
        try:
            while sum(sizes) < len(done):
                call = Call(consumer, self._publisher.encoder)
                sizes.append(call.add(done[sum(sizes) :] if sizes else done))
                calls.append(call.packed())
        except UnicodeEncodeError:
            return _defects(done, largest), True
        if max(map(len, calls)) > largest and (defects := _defects(done, largest)):
            return defects, True
        action = f"completing {consumer.topic!r}"
        replies = check_replies(await COMPLETE.run(consumer.client, calls), action)
        refused: Refused = {}
        before = 0
        for (elsewhere, duplicates, *refusals), size in zip(replies, sizes, strict=True):
            self._server.counters.completed_elsewhere += elsewhere
            self._server.counters.duplicates += duplicates
            for position, reason in zip(refusals[::2], refusals[1::2], strict=True):
                reply = ErrorReply(reason.decode(errors="replace"))
                if is_denied(reply):  # the user may run the script, but not a command in it
                    raise error_for(reply, action)
                refused[before + position] = str(reply)
            before += size
        return refused, False

    async def _complete_in_two_steps(
        self, leases: Leases, done: Sequence[Completion], recreate_groups: Callable[[], Awaitable[None]]
    ) -> Refused:
        """Complete at least once: first the outputs, whichever slots they are in, and then the acks."""
        inputs = [position for position, completion in enumerate(done) for _ in completion.outputs]
        refused: Refused = {}
        try:
            await self._publisher.publish([output for completion in done for output in completion.outputs])
        except PublishError as exc:
            if not exc.failed:
                raise
            refused = {inputs[number]: reason for number, reason in exc.failed.items()}
        acks = [Completion(c.delivery, (), c.dedupe) for p, c in enumerate(done) if p not in refused]
        await self.complete(leases, acks, recreate_groups)
        return refused


def _output_topics(done: Sequence[Completion]) -> list[str]:
    return [output.topic for completion in done for output in completion.outputs]


def _defects(done: Sequence[Completion], largest: int) -> Refused:
    """Why the server cannot accept an output, by the position of its completion."""
    return {
        position: reason
        for position, completion in enumerate(done)
        for output in completion.outputs
        if (reason := defect(output, largest)) is not None
    }
