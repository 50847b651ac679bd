"""The brake: a handler of which most events fail stops, so that a mistake costs few dead letters.

A wrong schema, a model that does not fit, or a service that fails in a way of its own would move a whole
stream to the dead letters. Once more than half of the last events have failed, no further dead letter is
written: the events stay in flight, and some of them are tried again, with backoff, until most pass.
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING, Final

import anyio

from eventml.backends.base import Completion
from eventml.handlers import Handler
from eventml.records import Delivery
from eventml.runtime.backoff import backoff_delay
from eventml.runtime.dead_letters import DLQ_PREFIX
from eventml.runtime.failure_log import cause_of
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger("eventml")

_INTENDED: Final = {"Reject", "StaleError", "CrashLoopError"}
"""Dead letters that say nothing about the handler: it chose them, they came late, or they kill a worker."""

_TRIAL: Final = 16  # events


class StoppedError(Exception):
    """A handler is stopped while its events wait for most of them to pass."""


class FailureWindow:
    """Whether most of the last events of a handler failed. One of size 0 never says so."""

    def __init__(self, size: int) -> None:
        self._last: deque[bool] = deque(maxlen=size)
        self._failed = 0
        self._most = size / 2

    def succeeded(self, events: int) -> None:
        """Count events that did not fail."""
        if self._failed:
            for _ in repeat(None, min(events, self._last.maxlen or 0)):
                self._add(failed=False)

    def failed(self) -> bool:
        """Count an event that failed. Returns whether more than half of the last ones did."""
        if not self._last.maxlen:
            return False
        self._add(failed=True)
        return self._failed > self._most

    def clear(self) -> None:
        """Forget all events."""
        self._last.clear()
        self._failed = 0

    def _add(self, *, failed: bool) -> None:
        oldest = len(self._last) == self._last.maxlen and self._last[0]
        self._last.append(failed)
        self._failed += failed - oldest


class Brake:
    """The brake of one handler.

    Args:
        call_again: Decodes deliveries, calls the handler for them, and returns their completions.
    """

    def __init__(
        self,
        handler: Handler,
        stats: Stats,
        call_again: Callable[[Sequence[Delivery]], Awaitable[list[Completion]]],
    ) -> None:
        self._name = handler.name
        self._options = handler.options
        self._stats = stats
        self._window = FailureWindow(handler.options.brake_window)
        self._call_again = call_again
        self._trial = anyio.Lock()

    def split(self, batch: list[Completion]) -> tuple[list[Completion], list[Completion]]:
        """The completions that may go out, and the dead letters that are kept back."""
        if not any(map(_is_failure, batch)):
            self._window.succeeded(len(batch))
            return batch, []
        passed, kept = [], []
        for completion in batch:
            if not _is_failure(completion):
                self._window.succeeded(1)
            elif self._stats.braked or self._window.failed():
                self._engage(completion)
                kept.append(completion)
                continue
            passed.append(completion)
        return passed, kept

    async def until_released(self, kept: Sequence[Completion], stop: anyio.Event) -> list[Completion]:
        """The completions of events whose dead letters were kept back, once most events pass.

        Events are tried in their order, so that the order of each key is kept.

        Raises:
            StoppedError: `stop` was set before.
        """
        waiting = [completion.delivery for completion in kept]
        finished: list[Completion] = []
        trials = 0
        while True:
            async with self._trial:
                if not self._stats.braked:
                    break
                trials += 1
                with anyio.move_on_after(
                    backoff_delay(trials, self._options.backoff, self._options.max_backoff)
                ):
                    await stop.wait()
                if stop.is_set():
                    raise StoppedError
                tried = waiting[:_TRIAL]
                done = await self._call_again(tried)
                failed = list(filter(_is_failure, done))
                if 2 * len(failed) <= len(tried):
                    self._release()
                    waiting, finished = waiting[_TRIAL:], finished + done
                    break
                finished += [completion for completion in done if not _is_failure(completion)]
                waiting = [completion.delivery for completion in failed] + waiting[_TRIAL:]
        return finished + (await self._call_again(waiting) if waiting else [])

    def _engage(self, failure: Completion) -> None:
        if self._stats.braked:
            return
        cause = cause_of(failure.outputs[0].headers)
        self._stats.braked = f"more than half of its last {self._options.brake_window} events failed: {cause}"
        log.error(
            "%s has stopped: %s. No more of them become dead letters; they are tried again until most pass. "
            "Mend the handler, its model or the topic's producer, and restart; or let them become dead "
            "letters, with consumer.%s.brake_window = 0",
            *(self._name, self._stats.braked, self._name),
        )

    def _release(self) -> None:
        log.warning("%s goes on: most events pass again", self._name)
        self._window.clear()
        self._stats.braked = ""


def _is_failure(completion: Completion) -> bool:
    if not completion.dead_letter:
        return False
    return completion.outputs[0].headers.get(f"{DLQ_PREFIX}exception") not in _INTENDED
