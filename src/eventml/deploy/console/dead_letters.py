"""The dead letters of a bus: how many are left, by cause, replaying or dropping them, and the pages of them.

A page shows them by cause, or one in full; they are replayed or dropped after a dry run.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from eventml.backends.base import Backend, Subscription
from eventml.bus import Bus
from eventml.deploy.console.broker import Broker
from eventml.deploy.console.records import dead_letter_parts, one_line, shortened
from eventml.deploy.console.templates import Content
from eventml.errors import EventMLError, TopicNotFoundError
from eventml.printable import cut, printable
from eventml.runtime import (
    MISPLACED,
    DeadLetterAction,
    DeadLetterDelivery,
    DeadLetterFilter,
    DeadLetterQueue,
    ReplayReport,
    browse,
    dead_letter_queues,
    replay_or_drop,
)

log = logging.getLogger("eventml.console")

_DONE: Final[dict[DeadLetterAction, str]] = {"replay": "replayed", "drop": "dropped"}

T = TypeVar("T")


class Cause(msgspec.Struct):
    """The dead letters of one queue with one exception: how many, and when they failed.

    Attributes:
        first: The earliest of their last failures, in seconds since the epoch.
        last: The latest one; `reason` is its message, `id` that of its event.
        misplaced: How many cannot be replayed, as they name another topic or group.
    """

    queue: str
    exception: str
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    reason: str = ""
    id: str = ""
    misplaced: int = 0

    def add(self, one: DeadLetterDelivery, *, owned: bool) -> None:
        """Count a dead letter."""
        self.first = min(self.first, one.last_failure) if self.count else one.last_failure
        if not self.count or one.last_failure >= self.last:
            self.last, self.reason, self.id = one.last_failure, one.message, one.id
        self.count += 1
        self.misplaced += not owned


async def visit_queue(
    backend: Backend, queue: DeadLetterQueue, visit: Callable[[Subscription], Awaitable[T]]
) -> T | None:
    """Call `visit` as a member of the group that replays a queue. None if the queue holds no dead letters."""
    try:
        lag = await backend.lag(queue.dead_letter_topic, group=queue.replay_group)
        if lag is not None and not sum(lag.values()):
            return None
        async with backend.subscribe(
            [queue.dead_letter_topic], group=queue.replay_group, start="earliest"
        ) as subscription:
            return await visit(subscription)
    except TopicNotFoundError:
        return None  # no dead letter was ever written


async def count_left(backend: Backend, queues: Sequence[DeadLetterQueue]) -> dict[str, int]:
    """Return how many dead letters are left, by handler; those of queues that can tell."""
    found: dict[str, int] = {}
    for queue in queues:
        try:
            lag = await backend.lag(queue.dead_letter_topic, group=queue.replay_group)
        except TopicNotFoundError:
            lag = {}  # no dead letter was ever written
        left = sum(lag.values()) if lag is not None else await visit_queue(backend, queue, lambda s: s.lag())
        found |= dict.fromkeys(queue.handlers, left or 0)
    return found


async def read_dead_letters(
    backend: Backend,
    queues: Sequence[DeadLetterQueue],
    matching: DeadLetterFilter,
    visit: Callable[[DeadLetterQueue, DeadLetterDelivery | None], Awaitable[None]],
    limit: int | None = None,
) -> None:
    """Call `visit` with each dead letter that matches, up to a limit; with None for a record that is none."""

    async def read(subscription: Subscription, queue: DeadLetterQueue, limit: int | None) -> int:
        taken = 0
        async for one in browse(subscription, matching, limit=limit):
            taken += one is not None
            await visit(queue, one)
        return taken

    for queue in queues:
        if limit != 0:
            taken = await visit_queue(backend, queue, partial(read, queue=queue, limit=limit)) or 0
            limit = None if limit is None else limit - taken


async def read_causes(
    backend: Backend, queues: Sequence[DeadLetterQueue], matching: DeadLetterFilter
) -> tuple[list[Cause], Counter[str]]:
    """Count all dead letters that match: by cause, the largest first; and by queue records that are none."""
    causes, unreadable = dict[tuple[str, str], Cause](), Counter[str]()

    async def count(queue: DeadLetterQueue, one: DeadLetterDelivery | None) -> None:
        if one is None:
            unreadable[queue.name] += 1
        else:
            cause = causes.setdefault((queue.name, one.exception), Cause(queue.name, one.exception))
            cause.add(one, owned=queue.owns(one))

    await read_dead_letters(backend, queues, matching, count)
    return sorted(causes.values(), key=lambda cause: -cause.count), unreadable


async def replay_or_drop_all(
    backend: Backend,
    queues: Sequence[DeadLetterQueue],
    matching: DeadLetterFilter,
    action: DeadLetterAction,
    limit: int | None = None,
) -> list[tuple[DeadLetterQueue, ReplayReport]]:
    """Replay or drop the dead letters of some queues that match; see `runtime.replay_or_drop`."""
    reports, singly = [], backend.capabilities.redelivery == "lease"
    for queue in queues:
        act = partial(replay_or_drop, queue=queue, chosen=matching, action=action, acks_singly=singly)
        report = None if limit == 0 else await visit_queue(backend, queue, partial(act, limit=limit))
        if report is not None:
            reports.append((queue, report))
            limit = None if limit is None else limit - report.chosen.total()
    return reports


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters: of which queue, with which exception, of the event with which id; None is any."""

    queue: str | None = None
    exception: str | None = None
    id: str | None = None

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Parse what `str` returns. Raises ValueError if it is something else."""
        return msgspec.convert(json.loads(base64.urlsafe_b64decode(text.encode())), cls)

    def __str__(self) -> str:
        """Return a text that forms and links carry whole, whatever a name has in it."""
        return base64.urlsafe_b64encode(json.dumps(msgspec.structs.asdict(self)).encode()).decode()

    @property
    def filter(self) -> DeadLetterFilter:
        """The filter within the queues."""
        ids, exceptions = (
            frozenset(one for one in [value] if one is not None) for value in (self.id, self.exception)
        )
        return DeadLetterFilter(ids=ids, exceptions=exceptions)

    @property
    def words(self) -> str:
        """The choice in words, behind a number of dead letters."""
        words = "of all handlers" if self.queue is None else f"of {self.queue}"
        words += "" if self.exception is None else f" with {self.exception or 'no exception'}"
        words += "" if self.id is None else f" of the event {self.id}"
        return printable(cut(words, 200))


class DeadLetterPages:
    """The dead letters of a bus, for those who may see them. One page at a time holds them."""

    def __init__(self, bus: Bus, broker: Broker) -> None:
        self._queues = dead_letter_queues(map(bus.configured_handler, bus.handlers))
        self._hidden = bus.settings.console.hidden_headers
        self._broker = broker
        self._lock = threading.Lock()

    def _call(self, function: Any, *args: Any) -> Any:
        with self._lock:
            return self._broker.call(function, *args)

    def _chosen(self, choice: Choice) -> list[DeadLetterQueue]:
        return [queue for queue in self._queues if choice.queue in (None, queue.name)]

    def page(self, one: str | None) -> Content:
        """Return the dead letters by cause, or the first of a choice in full, with the actions.

        Raises:
            ValueError: the text is no choice.
        """
        if one is not None:
            return self._one(Choice.parse(one))
        causes, unreadable = self._call(read_causes, self._queues, DeadLetterFilter())
        values = {"total": sum(cause.count for cause in causes), "causes": causes, "unreadable": unreadable}
        return "dead_letters", {**values, "all": Choice(), "choice": Choice}

    def _one(self, choice: Choice) -> Content:
        found = dict[str, Any](parts={})

        async def find(queue: DeadLetterQueue, one: DeadLetterDelivery | None) -> None:
            if one is not None:
                short = msgspec.structs.replace(one, delivery=shortened(one.delivery))
                found.update(
                    queue=queue.name,
                    id=one_line(one.id),
                    one=Choice(queue.name, one.exception, one.id),
                    cause=Choice(queue.name, one.exception),
                    parts=dead_letter_parts(queue, short, self._hidden),
                )

        self._call(read_dead_letters, self._chosen(choice), choice.filter, find, 1)
        return "dead_letter", found

    def act(self, form: Mapping[str, str], who: str) -> Content:
        """Replay or drop the dead letters of a form; without its confirmation, only count them.

        Raises:
            ValueError: the form is not one of these pages.
        """
        choice = Choice.parse(form.get("choice", ""))
        action = msgspec.convert(form.get("action"), DeadLetterAction)
        queues = self._chosen(choice)
        if form.get("confirmed") != "yes":
            return self._dry_run(action, choice, queues)
        try:
            reports = self._call(replay_or_drop_all, queues, choice.filter, action)
        except EventMLError as exc:
            log.warning("%s: the %s of dead letters %s has ended early: %s", who, action, choice.words, exc)
            raise
        done, results = 0, []
        for queue, report in reports:
            done += report.chosen.total()
            told = [f"{report.chosen.total():,} {_DONE[action]}"]
            if report.duplicates:
                told += [f"{report.duplicates:,} duplicates, left by a crash, dropped"]
            told += [f"{n:,} remain: {why}" for why, n in report.refused.items()]
            told += [] if report.left is None else [f"{report.left:,} dead letters are left"]
            results += [f"{queue.name}: {line}" for line in told]
        log.info("%s %s %d dead letters %s", who, _DONE[action], done, choice.words)
        return "done", {"n": done, "done": _DONE[action], "results": results}

    def _dry_run(
        self, action: DeadLetterAction, choice: Choice, queues: Sequence[DeadLetterQueue]
    ) -> Content:
        causes, _ = self._call(read_causes, queues, choice.filter)
        misplaced = sum(cause.misplaced for cause in causes) if action == "replay" else 0
        number = sum(cause.count for cause in causes) - misplaced
        values = {"action": action, "choice": choice, "n": number, "words": choice.words}
        return "dry_run", {**values, "misplaced": misplaced, "why": MISPLACED}
