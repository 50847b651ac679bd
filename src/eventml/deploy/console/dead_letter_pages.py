"""The pages of dead letters: by cause, one in full, and replaying or dropping after a dry run."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from eventml.bus import Bus
from eventml.deploy.console.broker import Broker
from eventml.deploy.console.dead_letters import read_causes, read_dead_letters, replay_or_drop_all
from eventml.deploy.console.records import dead_letter_parts, one_line, shortened
from eventml.deploy.console.templates import Content
from eventml.errors import EventMLError
from eventml.printable import cut, printable
from eventml.runtime import (
    MISPLACED,
    DeadLetterAction,
    DeadLetterDelivery,
    DeadLetterFilter,
    DeadLetterQueue,
    dead_letter_queues,
)

log = logging.getLogger("eventml.console")

_DONE: Final[dict[DeadLetterAction, str]] = {"replay": "replayed", "drop": "dropped"}


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
