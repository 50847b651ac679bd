"""The canary of a predictor in one worker: its calls, and what the workers tell each other about it.

`CanaryCall` calls both models for the events of the canary's keys. The predictor's model answers the events
that the canary fails for, so that a bad canary costs no event. Both get the same events, so that neither the
keys nor the sizes of batches make a difference between their failures and times.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from secrets import token_hex
from typing import Any, Final

import anyio
import msgspec

from eventml import records
from eventml.backends.base import Backend, Completion
from eventml.codec import Decoder
from eventml.errors import BackendError, UnavailableError
from eventml.handlers import Handler
from eventml.models import Model
from eventml.records import Record
from eventml.runtime.calls.caller import Item
from eventml.runtime.calls.handler_call import HandlerCall
from eventml.runtime.failures.classification import CallResults, Failed
from eventml.runtime.failures.exceptions import failure_cause, task_group
from eventml.runtime.failures.outages import BrokerRetry
from eventml.runtime.model_versions.canary_trial import (
    CanaryRecord,
    CanaryTrial,
    Observation,
    Sums,
    is_in_share,
)
from eventml.runtime.predictions import decode_prediction
from eventml.runtime.stats import Stats

log = logging.getLogger("eventml")

_INTERVAL: Final = 0.5  # seconds between two reports
_GROWTH: Final = 1.1  # of the observations from one report to the next, so that there are few
_LAST_REPORT: Final = 2.0  # seconds that the report of a worker that stops may take
_JOINING: Final = 30.0  # seconds until the first report of a worker must have come back
_LIMIT: Final = 500  # records that are received at once
_KEPT: Final = 100_000  # pairs of predictions that wait for their true values
_SECONDS: Final = 0.001  # a smaller difference between two calls says nothing


def canary_topic(handler: Handler) -> str:
    """The topic on which the workers of a predictor agree about its canary."""
    return f"{handler.topic}.{handler.options.group}.canary"


def canary_message(topic: str, record: CanaryRecord) -> Record:
    """A record of a canary's topic. All have one key, so that all readers get them in one order."""
    value, headers = msgspec.json.encode(record), {records.CONTENT_TYPE: records.JSON}
    return Record(topic, value, b"canary", token_hex(8), headers)


