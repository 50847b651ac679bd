"""Readiness of a service: its workers are ready, reach their broker and are served by it; no lag is high."""

from __future__ import annotations

import logging
from typing import Final

import anyio

from eventml.deploy.workers.reports import RunningWorker, ServiceStatus
from eventml.errors import EventMLError, UnavailableError

log = logging.getLogger("eventml.lag")

FAILING_AFTER: Final = 30.0
"""Seconds for which a step of a handler may fail at the broker while the service is ready: a failover, of a
Redis Sentinel or of the leader of a Kafka partition, takes less."""

_LAG: Final = "reading the lag"  # a step, for the log of outages
_LAG_INTERVAL: Final = 2.0  # seconds
_LAG_TIMEOUT: Final = 10.0  # seconds


def unready_reasons(status: ServiceStatus, max_lag: int | None) -> list[str]:
    """List why the service is not ready: empty if it is. `max_lag` is the highest lag of a ready service."""
    if status.stopping:
        return ["stopping"]
    reasons = []
    ready = {worker.name for worker in status.workers if worker.state == "ready"}
    for worker in status.workers:
        detail = f": {worker.reason}" if worker.reason else ""
        if worker.name not in ready:
            reasons.append(f"{worker.name} is {worker.state}{detail}")
        elif not worker.connected and worker.state == "ready":
            reasons.append(f"{worker.name} does not reach its broker")
        reasons += [
            f"{worker.name}: {name} has stopped: {handler.breaker_open}"
            for name, handler in worker.handlers.items()
            if handler.breaker_open
        ]
        if worker.state == "ready":
            reasons += [
                f"{worker.name}: {step} of {name} has failed for {seconds + worker.silence:.0f} s: {error}"
                for name, handler in worker.handlers.items()
                for step, (seconds, error) in handler.failing.items()
                if seconds + worker.silence > FAILING_AFTER
            ]
    if max_lag is not None:
        for name, lag in group_lags(status).items():
            if lag is None:
                reasons.append(f"{name}: its lag is unknown")
            elif lag > max_lag:
                reasons.append(f"{name} has a lag of {lag} events, more than --max-lag {max_lag}")
    return reasons


def refused_models(status: ServiceStatus) -> list[str]:
    """List the newer versions of models that are not used. The service is ready with those that it has."""
    return [
        f"{worker.name}: {name} goes on with model {' '.join(handler.model or ())}: {handler.model_refused}"
        for worker in status.workers
        for name, handler in worker.handlers.items()
        if handler.model_refused
    ]


def group_lags(status: ServiceStatus) -> dict[str, int | None]:
    """Lag of each handler's group, as reported by the first worker that knows it; None if none does."""
    lags: dict[str, int | None] = {}
    for worker in status.workers:
        for name, handler in worker.handlers.items():
            if lags.get(name) is None:
                lags[name] = handler.lag
    return lags


class LagMonitor:
    """Reads the lags of a running worker's groups every few seconds, and logs when it cannot any more."""

    def __init__(self, worker: RunningWorker) -> None:
        self._worker = worker
        self._running = self._readable = True
        self.connected = True  # the broker answered when last asked
        self.lags: dict[str, int | None] = {}  # by handler; unknown ones are None or missing

    def stop(self) -> None:
        """Stop reading: the worker is about to close its subscriptions."""
        self._running = False

    async def run(self) -> None:
        """Read the lags, from when the worker is ready until stopped or cancelled."""
        await self._worker.ready.wait()
        while self._running:
            try:
                with anyio.fail_after(_LAG_TIMEOUT):
                    self.lags = await self._worker.lag()
                self.connected = self._readable = True
                self._worker.outages.succeeds(_LAG)
            except Exception as exc:  # an error in counting must not stop the worker
                if isinstance(exc, TimeoutError):
                    exc = UnavailableError(f"no answer within {_LAG_TIMEOUT:g} s")
                unavailable = isinstance(exc, UnavailableError)
                if unavailable:
                    self._worker.outages.fails(_LAG, exc)
                elif self._running and self._readable:
                    shown = None if isinstance(exc, EventMLError) else exc
                    log.warning("the lag is unknown: %s: %s", type(exc).__name__, exc, exc_info=shown)
                self.lags, self.connected, self._readable = {}, not unavailable, False
            await anyio.sleep(_LAG_INTERVAL)
        self.lags = {}  # a worker that drains reports none: the process that replaces it does
