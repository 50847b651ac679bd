"""`eventml tail`: print the records of a topic as JSON lines."""

import os
import stat
import sys
from contextlib import suppress
from typing import Annotated, Final

import anyio
import typer

from eventml.backends.base import Start, Subscription
from eventml.bus import Bus, stop_on_signals
from eventml.cli.buses import BackendOption, TopicArgument, bus_of_topic, open_shared
from eventml.cli.output import delivery_to_json, print_message
from eventml.errors import UnavailableError
from eventml.runtime import task_group

_MAX_RECEIVE: Final = 500  # records
_RETRY_DELAY: Final = 1.0  # seconds


def tail(
    topic: TopicArgument,
    start: Annotated[
        Start,
        typer.Option("--from", help="Begin with the oldest record, or with those published from now on."),
    ] = "latest",
    number: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Stop after N records.")
    ] = None,
    backend: BackendOption = None,
) -> None:
    """Print the records of a topic as JSON lines.

    Each record is printed as it arrives, until SIGINT or SIGTERM. The command joins no consumer group. A
    value that is not JSON is printed as text, or as {"base64": "..."} if it is not text.
    """
    bus = bus_of_topic(topic, backend)
    anyio.run(print_topic, bus, topic, start, number)


async def print_topic(bus: Bus, topic: str, start: Start, number: int | None) -> None:
    """Print records of a topic until a signal stops it, standard output is closed or `number` are printed."""
    async with task_group() as tasks:
        tasks.start_soon(stop_on_signals, tasks.cancel_scope.cancel, tasks.cancel_scope.cancel)
        tasks.start_soon(_stop_when_pipe_closes, tasks.cancel_scope)
        async with open_shared(bus), bus.backend.subscribe([topic], group=None, start=start) as subscription:
            await _print_records(subscription, number)
        tasks.cancel_scope.cancel()


async def _print_records(subscription: Subscription, number: int | None) -> None:
    printed = 0
    while number is None or printed < number:
        limit = _MAX_RECEIVE if number is None else min(number - printed, _MAX_RECEIVE)
        try:
            deliveries = await subscription.receive(limit)
        except UnavailableError as exc:
            print_message(str(exc), "warning")
            await anyio.sleep(_RETRY_DELAY)
            continue
        printed += len(deliveries)
        with suppress(BrokenPipeError):
            for delivery in deliveries:
                sys.stdout.buffer.write(delivery_to_json(delivery))
                sys.stdout.buffer.flush()
            continue
        return


async def _stop_when_pipe_closes(scope: anyio.CancelScope) -> None:
    """Stop when the reader of standard output closes the pipe, even if no record arrives: `tail ... | head`.

    The writing end of a pipe becomes "readable" when its reading end is closed, to report the error.
    """
    try:
        output = sys.stdout.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(output).st_mode)
    except OSError:  # standard output is not a file: a test captures it
        return
    if is_pipe:
        await anyio.wait_readable(output)
        scope.cancel()