class CanaryControl:
    """Keeps `trial`, that of a predictor's canary, in step with the other workers."""

    def __init__(self, backend: Backend, handler: Handler, canary: Model, stats: Stats) -> None:
        assert handler.canary is not None  # noqa: S101 - for the type checker
        self._backend, self._name, self._stats, self.options = backend, handler.name, stats, handler.canary
        self._topic = canary_topic(handler)
        self._version, self._worker = canary.version, token_hex(6)
        start = CanaryRecord(version=canary.version, share=handler.canary.share)
        self.trial = CanaryTrial(start, rolls_back=handler.canary.on_worse == "rollback")
        self._own: dict[Observation, Sums] = {}  # observed by this worker in this trial
        self._trial_name = ""
        self._reported: dict[str, int] = {
            "": -1
        }  # by trial: the observations of the last report; -1 before the first
        self._shown = (-1.0, "")
        self._waiting: dict[str, tuple[float, float]] = {}  # both predictions, by the id of the event
        self._causes: set[type[Exception]] = set()  # exceptions of the canary that have been logged
        self._unusable = False  # that a true value cannot be used has been logged

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Read the reports of the other workers before the first call; make the last report at the end.

        Raises:
            BackendError: the topic cannot be read or written.
            UnavailableError: the worker's own report does not come back, as when the topic is deleted.
        """
        async with AsyncExitStack() as stack:
            reader = self._backend.subscribe([self._topic], group=None, start="earliest")
            self._records = await stack.enter_async_context(reader)
            if self.options.truth is not None:
                reader = self._backend.subscribe([self.options.truth], group=None, start="latest")
                self._truths = await stack.enter_async_context(reader)
            await self._report()
            with anyio.move_on_after(_JOINING) as waiting:
                while not await self._read_records():
                    pass
            if waiting.cancelled_caught:
                raise UnavailableError(
                    f"{self._name}: its report on {self._topic} did not come back within {_JOINING:g} s; see "
                    "whether the topic was deleted, and start the worker again"
                )
            yield
            with suppress(BackendError), anyio.move_on_after(_LAST_REPORT):
                await self._report()

    async def run(self) -> None:
        """Read and report, until cancelled."""
        async with task_group() as tasks:
            tasks.start_soon(self._repeat, "reading about the canary", self._read_records)
            tasks.start_soon(self._repeat, "reporting about the canary", self._report, _INTERVAL)
            if self.options.truth is not None:
                tasks.start_soon(self._repeat, "reading true values", self._read_truths)

    async def _repeat(self, name: str, step: Callable[[], Awaitable[object]], interval: float = 0.0) -> None:
        retry = BrokerRetry(self._name, name, self._stats)
        while True:
            await anyio.sleep(interval)
            try:
                await step()
                retry.succeeded()
            except BackendError as exc:
                await retry.wait(exc)

    async def _read_records(self) -> bool:
        """Read some records of the topic and apply them. Returns whether one is of this worker."""
        decoded = Decoder(CanaryRecord).decode(await self._records.receive(_LIMIT))
        found = [one for one in decoded if isinstance(one, CanaryRecord)]
        for record in found:
            self.trial.apply(record)
        if self.trial.name != self._trial_name:
            self._own, self._waiting, self._trial_name = {}, {}, self.trial.name
        share, worse = self.trial.share, self.trial.worse
        if (share, worse) != self._shown:
            self._shown, self._stats.canary_share = (share, worse), float(share)
            self._stats.canary_worse = f"its canary {self._version} is worse: {worse}" if worse else ""
            level, why = (logging.WARNING, f"; it is worse: {worse}") if worse else (logging.INFO, "")
            text = "%s: its canary %s answers for %g of the keys%s"
            log.log(level, text, self._name, self._version, share, why)
        return any(record.worker == self._worker for record in found)

    def observe(self, name: Observation, value: float) -> None:
        """Add an observation, which is above zero if the canary is worse; none once it is decided about."""
        if 0.0 < self.trial.share < 1.0:
            self._own[name] = self._own.get(name, Sums()).observe(value)

    def failed(self, error: Exception) -> None:
        """Log why the canary fails for an event that the model answers: the first exception of each class."""
        if type(error) not in self._causes:
            self._causes.add(type(error))
            text = "%s: its canary %s fails, and the model answers: %s"
            log.warning(text, self._name, self._version, failure_cause(error))

    async def _report(self) -> None:
        number = sum(sums.number for sums in self._own.values())
        if number > self._reported.get(self._trial_name, 0) * _GROWTH:
            record = CanaryRecord(
                version=self._version, trial=self._trial_name, worker=self._worker, sums=self._own
            )
            await self._backend.publish([canary_message(self._topic, record)])
            self._reported[record.trial] = number

    # Errors

    def keep(self, model: CallResults, canary: CallResults) -> None:
        """Keep the predictions of both models for the same events, until their true values are known."""
        if self.options.truth is None:
            return
        for pair in zip(model, canary, strict=True):
            found = [one for one in pair if isinstance(one, Completion) and one.outputs]
            if len(found) == len(pair):
                first, second = (self._number(decode_prediction(one.outputs[0])) for one in found)
                self._waiting[found[0].delivery.record.id] = first, second
        while len(self._waiting) > _KEPT:
            del self._waiting[next(iter(self._waiting))]

    async def _read_truths(self) -> None:
        """Read some true values, and compare the errors of both models for their events."""
        deliveries = await self._truths.receive(_LIMIT)
        for delivery, truth in zip(deliveries, Decoder(Any).decode(deliveries), strict=True):
            fields = truth if isinstance(truth, dict) else {"value": truth}
            truth_id = str(fields.get("id", delivery.record.id))
            ids = truth_id, truth_id.rpartition(f"/{self._name}@")[0]  # it may be that of the prediction
            if pair := next((self._waiting.pop(one) for one in ids if one in self._waiting), None):
                model, canary = (abs(one - self._number(fields, "value")) for one in pair)
                difference = canary - (1.0 + self.options.error_tolerance) * model
                self.observe("errors", difference)
                if math.isnan(difference) and not self._unusable:
                    self._unusable = True
                    text = "%s: there are true values that cannot be used: predictions need a number in the "
                    text += "field %r, and true values in that or in 'value'"
                    log.warning(text, self._name, self.options.error)

    def _number(self, fields: Any, *others: str) -> float:
        """The number in the field that is compared, or else in another; NaN if it has none."""
        try:
            return float(next(fields[name] for name in (self.options.error, *others) if name in fields))
        except (ArithmeticError, StopIteration, TypeError, ValueError):
            return math.nan


class CanaryCall:
    """Calls a predictor's function with its model, with the canary, or with both, by the canary's share."""

    def __init__(self, call: HandlerCall, canary: HandlerCall, control: CanaryControl, stats: Stats) -> None:
        self._call, self._canary = call, canary
        self._control = control
        self._stats = stats
        self._turn = 1

    async def __call__(self, items: Sequence[Item]) -> CallResults:
        """Call, check and encode, as a `HandlerCall` does. With a share of 1 the canary alone is called."""
        share = self._control.trial.share
        chosen = [share > 0.0 and is_in_share(item.delivery.record, share) for item in items]
        self._stats.canary_events += sum(chosen)
        if share >= 1.0:
            return await self._canary(items)
        if not any(chosen):
            return await self._call(items)
        parts: dict[bool, list[Item]] = {True: [], False: []}
        for item, is_chosen in zip(items, chosen, strict=True):
            parts[is_chosen].append(item)
        others = iter(await self._call(parts[False]) if parts[False] else ())
        both = iter(await self._call_both(parts[True]))
        return [next(both if is_chosen else others) for is_chosen in chosen]

    async def _call_both(self, items: Sequence[Item]) -> CallResults:
        turn = self._turn = -self._turn  # the second call may find things in caches
        outcomes = [await _timed(call, items) for call in [self._call, self._canary][::turn]]
        (model, error, seconds), (canary, _, canary_seconds) = outcomes[::turn]
        failed = sum(isinstance(one, Failed) for one in model)
        canary_failed = sum(isinstance(one, Failed) for one in canary)
        if canary_failed != failed:
            self._control.observe("failures", 1.0 if canary_failed > failed else -1.0)
        elif not failed:
            slow = canary_seconds > self._control.options.max_slowdown * seconds + _SECONDS
            self._control.observe("seconds", 1.0 if slow else -1.0)
        if error is not None and canary_failed:
            raise error  # so that the bad event is found
        self._control.keep(model, canary)
        results = list(canary)
        for position, (one, other) in enumerate(zip(model, canary, strict=True)):
            if isinstance(other, Failed):
                results[position] = one
                if not isinstance(one, Failed):
                    self._control.failed(other.error)
        return results


async def _timed(call: HandlerCall, items: Sequence[Item]) -> tuple[CallResults, Exception | None, float]:
    """The results of a call, all `Failed` if it raised; its exception; and its time in seconds."""
    begun, error = time.perf_counter(), None
    try:
        results = await call(items)
    except Exception as exc:  # noqa: BLE001 - a handler may raise anything
        results, error = [Failed(exc)] * len(items), exc
    return results, error, time.perf_counter() - begun
