"""The circuit breaker: a handler of which most events fail stops, so that a mistake costs few dead letters.

A wrong schema, a model that does not fit, or a service that fails in a way of its own would move a whole
stream to the dead letters. Once more than half of the last events have failed, the circuit breaker opens: no
further dead letter is written, the events stay in flight, and some of them are tried again, with backoff,
until most pass. The pattern is that of Nygard, "Release It!" (2007), with trial calls in place of its
half-open state.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import repeat
from typing import Final, TypeGuard

import anyio

from eventml.backends.base import Completion
from eventml.handlers import Handler
from eventml.records import Delivery
from eventml.runtime.failures.dead_letters import DeadLetterCompletion, DeadLetterWriter
from eventml.runtime.failures.outages import backoff_delay
from eventml.runtime.stats import Stats

log = logging.getLogger("eventml")

_TRIAL: Final = 16
"""How many events decide whether most pass again; also the window at first, after the breaker has closed."""


class StoppedError(Exception):
    """The worker stops while the circuit breaker is open."""


class FailureWindow:
    """Whether most of the last events of a handler failed. One of size 0 never says so."""

    def __init__(self, size: int) -> None:
        self._last: deque[bool] = deque(maxlen=size)
        self._failed = 0
        self._size = self._deciding = size

    def succeeded(self, events: int) -> None:
        """Count events that did not fail."""
        if self._failed:
            for _ in repeat(None, min(events, self._size)):
                self._add(failed=False)

    def failed(self) -> bool:
        """Count an event that failed. Returns whether more than half of the last ones did."""
        if not self._size:
            return False
        self._add(failed=True)
        return 2 * self._failed > self._deciding

    def restart(self, deciding: int) -> None:
        """Forget all events. Until more than `deciding` are counted, half of that many failures suffice."""
        self._last.clear()
        self._failed = 0
        self._deciding = min(deciding, self._size)

    @property
    def full(self) -> bool:
        """Whether as many events decide as the window holds."""
        return self._deciding == self._size

    def _add(self, *, failed: bool) -> None:
        full = len(self._last) == self._size
        self._failed += failed - (full and self._last[0])
        self._last.append(failed)
        # Once more events than that are counted, half of them are compared with the failures.
        self._deciding = max(self._deciding, len(self._last))


class CircuitBreaker:
    """The circuit breaker of one handler.

    Args:
        call_again: Decodes deliveries, calls the handler for them, and returns their completions.
        dead_letters: The writer of the handler's dead letters.
        ordered: Whether order per key is kept.
    """

    def __init__(
        self,
        handler: Handler,
        stats: Stats,
        call_again: Callable[[Sequence[Delivery]], Awaitable[list[Completion]]],
        *,
        dead_letters: DeadLetterWriter,
        ordered: bool,
    ) -> None:
        self._name = handler.name
        self._options = handler.options
        self._stats = stats
        self._window = FailureWindow(handler.options.breaker_window)
        self._call_again = call_again
        self._dead_letters = dead_letters
        self._ordered = ordered
        self._trial = anyio.Lock()
        self._waiting = 0  # events that are kept back
        self._tried: deque[bool] = deque(maxlen=_TRIAL)  # whether each one failed
        self._failed_trials = 0
        self._last_passed = False
        self._closed = 0.0  # when it closed: what failed before is called again

    def succeeded(self, events: int) -> None:
        """Count events none of which failed."""
        self._window.succeeded(events)

    def split(self, batch: Sequence[Completion]) -> tuple[list[Completion], list[Completion]]:
        """The completions that may go out, and those that are kept back.

        Kept back are dead letters while the breaker is open, and later events of their keys.
        """
        passed: list[Completion] = []
        kept: list[Completion] = []
        keys: set[bytes] = set()
        for completion in batch:
            key = completion.delivery.record.key
            if self._ordered and key in keys:
                kept.append(completion)
                self._dead_letters.uncounted -= completion.dead_letter
            elif not _is_failure(completion):
                self._window.succeeded(1)
                passed.append(completion)
            elif self._keeps_back(completion):
                kept.append(completion)
                self._dead_letters.uncounted -= 1
                if key:
                    keys.add(key)
            else:
                passed.append(completion)
        return passed, kept

    def _keeps_back(self, failure: DeadLetterCompletion) -> bool:
        if self._stats.breaker_open or failure.time < self._closed:
            return True
        if self._window.failed():
            self._open(failure)
        return bool(self._stats.breaker_open)

    async def until_closed(self, kept: Sequence[Completion], stop: anyio.Event) -> list[Completion]:
        """The completions of events that were kept back, once most events pass.

        Events are tried in their order, so that the order of each key is kept.

        Raises:
            StoppedError: `stop` was set before.
        """
        waiting = [completion.delivery for completion in kept]
        finished: list[Completion] = []
        left = len(waiting)
        self._waiting += left
        try:
            async with self._trial:
                while waiting and self._stats.breaker_open:
                    await self._back_off(stop)
                    done = await self._call_again(waiting[:_TRIAL])
                    if self._most_pass(done):
                        self._close()
                        waiting, finished = waiting[_TRIAL:], finished + done
                        break
                    passed, failed = self.split(done)
                    finished += passed
                    left -= len(passed)
                    self._waiting -= len(passed)
                    waiting = [completion.delivery for completion in failed] + waiting[_TRIAL:]
                return finished + (await self._call_again(waiting) if waiting else [])
        finally:
            self._waiting -= left

    async def _back_off(self, stop: anyio.Event) -> None:
        """Wait, unless the last trial passed. Raises StoppedError once `stop` is set."""
        seconds = 0.0
        if not self._last_passed:
            trials = self._failed_trials + 1
            seconds = backoff_delay(trials, self._options.backoff, self._options.max_backoff)
        with anyio.move_on_after(seconds):
            await stop.wait()
        if stop.is_set():
            raise StoppedError

    def _most_pass(self, done: Sequence[Completion]) -> bool:
        """Whether at most half of the last events failed that were tried: of 16, or of all that wait."""
        failed = list(map(_is_failure, done))
        self._last_passed = 2 * sum(failed) <= len(failed)
        self._failed_trials += not self._last_passed
        self._tried.extend(failed)
        deciding = min(_TRIAL, self._waiting)
        last = list(self._tried)[-deciding:]
        return len(last) == deciding and 2 * sum(last) <= deciding

    def _open(self, failure: DeadLetterCompletion) -> None:
        window = self._options.breaker_window
        self._stats.breaker_open = f"more than half of its last {window} events failed: {failure.cause}"
        self._tried.clear()
        self._last_passed = False
        if self._window.full:  # it has not opened again soon after it had closed
            self._failed_trials = 0
        log.error(
            "%s has stopped: %s. No more of them become dead letters; they are tried again until most pass. "
            "Repair the handler, its model or the topic's producer, and restart; or let them become dead "
            "letters, with consumer.%s.breaker_window = 0",
            *(self._name, self._stats.breaker_open, self._name),
        )

    def _close(self) -> None:
        log.warning("%s goes on: most events pass again", self._name)
        self._window.restart(_TRIAL)
        self._closed = time.monotonic()
        self._stats.breaker_open = ""


def _is_failure(completion: Completion) -> TypeGuard[DeadLetterCompletion]:
    """Whether it is a dead letter that counts as a failure of the handler."""
    return isinstance(completion, DeadLetterCompletion) and not completion.intended
