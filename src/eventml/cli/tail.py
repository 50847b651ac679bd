"""`eventml tail`: a topic's records as JSON lines."""

import os
import signal
import stat
import sys
from enum import StrEnum
from typing import Annotated

import anyio
import typer
from anyio.abc import TaskStatus

from eventml.backends.base import Start, Subscription
from eventml.bus import Bus
from eventml.cli.buses import own_bus, require_shared
from eventml.cli.options import BackendOption, TopicArgument
from eventml.cli.rendering import as_line
from eventml.cli.reporting import reporting, say
from eventml.errors import UnavailableError
from eventml.runtime import task_group

_FETCH = 500  # records
_PAUSE = 1.0  # seconds between two attempts to reach a broker


class Place(StrEnum):
    """What `--from` takes."""

    earliest = "earliest"
    latest = "latest"


@reporting()
def tail(
    topic: TopicArgument,
    start: Annotated[Place, typer.Option("--from", help="Where to begin.")] = Place.latest,
    number: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Stop after so many records.")
    ] = None,
    backend: BackendOption = None,
) -> None:
    """Print a topic as JSON lines.

    A record a line, as they come, until SIGINT. It reads on its own: no consumer group notices.
    A value that is no JSON is shown as text, or as {"base64": "..."}.
    """
    bus = own_bus(topic, backend)
    anyio.run(_tail, bus, topic, "earliest" if start is Place.earliest else "latest", number)


async def _tail(bus: Bus, topic: str, start: Start, number: int | None) -> None:
    async with task_group() as tasks:
        await tasks.start(_end_on_signal, tasks.cancel_scope)
        tasks.start_soon(_end_with_reader, tasks.cancel_scope)
        async with bus.open():
            require_shared(bus)
            async with bus.backend.subscribe([topic], group=None, start=start) as subscription:
                await _print(subscription, number)
        tasks.cancel_scope.cancel()


async def _print(subscription: Subscription, number: int | None) -> None:
    printed = 0
    while number is None or printed < number:
        limit = _FETCH if number is None else min(number - printed, _FETCH)
        try:
            deliveries = await subscription.receive(limit)
        except UnavailableError as exc:
            say(str(exc), "warning")
            await anyio.sleep(_PAUSE)
            continue
        printed += len(deliveries)
        try:
            for delivery in deliveries:
                sys.stdout.buffer.write(as_line(delivery))
                sys.stdout.buffer.flush()
        except BrokenPipeError:
            _close_output()
            return


async def _end_on_signal(
    scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def _end_with_reader(scope: anyio.CancelScope) -> None:
    """End when whoever reads our output has gone, even if there is nothing to write: `tail ... | head`.

    The writing end of a pipe becomes "readable" then, as an error has to be noticed somehow.
    """
    try:
        output = sys.stdout.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(output).st_mode)
    except OSError:  # no file at all: a test's
        return
    if is_pipe:
        await anyio.wait_readable(output)
        _close_output()
        scope.cancel()


def _close_output() -> None:
    """Send what Python would flush at exit elsewhere: the pipe is broken."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
