"""The service of a demo: run it in one process or in several, show it live, and kill a worker of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from rich.live import Live
from rich.text import Text

from eventml.cli.top import render
from eventml.deploy.console import Snapshot
from eventml.deploy.workers import (
    HealthLimits,
    HostPort,
    ServiceStatus,
    Supervisor,
    WorkerSpec,
    group_lags,
    serve_status,
    watch_health,
)
from eventml.errors import EventMLError
from eventml.runtime import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import Console

    from eventml import Bus

Status = Callable[[], ServiceStatus]


@asynccontextmanager
async def running(
    bus: Bus, target: str, url: str | None, workers: int | None, print_line: Callable[[str, str], None]
) -> AsyncIterator[Status]:
    """Run the handlers of an open bus in worker processes; in this one if `workers` is None, or has to be.

    Yields the function that returns the status of the service, once that is ready. A signal that stops the
    service cancels the context.

    Args:
        bus: The bus.
        target: Where its worker processes import it, `MODULE:BUS`.
        url: The backend's URL, if it overrides the configuration.
        workers: Number of worker processes.
        print_line: Called with the name of a worker and each line of its log.

    Raises:
        EventMLError: The service cannot start.
    """
    async with task_group() as tasks, AsyncExitStack() as stack:
        service: Any
        if workers and bus.backend.capabilities.shared:
            specs = [WorkerSpec(name=f"worker-{n}", bus=target, backend=url) for n in range(1, workers + 1)]
            service = Supervisor(bus.name, specs, drain=bus.settings.drain, print_line=print_line)
            status = service.status
        else:
            service = await stack.enter_async_context(bus.worker())
            status = await stack.enter_async_context(watch_health(bus.name, service, HealthLimits()))

        async def run() -> None:
            await service.run()
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        while True:
            now = status()
            if now.stuck:
                raise EventMLError(now.stuck)
            if all(worker.state == "ready" for worker in now.workers):
                break
            await anyio.sleep(0.1)
        yield status
        service.stop()
        await anyio.sleep_forever()  # until `run` has ended


@asynccontextmanager
async def showing(bus: str, status: Status, console: Console) -> AsyncIterator[None]:
    """Show a service as `eventml top` does, each second, and in the end for the whole time.

    It has an operations port meanwhile, whose address is shown.
    """
    with (
        serve_status(status, HostPort(port=0)) as address,
        Live(console=console, auto_refresh=False) as live,
    ):
        start = snapshot(status)

        def show(since: Snapshot) -> Snapshot:
            now = snapshot(status)
            shown = f"\n{render(bus, address, since, now, console.width)}\n"
            live.update(Text(shown, no_wrap=True), refresh=True)
            return now

        async def keep_showing() -> None:
            before = start
            while True:
                await anyio.sleep(1)
                before = show(before)

        async with task_group() as tasks:
            tasks.start_soon(keep_showing)
            yield
            tasks.cancel_scope.cancel()
        with anyio.move_on_after(3):  # the lag that is shown is read once in a while
            while any(group_lags(status()).values()):  # noqa: ASYNC110 - polling
                await anyio.sleep(0.1)
        show(start)


def snapshot(status: Status) -> Snapshot:
    """Return the status of a service now. That of worker processes is half a second old at most."""
    return Snapshot(time.monotonic(), status())


def kill_worker(status: ServiceStatus) -> str | None:
    """Kill a worker process without notice. Returns its name, or None if the service is in this process."""
    for worker in status.workers:
        if worker.state == "ready" and worker.pid != os.getpid():
            os.kill(worker.pid, signal.SIGKILL)
            return worker.name
    return None
