"""What a worker with a canary reads and writes beside its events: the canary's topic, and the true values."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from eventml import records
from eventml.backends.base import Backend, Completion
from eventml.codec import Decoder
from eventml.errors import BackendError
from eventml.handlers import Handler
from eventml.models import Model
from eventml.records import Record
from eventml.runtime.backoff import BrokerRetry
from eventml.runtime.canary_trial import CanaryRecord, CanaryTrial, Observation
from eventml.runtime.failures import CallResults, task_group
from eventml.runtime.sequential_test import Sums
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

log = logging.getLogger("eventml")

_INTERVAL: Final = 0.5  # seconds between two reports
_GROWTH: Final = 1.1  # of the observations from one report to the next, so that there are few
_LIMIT: Final = 500  # records that are received at once
_KEPT: Final = 100_000  # pairs of predictions that wait for their true values


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
        self._own: dict[Observation, Sums] = {}  # observed in this trial
        self._of_trial, self._reported = "", -1.0  # its name, and how many observations were reported
        self._shown = (-1.0, "")
        self._waiting: dict[str, list[Record]] = {}  # pairs of predictions, by the id of the event
        self._behind = f"/{handler.name}"  # this id, in the id of a prediction
        self._unusable = False  # a true value was, and that has been logged

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Learn what the other workers have observed, before the first call; tell them the rest at the end.

        Raises:
            BackendError: the topic cannot be read or written.
        """
        async with AsyncExitStack() as stack:
            reader = self._backend.subscribe([self._topic], group=None, start="earliest")
            self._records = await stack.enter_async_context(reader)
            if self.options.truth is not None:
                reader = self._backend.subscribe([self.options.truth], group=None, start="latest")
                self._truths = await stack.enter_async_context(reader)
            await self._report()
            while not await self._read_records():
                pass  # until that report comes back
            yield
            with suppress(BackendError):
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
        if self.trial.name != self._of_trial:
            self._own, self._of_trial, self._reported = {}, self.trial.name, 0.0
        share, worse = self.trial.share, self.trial.worse
        if (share, worse) != self._shown:
            self._shown = share, worse
            self._stats.canary_worse = f"its canary {self._version} is worse: {worse}" if worse else ""
            text, behind = "%s: its canary %s answers for %g of the keys%s", f"; it is worse: {worse}"
            level = logging.WARNING if worse else logging.INFO
            log.log(level, text, self._name, self._version, share, behind if worse else "")
        return any(record.worker == self._worker for record in found)

    def observe(self, name: Observation, value: float) -> None:
        """Add an observation, which is above zero if the canary is worse."""
        self._own[name] = self._own.get(name, Sums()).observe(value)

    async def _report(self) -> None:
        number = sum(sums.number for sums in self._own.values())
        if number > self._reported * _GROWTH:
            record = CanaryRecord(
                version=self._version, trial=self._of_trial, worker=self._worker, sums=self._own
            )
            self._reported = number
            await self._backend.publish([canary_message(self._topic, record)])

    # Errors

    def keep(self, model: CallResults, canary: CallResults) -> None:
        """Keep the predictions of both models for the same events, until their true values are known."""
        for pair in zip(model, canary, strict=True) if self.options.truth is not None else ():
            found = [one.outputs[0] for one in pair if isinstance(one, Completion) and one.outputs]
            if len(found) == len(pair):
                self._waiting[found[0].id.partition(self._behind)[0]] = found
        while len(self._waiting) > _KEPT:
            del self._waiting[next(iter(self._waiting))]

    async def _read_truths(self) -> None:
        """Read some true values, and compare the errors of both models for their events."""
        deliveries = await self._truths.receive(_LIMIT)
        for delivery, truth in zip(deliveries, Decoder(Any).decode(deliveries), strict=True):
            fields = truth if isinstance(truth, dict) else {"value": truth}
            input_id = str(fields.get("id", delivery.record.id)).partition(self._behind)[0]
            if (pair := self._waiting.pop(input_id, None)) is not None:
                try:
                    model, canary = (self._error(prediction, fields) for prediction in pair)
                except (ArithmeticError, LookupError, TypeError, ValueError):
                    text = "%s: there are true values that cannot be used: predictions need a number in the "
                    text += "field %r, and true values in that or in 'value'"
                    log.log(
                        logging.DEBUG if self._unusable else logging.WARNING,
                        text,
                        self._name,
                        self.options.error,
                    )
                    self._unusable = True
                else:
                    self.observe("errors", canary - (1.0 + self.options.error_tolerance) * model)

    def _error(self, prediction: Record, truth: Mapping[str, Any]) -> float:
        packed = prediction.headers[records.CONTENT_TYPE] == records.MSGPACK
        fields = (msgspec.msgpack if packed else msgspec.json).decode(prediction.value)
        name = self.options.error
        return abs(float(fields[name]) - float(truth[name] if name in truth else truth["value"]))
