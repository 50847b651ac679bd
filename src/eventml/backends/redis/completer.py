"""Completing: outputs and acks in one step, by a script in the server."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from eventml.backends.base import Completion
from eventml.backends.redis.cluster import tagged
from eventml.backends.redis.completing import Call, larger, refused_by, unencodable
from eventml.backends.redis.group import finished_ids_key
from eventml.backends.redis.replies import NoGroupError, checked
from eventml.backends.redis.scripts import COMPLETE
from eventml.errors import PublishError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventml.backends.redis.equipment import Equipment
    from eventml.backends.redis.features import Features
    from eventml.backends.redis.group import Consumer
    from eventml.backends.redis.publishing import Publisher
    from eventml.backends.redis.share import Share

    Refused = dict[int, str]


class Completer:
    """Completes deliveries of one backend's members.

    Args:
        equipment: What the parts of a backend share.
        features: What the server can do.
        publisher: Writes outputs that cannot be added in one step with the ack.
    """

    def __init__(self, equipment: Equipment, features: Features, publisher: Publisher) -> None:
        self._connector = equipment.connector
        self._settings = equipment.settings
        self._headers = equipment.headers
        self._retention = equipment.retention
        self._losses = equipment.losses
        self._largest = features.largest
        self._publisher = publisher

    def check(self, topic: str, outputs: Iterable[str]) -> bool:
        """Whether completions of one topic, with outputs to others, can be of one step.

        Raises:
            UnsupportedError: they cannot, and the settings do not allow for two.
        """
        slot = self._connector.slot(topic)
        apart = next((output for output in outputs if self._connector.slot(output) != slot), None)
        if apart is not None and self._settings.atomic:
            first, second = tagged(topic, apart)
            raise UnsupportedError(
                f"topics {topic!r} and {apart!r} are in different slots of the cluster, so an input cannot "
                f"be completed together with its output. Give them one hash tag, as in {first!r} and "
                f"{second!r}, or set backend.atomic=false to complete at least once"
            )
        return apart is None

    def check_remembering(self, topic: str, group: str) -> None:
        """Pass if what is finished can be remembered in one step with the ack.

        Raises:
            UnsupportedError: it cannot; says what to do.
        """
        if self._connector.slot(finished_ids_key(topic, group)) != self._connector.slot(topic):
            raise UnsupportedError(
                f"dedupe_window: what group {group!r} finishes of {topic!r} would be remembered in another "
                f"slot of the cluster. Give the topic a hash tag, as in {tagged(topic, topic)[0]!r}"
            )

    async def complete(self, share: Share, topic: str, done: Sequence[Completion]) -> Refused:
        """Complete deliveries of one topic. Returns why some were refused for good, by position.

        Raises:
            UnavailableError: nothing can be said of any of them; repeating is right.
        """
        if self._settings.cluster and not self.check(topic, {o.topic for c in done for o in c.outputs}):
            return await self._in_two_steps(share, topic, done)
        refused: Refused = {}
        left: Sequence[int] = range(len(done))
        again = True
        while again and left:
            mine = done if len(left) == len(done) else [done[position] for position in left]
            found, again = await self._attempt(share, topic, mine)
            if found:
                refused |= {left[number]: why for number, why in found.items()}
                left = [position for position in left if position not in refused]
        share.leases[topic].holding.drop([done[position].delivery.offset for position in left])
        if self._settings.max_length is not None:
            await self._cap(share, done)
        return refused

    async def _attempt(self, share: Share, topic: str, done: Sequence[Completion]) -> tuple[Refused, bool]:
        """Run the script. Returns what was refused, and whether the others have to be attempted again."""
        consumer = share.leases[topic].consumer
        try:
            calls, sizes = self._calls(consumer, done)
        except UnicodeEncodeError as exc:
            return dict.fromkeys(
                unencodable(done), f"an output's id or headers have no form in UTF-8: {exc}"
            ), True
        if max(map(len, calls)) > self._largest and (found := list(larger(done, self._largest))):
            why = f"it is larger than the {self._largest} bytes that the server takes (proto-max-bulk-len)"
            return dict.fromkeys(found, why), True
        replies = await COMPLETE.run(share.control, calls)
        try:
            checked(replies, f"completing {topic!r}")
        except NoGroupError:
            await share.recreate_groups()
            return {}, True
        refused: Refused = {}
        before = 0
        for reply, size in zip(replies, sizes, strict=True):
            self._losses.overtaken += reply[0]
            self._losses.repeated += reply[1]
            refused |= {before + number: why for number, why in refused_by(reply).items()}
            before += size
        return refused, False

    def _calls(self, consumer: Consumer, done: Sequence[Completion]) -> tuple[list[bytes], list[int]]:
        calls: list[bytes] = []
        sizes: list[int] = []
        while sum(sizes) < len(done):
            call = Call(consumer, self._headers)
            sizes.append(call.add(done[sum(sizes) :] if sizes else done))
            calls.append(call.packed())
        return calls, sizes

    async def _in_two_steps(self, share: Share, topic: str, done: Sequence[Completion]) -> Refused:
        """At least once: outputs first, wherever they live, and then the acks."""
        owners = [position for position, completion in enumerate(done) for _ in completion.outputs]
        refused: Refused = {}
        try:
            await self._publisher.publish([output for completion in done for output in completion.outputs])
        except PublishError as exc:
            if not exc.failed:
                raise
            refused = {owners[number]: why for number, why in exc.failed.items()}
        acks = [Completion(c.delivery, (), c.dedupe) for p, c in enumerate(done) if p not in refused]
        await self.complete(share, topic, acks)
        return refused

    async def _cap(self, share: Share, done: Sequence[Completion]) -> None:
        for topic, count in Counter(output.topic for c in done for output in c.outputs).items():
            if self._retention.wrote(topic, count):
                await self._retention.cap(share.control, topic)
