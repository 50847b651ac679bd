"""What a worker with a canary reads and writes beside its events: the canary's topic, and the true values."""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
from msgspec import structs

from eventml import records
from eventml.backends.base import Backend, Completion, Subscription
from eventml.codec import Decoder
from eventml.errors import BackendError
from eventml.handlers import Handler
from eventml.records import Delivery, Record
from eventml.runtime.backoff import BrokerRetry
from eventml.runtime.canary_trial import CanaryRecord, CanaryTrial
from eventml.runtime.failures import CallResults, task_group
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

log = logging.getLogger("eventml")

_INTERVAL: Final = 1.0  # seconds between two reports
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
    """Keeps the trial of a predictor's canary in step with the other workers.

    Attributes:
        trial: The trial.
    """

    def __init__(self, backend: Backend, handler: Handler, version: str, stats: Stats) -> None:
        assert handler.canary is not None  # noqa: S101 - for the type checker
        self._backend, self._name, self._stats = backend, handler.name, stats
        self._options = handler.canary
        self._topic = canary_topic(handler)
        self._worker = token_hex(6)
        self._start = CanaryRecord(version=version, share=handler.canary.share, worker=self._worker)
        self.trial = CanaryTrial(self._start, rolls_back=handler.canary.on_worse == "rollback")
        self._decoder, self._truth_decoder = Decoder(CanaryRecord), Decoder(Any)
        self._waiting: OrderedDict[str, list[Record]] = OrderedDict()  # by the id of the event
        self._behind = f"/{handler.name}"  # this id, in that of its prediction
        self._unpublished: CanaryRecord | None = None
        self._shown = (-1.0, "")
        self._unusable = False  # a true value was, and that was logged

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Read what the other workers have agreed on, before the first event is called; tell them the rest.

        Raises:
            BackendError: the topic cannot be read or written.
        """
        subscribe, truth = self._backend.subscribe, self._options.truth
        async with AsyncExitStack() as stack:
            if truth is not None:
                reader = subscribe([truth], group=None, start="latest")
                self._truths = await stack.enter_async_context(reader)
            reader = subscribe([self._topic], group=None, start="earliest")
            self._records = await stack.enter_async_context(reader)
            await self._publish(structs.replace(self._start, share=None))
            while not self._apply(await self._records.receive(_LIMIT)):
                pass  # until this record comes back
            yield
            with suppress(BackendError):
                await self._report()

    async def run(self) -> None:
        """Read and report, until cancelled."""
        async with task_group() as tasks:
            tasks.start_soon(self._read, self._records, "reading about the canary", self._apply)
            if self._options.truth is not None:
                tasks.start_soon(self._read, self._truths, "reading true values", self._compare)
            retry = BrokerRetry(self._name, "reporting about the canary", self._stats)
            while True:
                await anyio.sleep(_INTERVAL)
                try:
                    await self._report()
                    retry.succeeded()
                except BackendError as exc:
                    await retry.wait(exc)

    async def _read(
        self, reader: Subscription, step: str, use: Callable[[Sequence[Delivery]], object]
    ) -> None:
        retry = BrokerRetry(self._name, step, self._stats)
        while True:
            try:
                deliveries = await reader.receive(_LIMIT)
            except BackendError as exc:
                await retry.wait(exc)
            else:
                retry.succeeded()
                use(deliveries)

    def _apply(self, deliveries: Sequence[Delivery]) -> bool:
        """Apply records of the topic. Returns whether one is of this worker."""
        found = [one for one in self._decoder.decode(deliveries) if isinstance(one, CanaryRecord)]
        for record in found:
            self.trial.apply(record)
        self._show()
        return any(record.worker == self._worker for record in found)

    async def _report(self) -> None:
        self._show()
        self._unpublished = self.trial.report() or self._unpublished
        if self._unpublished is not None:
            await self._publish(self._unpublished)
            self._unpublished = None

    async def _publish(self, record: CanaryRecord) -> None:
        await self._backend.publish([canary_message(self._topic, record)])

    def _show(self) -> None:
        """Log a new share, and a verdict."""
        share, worse = self.trial.share, self.trial.worse
        if (share, worse) != self._shown:
            self._shown = share, worse
            about = f"its canary {self._start.version}"
            self._stats.canary_worse = f"{about} is worse: {worse}" if worse else ""
            behind = f", as it is worse: {worse}" if worse else ""
            text = "%s: %s answers for a share of %g of the keys%s"
            log.log(logging.WARNING if worse else logging.INFO, text, self._name, about, share, behind)

    # Errors

    def keep(self, model: CallResults, canary: CallResults) -> None:
        """Keep the predictions of both models for the same events, until their true values are known."""
        if self._options.truth is None:
            return
        for pair in zip(model, canary, strict=True):
            found = [one.outputs[0] for one in pair if isinstance(one, Completion) and one.outputs]
            if len(found) == len(pair):
                self._waiting[found[0].id.partition(self._behind)[0]] = found
        while len(self._waiting) > _KEPT:
            self._waiting.popitem(last=False)

    def _compare(self, deliveries: Sequence[Delivery]) -> None:
        """Compare the errors of both models for the events of these true values."""
        for delivery, truth in zip(deliveries, self._truth_decoder.decode(deliveries), strict=True):
            fields = truth if isinstance(truth, dict) else {"value": truth}
            # It has the id of the event, or of its prediction.
            input_id = str(fields.get("id", delivery.record.id)).partition(self._behind)[0]
            if input_id not in self._waiting:
                continue
            try:
                model, canary = (self._error(one, fields) for one in self._waiting.pop(input_id))
                self.trial.observe("errors", canary - (1.0 + self._options.error_tolerance) * model)
            except (TypeError, ValueError, LookupError) as exc:
                level = logging.DEBUG if self._unusable else logging.WARNING
                log.log(level, "%s: no error can be computed from a true value: %r", self._name, exc)
                self._unusable = True

    def _error(self, prediction: Record, truth: Mapping[str, Any]) -> float:
        """The absolute difference between the number in a prediction and the true one."""
        packed = prediction.headers[records.CONTENT_TYPE] == records.MSGPACK
        fields = (msgspec.msgpack if packed else msgspec.json).decode(prediction.value)
        name = self._options.error
        return abs(float(fields[name]) - float(truth[name] if name in truth else truth["value"]))
