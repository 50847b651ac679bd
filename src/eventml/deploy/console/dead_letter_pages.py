"""The pages of dead letters: by cause, one in full, and replaying or dropping after a dry run."""

from __future__ import annotations

import base64
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.console.dead_letters import (
    Cause,
    find_dead_letter,
    read_causes,
    replay_or_drop_all,
)
from eventml.deploy.console.html import Html, count, lines, part, table
from eventml.deploy.console.records import dead_letter_parts, format_time, one_line
from eventml.printable import cut, printable
from eventml.runtime import MISPLACED, DeadLetterFilter, DeadLetterQueue, dead_letter_queues

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventml.bus import Bus
    from eventml.deploy.console.broker import Broker
    from eventml.runtime import DeadLetterAction

log = logging.getLogger("eventml.console")

_ACTIONS: Final[dict[str, DeadLetterAction]] = {"replay": "replay", "drop": "drop"}
_COLUMNS: Final = ("handler", "exception", "dead letters", "actions", "last", "last reason", "first")
_DONE: Final = {"replay": "replayed", "drop": "dropped"}


class Choice(msgspec.Struct, frozen=True):
    """Which dead letters: all, those of a cause, or those of one event.

    Attributes:
        queue: Name of the queue; None for all.
        exception: Name of the exception; None for all.
        id: Id of the event; None for all.
    """

    queue: str | None = None
    exception: str | None = None
    id: str | None = None

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Parse what `str` returns. Raises ValueError if it is something else."""
        return msgspec.json.decode(base64.urlsafe_b64decode(text.encode()), type=cls)

    def __str__(self) -> str:
        """Return a text that forms and links carry whole, whatever a name has in it."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()

    @property
    def filter(self) -> DeadLetterFilter:
        """The filter within the queues."""
        return DeadLetterFilter(
            ids=frozenset() if self.id is None else frozenset({self.id}),
            exceptions=frozenset() if self.exception is None else frozenset({self.exception}),
        )

    @property
    def words(self) -> str:
        """The choice in words, behind a number of dead letters."""
        words = ["of all handlers" if self.queue is None else f"of {self.queue}"]
        words += [f"with {self.exception or 'no exception'}"] if self.exception is not None else []
        words += [f"of the event {self.id}"] if self.id is not None else []
        return printable(cut(" ".join(words), 200))


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

    def overview(self) -> Html:
        """Return the dead letters by cause, with the actions."""
        found = self._call(read_causes, self._queues, DeadLetterFilter())
        notes = [part("unreadable", queue=queue, n=n) for queue, n in found.unreadable.items()]
        if not found.causes:
            return part("no-causes", notes=notes)
        causes = table("Dead letters by cause", _COLUMNS, map(_row, found.causes), text=len(_COLUMNS))
        return part("causes", total=found.total, actions=_actions(Choice()), notes=notes, table=causes)

    def one(self, choice: Choice) -> Html:
        """Return one dead letter in full, with the actions for it and for its cause."""
        for queue in self._chosen(choice):
            found = self._call(find_dead_letter, queue, choice.filter)
            if found is None:
                continue
            parts = dead_letter_parts(queue, found, self._hidden).items()
            return part(
                "dead-letter",
                queue=queue.name,
                id=cut(one_line(found.id), 100),
                one=_actions(Choice(queue.name, found.exception, found.id)),
                cause=_actions(Choice(queue.name, found.exception)),
                shown=[part("field", label=label, text=lines(text)) for label, text in parts if text],
            )
        return part("no-dead-letter")

    def act(self, form: Mapping[str, str], who: str) -> Html:
        """Replay or drop the dead letters of a form; without its confirmation, only count them.

        Raises:
            ValueError: the form is not one of these pages.
        """
        action, choice = _ACTIONS.get(form.get("action", "")), Choice.parse(form.get("choice", ""))
        if action is None:
            raise ValueError("no such action")
        queues = self._chosen(choice)
        if form.get("confirmed") != "yes":
            return self._dry_run(action, choice, queues)
        reports = self._call(replay_or_drop_all, queues, choice.filter, action)
        done, results = 0, []
        for queue, report in reports:
            done += report.chosen.total()
            results.append(f"{queue.name}: {count(report.chosen.total())} {_DONE[action]}")
            if report.duplicates:
                results.append(
                    f"{queue.name}: {count(report.duplicates)} duplicates, left by a crash, dropped"
                )
            results += [f"{queue.name}: {count(n)} remain: {why}" for why, n in report.refused.items()]
            if report.left is not None:
                results.append(f"{queue.name}: {count(report.left)} dead letters are left")
        log.info("%s %s %d dead letters %s", printable(who), _DONE[action], done, choice.words)
        items = [part("item", text=text) for text in results]
        return part("done", n=f"{done:,}", done=_DONE[action], results=items)

    def _dry_run(self, action: DeadLetterAction, choice: Choice, queues: Sequence[DeadLetterQueue]) -> Html:
        found = self._call(read_causes, queues, choice.filter)
        misplaced = sum(cause.misplaced for cause in found.causes) if action == "replay" else 0
        number = f"{found.total - misplaced:,}"
        note = part("misplaced", n=misplaced, why=MISPLACED) if misplaced else ""
        form = _form(action, choice, f"{action.capitalize()} {number}", "yes") if number != "0" else ""
        return part(f"dry-{action}", n=number, words=choice.words, note=note, form=form)


def _row(cause: Cause) -> Sequence[object]:
    whole, one = Choice(cause.queue, cause.exception), Choice(cause.queue, cause.exception, cause.id)
    return (
        cause.queue,
        cut(cause.exception, 100),
        f"{cause.count:,}",
        part("cause-actions", one=one, actions=_actions(whole)),
        part("time", at=format_time(cause.last) or "-"),
        cut(one_line(cause.reason.removeprefix(f"{cause.exception}: ")), 120),
        part("time", at=format_time(cause.first) or "-"),
    )


def _actions(choice: Choice) -> list[Html]:
    return [_form(name, choice, f"{name.capitalize()} …") for name in _ACTIONS]


def _form(action: str, choice: Choice, text: str, confirmed: str = "") -> Html:
    return part("action", action=action, choice=choice, confirmed=confirmed, text=text)
