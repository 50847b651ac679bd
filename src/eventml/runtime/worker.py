"""One worker: all the handlers of a bus at work in this process, from start-up to drain."""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

import anyio

from eventml.backends.base import ChecksOutputs
from eventml.codec import Decoder, Encoder
from eventml.errors import UnavailableError
from eventml.runtime.answering import BatchProcessor
from eventml.runtime.calling import Caller
from eventml.runtime.outputs import Outputs
from eventml.runtime.pipeline import Pipeline
from eventml.runtime.replies import Replies
from eventml.runtime.replying import Replying
from eventml.runtime.stats import Stats
from eventml.runtime.support import check_capabilities, outputs_of
from eventml.runtime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from eventml.backends.base import Backend, DedupeSubscription, Deduplicates, Subscription
    from eventml.handlers import Handler
    from eventml.runtime.equipment import LoadedHandler
    from eventml.runtime.tracing import Tracing

log = logging.getLogger("eventml")


class Worker:
    """Runs jobs over one backend until told to stop.

    Args:
        backend: Where events come from and go to.
        jobs: What to run.
        source: The bus's name, which outputs carry as their source.
        drain: How long to finish what is in hand after the stop, in seconds.
        interactive: Somebody waits for each answer; see `Recovery`.
        tracing: Is told what the handlers do; None where nobody is.
    """

    def __init__(
        self,
        backend: Backend,
        jobs: Sequence[LoadedHandler],
        *,
        source: str,
        drain: float,
        interactive: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self._backend = backend
        self.jobs = jobs
        self._source = source
        self._drain = drain
        self._waited_for = interactive
        self._tracing = tracing
        self._subscriptions: dict[str, Subscription] = {}
        self._telling: set[str] = set()
        self._stop = anyio.Event()
        self._work = anyio.CancelScope()
        self.stats = {job.handler.name: Stats() for job in jobs}
        self.ready = anyio.Event()
        """Set once every handler is subscribed: what is published from then on reaches it."""
        for job in jobs:
            check_capabilities(job.handler, backend.capabilities)
            if isinstance(backend, ChecksOutputs):
                backend.check_outputs(job.handler.topic, outputs_of(job.handler))

    def stop(self) -> None:
        """Stop receiving, finish what is in hand, and let `run` return."""
        self._stop.set()

    def abandon(self) -> None:
        """Stop now, whatever is in hand: it goes back to its groups."""
        self._stop.set()
        self._work.cancel()

    async def run(self) -> bool:
        """Work until stopped. Returns whether all that was in hand was finished within the deadline.

        What was not goes back to the group, for the next worker.
        """
        async with AsyncExitStack() as stack:
            pipelines = [await self._enter(stack, job) for job in self.jobs]
            self.ready.set()
            with self._work as work:
                async with task_group() as tasks:
                    tasks.start_soon(self._cancel_at_deadline)
                    async with task_group() as running:
                        for pipeline in pipelines:
                            running.start_soon(pipeline.run, self._stop)
                    tasks.cancel_scope.cancel()
        if work.cancelled_caught:
            log.warning("%d events were still in hand when `drain` ran out; they go back", self.in_flight)
        return not work.cancelled_caught

    async def idle(self, seconds: float) -> None:
        """Return once nothing has arrived, and nothing is in hand or waiting, for so many seconds.

        What waits is the lag, dead members' work included. While a broker that has told it cannot, this
        does not return; a backend that never tells is taken at what arrives.
        """
        await self.ready.wait()
        start = time.monotonic()
        while True:
            quiet = time.monotonic() - max((s.last_arrival for s in self.stats.values()), default=start)
            if quiet >= seconds and not self.in_flight and await self._nothing_left():
                return
            await anyio.sleep(max(min(seconds - quiet, 0.25), 0.01))

    @property
    def in_flight(self) -> int:
        """How many deliveries the handlers have taken and not finished."""
        return sum(stats.in_flight for stats in self.stats.values())

    async def lag(self) -> dict[str, int | None]:
        """Each group's unfinished records, by handler; None where the backend cannot tell."""
        return {name: await subscription.lag() for name, subscription in self._subscriptions.items()}

    async def _nothing_left(self) -> bool:
        try:
            lags = await self.lag()
        except UnavailableError:
            return False
        self._telling |= {name for name, lag in lags.items() if lag is not None}
        return all(not lag and (lag == 0 or name not in self._telling) for name, lag in lags.items())

    async def _enter(self, stack: AsyncExitStack, job: LoadedHandler) -> Pipeline:
        handler, options = job.handler, job.handler.options
        subscription = await stack.enter_async_context(_subscribe(self._backend, handler))
        self._subscriptions[handler.name] = subscription
        stats = self.stats[handler.name]
        ordered = options.ordered is not False and self._backend.capabilities.ordering != "none"
        decoder = job.decoder or Decoder(handler.event_type, options.group)
        completing: Subscription = subscription
        tracing = None if self._tracing is None else self._tracing.handling(handler, job.model)
        outputs = None
        if handler.to is not None:
            encoder = Encoder(job.format)
            outputs = Outputs(
                handler, handler.to, model=job.model, source=self._source, encoder=encoder, tracing=tracing
            )
            replies = Replies(handler.topic, handler.name, suffix=outputs.suffix, source=self._source)
            completing = Replying(subscription, decoder, replies, self._backend)
        return Pipeline(
            handler,
            completing,
            decoder=decoder,
            answering=BatchProcessor(
                handler,
                caller=Caller(handler, job.resources, ordered=ordered, stats=stats),
                outputs=outputs,
                stats=stats,
                ordered=ordered,
                interactive=self._waited_for,
                tracing=tracing,
            ),
            stats=stats,
            once=None if options.dedupe_window is None else cast("DedupeSubscription", subscription),
        )

    async def _cancel_at_deadline(self) -> None:
        await self._stop.wait()
        await anyio.sleep(self._drain)
        self._work.cancel()


def _subscribe(backend: Backend, handler: Handler) -> AbstractAsyncContextManager[Subscription]:
    options, topics = handler.options, [handler.topic]
    if options.dedupe_window is None:
        return backend.subscribe(topics, group=options.group, start=options.start)
    # Its capabilities were looked at before: it remembers ids.
    return cast("Deduplicates", backend).subscribe_deduplicated(
        topics, group=options.group, start=options.start, window=options.dedupe_window
    )
