"""`eventml tail`: print the records of a topic as JSON lines."""

import os
import stat
import sys
from contextlib import aclosing, suppress
from typing import Annotated, Any, Final

import anyio
import typer

from eventml.bus import Bus, stop_on_signals
from eventml.cli.buses import BackendOption, TopicArgument, bus_without_app, open_shared, time_option
from eventml.cli.output import UsageError, print_message
from eventml.deploy.console import delivery_to_json
from eventml.errors import EventMLError
from eventml.runtime import task_group
from eventml.times import parse_start

_SILENCE: Final = 1.0  # seconds without a record until the command says what it waits for


def tail(
    topic: TopicArgument,
    start: Annotated[
        Any,
        time_option(
            "Begin with the oldest record (earliest), with those from now on (latest), or at a time: an age "
            "such as 90s, 15m, 2h or 3d, or a time in UTC such as 2026-01-05T08:00. The default is latest, "
            "with an end earliest.",
            "--from",
            parse=parse_start,
        ),
    ] = None,
    until: Annotated[Any, time_option("Stop before the records of this time.")] = None,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop where the topic ends when the command begins.")
    ] = False,
    number: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Stop after N records.")
    ] = None,
    backend: BackendOption = None,
) -> None:
    """Print the records of a topic as JSON lines.

    Each record is printed as it arrives, until the end, SIGINT or SIGTERM. The command joins no consumer
    group. A value that is not JSON is printed as text, or as {"base64": "..."} if it is not text.
    """
    if until_end and until is not None:
        raise UsageError("--until and --until-end: there can be one end; leave one of them out")
    end = "end" if until_end else until
    start = ("latest" if end is None else "earliest") if start is None else start
    anyio.run(print_topic, bus_without_app(backend), topic, start, number, end)


async def print_topic(bus: Bus, topic: str, start: Any, number: int | None, until: Any = None) -> None:
    """Print records as `Bus.read` gives them, up to `number`, until a signal or standard output is closed."""
    printed, silent = 0, anyio.CancelScope()
    async with task_group() as tasks:
        tasks.start_soon(stop_on_signals, tasks.cancel_scope.cancel, tasks.cancel_scope.cancel)
        tasks.start_soon(_stop_when_pipe_closes, tasks.cancel_scope)
        async with open_shared(bus), aclosing(bus.read(topic, start=start, until=until)) as deliveries:
            if until != "end":
                tasks.start_soon(_say_that_it_waits, bus, topic, start, silent)
            with suppress(BrokenPipeError):
                async for delivery in deliveries:
                    silent.cancel()
                    sys.stdout.buffer.write(delivery_to_json(delivery))
                    sys.stdout.buffer.flush()
                    printed += 1
                    if printed == number:
                        break
        tasks.cancel_scope.cancel()


async def _say_that_it_waits(bus: Bus, topic: str, start: Any, silent: anyio.CancelScope) -> None:
    """Say on standard error what is waited for, unless a record has come: the name may be misspelt."""
    with silent, suppress(EventMLError):  # a backend may not tell, or not this user, where a topic ends
        await anyio.sleep(_SILENCE)
        async with aclosing(bus.read(topic, until="end")) as records:
            async for _ in records:
                if start != "earliest":  # else it is about to be printed
                    print_message(
                        f"waiting for new records of {topic}; --from earliest prints the older ones"
                    )
                return
        print_message(f"the topic {topic} is empty, or does not exist yet; waiting for its first record")


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
