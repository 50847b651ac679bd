"""The worker: all handlers of a bus, run in this process from start-up to drain."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import cast

import anyio
from anyio.abc import TaskStatus

from eventml.backends.base import (
    MAX_BYTES,
    Backend,
    Capabilities,
    ChecksOutputs,
    CountsLost,
    Deduplicates,
    RefusesTopics,
    Subscription,
)
from eventml.errors import (
    BackendError,
    CircuitBreakerError,
    EventMLError,
    UnavailableError,
    UnsupportedError,
)
from eventml.handlers import Handler
from eventml.models import Model, can_change
from eventml.runtime.calls.caller import Caller
from eventml.runtime.calls.concurrency import ConcurrentCalls
from eventml.runtime.calls.handler_call import CallSteps, HandlerCall
from eventml.runtime.calls.outputs import Outputs
from eventml.runtime.failures.dead_letters import dead_letter_topic
from eventml.runtime.failures.exceptions import describe, task_group
from eventml.runtime.failures.outages import OutageLog
from eventml.runtime.failures.poison import Call
from eventml.runtime.failures.retry import Retry
from eventml.runtime.failures.staleness import Staleness
from eventml.runtime.loaded_handlers import LoadedHandler, resources
from eventml.runtime.model_versions.canary import CanaryCall, CanaryControl
from eventml.runtime.model_versions.model_updates import ModelUpdates
from eventml.runtime.pipeline import Pipeline
from eventml.runtime.replies import Replies
from eventml.runtime.stats import Stats
from eventml.runtime.tracing import Tracing
from eventml.times import start_at

log = logging.getLogger("eventml")

_IDLE_CHECK = 0.25  # seconds between two checks whether the worker is idle
_IDLE_UNKNOWN = 60.0  # seconds; a rebalance of Kafka, during which a lag is unknown, takes 45 s by default


class Worker:
    """Runs handlers over one backend until it is stopped.

    Args:
        source: The bus's name: the outputs' `ce_source`.
        drain: How long to finish the events in flight after the stop, in seconds.
        failure_policy: What to do when a call fails: `Retry`, or `FailFast` if callers wait for answers.
        tracing: Records what the handlers do; None if tracing is off.

    Attributes:
        stats, outages: The counters of each handler, by name; the log of the broker's outages.
        ready: Set once every handler has subscribed: records published from then on reach it.

    Raises:
        UnsupportedError: the backend does not support an option of a handler.
    """

    def __init__(
        self,
        backend: Backend,
        handlers: Sequence[LoadedHandler],
        *,
        source: str,
        drain: float,
        failure_policy: type[Retry] = Retry,
        tracing: Tracing | None = None,
    ) -> None:
        self._backend = backend
        self._source = source
        self._drain = drain
        self._failure_policy = failure_policy
        self._tracing = tracing
        self._subscriptions: dict[str, Subscription] = {}
        self._updates: list[tuple[ModelUpdates, float]] = []  # and the seconds between two of their checks
        self._canaries: list[CanaryControl] = []
        self._stop = anyio.Event()
        self._work = anyio.CancelScope()
        self.handlers = handlers
        self.outages, self.ready = OutageLog(), anyio.Event()
        self.stats = {
            h.handler.name: Stats(self.outages, h.profile.bounds, h.profile.field) for h in handlers
        }
        for loaded in handlers:
            check_capabilities(loaded.handler, backend.capabilities)
        check_topics([loaded.handler for loaded in handlers], backend)

    def stop(self) -> None:
        """Stop receiving, finish the events in flight, and let `run` return."""
        self._stop.set()

    def abandon(self) -> None:
        """Stop at once. Events in flight go back to their groups."""
        self._stop.set()
        self._work.cancel()

    async def run(self) -> bool:
        """Work until stopped. Returns whether all events in flight were finished within the deadline.

        Those that were not go back to their groups, for the next worker.
        """
        async with self._subscribed() as pipelines:
            self.ready.set()
            with self._work as work:
                async with task_group() as tasks:
                    tasks.start_soon(self._cancel_at_deadline)
                    for updates, seconds in self._updates:
                        tasks.start_soon(updates.run, seconds)
                    for control in self._canaries:
                        tasks.start_soon(control.run)
                    async with task_group() as running:
                        for pipeline in pipelines:
                            running.start_soon(pipeline.run, self._stop)
                    tasks.cancel_scope.cancel()
        if work.cancelled_caught:
            log.warning(
                "%d events were still in flight after `drain` (%g s); they go back to their groups",
                self.in_flight,
                self._drain,
            )
        return not (work.cancelled_caught or any(stats.breaker_open for stats in self.stats.values()))

    async def idle(self, seconds: float) -> None:
        """Return once nothing has arrived, and nothing was in flight or lagging, for this many seconds.

        The lag is the group's, dead members' events included. An unknown lag may be any.

        Raises:
            CircuitBreakerError: a handler has stopped, as most of its events fail.
            UnavailableError: whether events are left has been unknown for 60 s: the broker does not tell the
                lag of a group, or a handler cannot receive or complete. Says which, and why.
        """
        await self.ready.wait()
        known = start = time.monotonic()
        while True:
            if stopped := {name: s.breaker_open for name, s in self.stats.items() if s.breaker_open}:
                raise CircuitBreakerError("; ".join(f"{n} has stopped: {why}" for n, why in stopped.items()))
            now = time.monotonic()
            quiet = now - max((s.last_arrival for s in self.stats.values()), default=start)
            unknown = [
                f"{step} of {name} fails: {failure.error}"
                for name, stats in self.stats.items()
                for step, failure in stats.failing.items()
            ]
            if not unknown and quiet >= seconds and not self.in_flight:
                try:
                    lags = await self.lag()
                except BackendError as exc:
                    unknown = [f"no lag can be read: {describe(exc)}"]
                else:
                    if not any(lag != 0 for lag in lags.values()):
                        return
                    unknown = [f"the lag of {name} is unknown" for name, lag in lags.items() if lag is None]
            if not unknown:
                known = now
            elif now - known > _IDLE_UNKNOWN:
                raise UnavailableError(
                    f"unknown for {now - known:.0f} s whether events are left: {'; '.join(unknown)}"
                )
            await anyio.sleep(max(min(seconds - quiet, _IDLE_CHECK), 0.01))

    @property
    def in_flight(self) -> int:
        """How many deliveries the handlers have received and not completed."""
        return sum(stats.in_flight for stats in self.stats.values())

    async def lag(self) -> dict[str, int | None]:
        """How many records each handler's group has not completed; None if the backend cannot tell.

        Raises:
            UnavailableError: the broker cannot be reached.
        """
        return {name: await subscription.lag() for name, subscription in tuple(self._subscriptions.items())}

    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[Collection[Pipeline]]:
        """Subscribe all handlers at the same time, as a new member of a Kafka group may wait for seconds."""
        pipelines: dict[str, Pipeline] = {}
        failed: list[EventMLError] = []
        closing = anyio.Event()

        async def hold(loaded: LoadedHandler, *, task_status: TaskStatus[Pipeline]) -> None:
            async with AsyncExitStack() as stack:
                task_status.started(await self._subscribe(stack, loaded))
                await closing.wait()

        async with task_group() as holding:

            async def subscribe(loaded: LoadedHandler) -> None:
                try:
                    pipelines[loaded.handler.name] = await holding.start(hold, loaded)
                except EventMLError as exc:
                    failed.append(exc)
                    starting.cancel_scope.cancel()

            async with task_group() as starting:
                for loaded in self.handlers:
                    starting.start_soon(subscribe, loaded)
            if failed:
                raise failed[0]
            yield pipelines.values()
            closing.set()

    async def _subscribe(self, stack: AsyncExitStack, loaded: LoadedHandler) -> Pipeline:
        handler, options = loaded.handler, loaded.handler.options
        stats = self.stats[handler.name]
        ordered = options.ordered is not False and self._backend.capabilities.ordering != "none"
        subscription = await stack.enter_async_context(_subscription(self._backend, handler))
        self._subscriptions[handler.name] = subscription
        if isinstance(subscription, CountsLost):
            stats.subscription = subscription
        caller = Caller(handler, loaded.resources, ordered=ordered, stats=stats)
        steps = self._steps(loaded, caller, loaded.model)
        call = HandlerCall(handler, steps, stats)
        replies = None
        if steps.outputs is not None and not handler.champion:
            replies = Replies(subscription, self._backend, handler, call=call, source=self._source)
        if options.model_poll is not None and handler.model is not None and can_change(handler.model):

            def use(model: Model) -> None:
                loaded.model = model
                updated = caller.with_resources(resources(model, loaded.lifespans))
                call.replace(self._steps(loaded, updated, model))

            self._updates.append((ModelUpdates(loaded, stats, use), options.model_poll))
        calls: Call = call
        if loaded.canary is not None:
            self._canaries.append(control := CanaryControl(self._backend, handler, loaded.canary, stats))
            await stack.enter_async_context(control.joined())
            other = caller.with_resources(resources(loaded.canary, loaded.lifespans))
            canary_steps = self._steps(loaded, other, loaded.canary)
            canary = HandlerCall(handler, canary_steps, stats, stats.canary_predictions)
            calls = CanaryCall(call, canary, control, stats)
        retry = self._failure_policy(
            calls, handler, subscription=subscription, stats=stats, ordered=ordered, tracing=steps.tracing
        )
        if options.max_age is not None:
            retry.staleness = Staleness(
                handler, options.max_age, call=call, dead_letters=retry.dead_letters, stats=stats
            )
        concurrent = None
        if not handler.batched and (handler.is_async or handler.concurrency > 1):
            concurrent = ConcurrentCalls(retry, handler, ordered=ordered)
        return Pipeline(
            handler,
            subscription,
            decoder=loaded.decoder,
            retry=retry,
            concurrent=concurrent,
            stats=stats,
            max_bytes=self._backend.capabilities.max_bytes or MAX_BYTES,
            replies=replies,
        )

    def _steps(self, loaded: LoadedHandler, caller: Caller, model: Model | None) -> CallSteps:
        handler = loaded.handler
        tracing = None if self._tracing is None else self._tracing.handling(handler, model)
        if not handler.outputs:
            return CallSteps(caller, None, tracing)
        outputs = Outputs(handler, loaded.formats, model=model, source=self._source, tracing=tracing)
        return CallSteps(caller, outputs, tracing)

    async def _cancel_at_deadline(self) -> None:
        await self._stop.wait()
        await anyio.sleep(self._drain)
        self._work.cancel()


def _subscription(backend: Backend, handler: Handler) -> AbstractAsyncContextManager[Subscription]:
    options, topics, start = handler.options, [handler.topic], start_at(handler.options.start)
    if options.dedupe_window is None:
        return backend.subscribe(topics, group=options.group, start=start)
    # `check_capabilities` has made sure that the backend deduplicates.
    return cast("Deduplicates", backend).subscribe_deduplicated(
        topics, group=options.group, start=start, window=options.dedupe_window
    )


def check_topics(handlers: Sequence[Handler], backend: object) -> None:
    """Pass if a backend, or its module, can have the topics of all handlers, and complete their outputs.

    Raises:
        UnsupportedError: it cannot; the message says what to do.
    """
    topics: dict[str, str] = {}
    for handler in handlers:
        dead_letters = dead_letter_topic(handler.topic, handler.options.group)
        outputs = [*handler.outputs, dead_letters]
        topics |= dict.fromkeys([handler.topic, *outputs], handler.name)
        if isinstance(backend, ChecksOutputs):
            backend.check_outputs(handler.topic, outputs)
    if isinstance(backend, RefusesTopics) and (refused := backend.refused_topics(topics)):
        reasons = [f"{topics[name]}: its topic {name!r} is refused: {why}" for name, why in refused.items()]
        raise UnsupportedError("; ".join(reasons) + ". Dead letters are in <topic>.<consumer.NAME.group>.dlq")


def check_capabilities(handler: Handler, capabilities: Capabilities) -> None:
    """Pass if a backend supports a handler's options, so that another backend never weakens them silently.

    Raises:
        UnsupportedError: it does not; the message says what to do.
    """
    if handler.options.ordered and capabilities.ordering != "per_key":
        kept = (
            "keeps order only while a group has one member"
            if capabilities.ordering == "single_member"
            else "keeps no order"
        )
        raise UnsupportedError(
            f"consumer.{handler.name}.ordered: this backend {kept}. Choose a backend that keeps order per "
            "key (kafka://, or memory:// in one process), set the backend up for a single consumer where "
            "its page says how, or drop ordered=True"
        )
    if not isinstance(handler.options.start, str) and not capabilities.start_at_time:
        raise UnsupportedError(
            f"consumer.{handler.name}.start: this backend cannot start at a time. Choose one that can "
            '(redis://, kafka://, memory://), or "earliest" or "latest"'
        )
    if handler.options.dedupe_window is not None and not capabilities.deduplicates:
        raise UnsupportedError(
            f"consumer.{handler.name}.dedupe_window: this backend does not record which ids a group has "
            "completed. Choose one that does (redis://, or memory:// in one process). Or drop dedupe_window, "
            "make the handler's side effects idempotent by the event's id, and choose exactly-once delivery "
            "where the backend has it (delivery=exactly_once on kafka://)"
        )
