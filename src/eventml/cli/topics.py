"""`eventml topics create`, which creates the topics of an app, and `eventml lag`, which shows its lag.

The lag of a consumer group at a topic is the number of events that it has not completed.
"""

# No `from __future__ import annotations` here: typer reads the annotations at run time.
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import anyio
import typer

from eventml.backends.base import NewTopic
from eventml.bus import Bus, create_topics, topics_of
from eventml.cli.buses import BackendOption, BusArgument, backend_url, load_bus, open_shared
from eventml.cli.output import JsonOption, print_json, print_message, print_table, print_text

app = typer.Typer(help="Create the topics of an app.", no_args_is_help=True)


@app.callback()
def _topics() -> None:
    """Make `create` a subcommand; typer would drop its name if it were the only command."""


@app.command()
def create(
    bus: BusArgument,
    partitions: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Partitions of each topic.")
    ] = None,
    replication: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Replicas of each topic.")
    ] = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create the missing topics of an app.

    These are the topics that its handlers read and write, and their dead-letter topics. Topics that exist
    are not changed.

    Partitions, replication and retention are taken from `[topic."<name>"]` in the configuration; the options
    of this command override them for every topic.
    """
    app_bus = load_bus(bus, backend)
    topics = topics_of(app_bus, partitions=partitions, replication=replication)
    created = anyio.run(_create, app_bus, topics)
    existed = [topic.name for topic in topics if created is not None and topic.name not in created]
    if as_json:
        found = {"backend": backend_url(app_bus), "created": sorted(created or ()), "existed": existed}
        print_json(found)
    elif created is None:
        print_text(
            f"{backend_url(app_bus)} needs no topics created: a topic exists once a record is published to it"
        )
    else:
        rows = [[topic.name, "existed" if topic.name in existed else "created"] for topic in topics]
        print_table(["topic", "state"], rows)


async def _create(bus: Bus, topics: Sequence[NewTopic]) -> Sequence[str] | None:
    """Create topics and return their names; None if the backend needs none created."""
    async with bus.open():
        return await create_topics(bus, topics)


def lag(bus: BusArgument, backend: BackendOption = None, as_json: JsonOption = False) -> None:
    """Show the lag of each consumer group.

    The lag is the number of events that the group has not completed, those in flight included: in all, and
    by partition if there are several. The command joins no group and changes nothing.
    """
    app_bus = load_bus(bus, backend)
    groups = anyio.run(_read_lag, app_bus)
    if as_json:
        found = {"bus": app_bus.name, "backend": backend_url(app_bus), "groups": groups}
        print_json(found)
    else:
        rows = [row for group in groups for row in _rows(group)]
        print_table(["handler", "group", "topic", "partition", "lag"], rows, ["group", "topic"])
    if unknown := ", ".join(group["handler"] for group in groups if group["lag"] is None):
        why = "a group does not exist before its handler first runs, or the broker cannot tell"
        print_message(f"the lag of {unknown} is unknown: {why}", "note")


async def _read_lag(bus: Bus) -> list[dict[str, Any]]:
    """Return the lag of each handler's group, in all and by partition; None if the group does not exist."""
    groups = []
    async with open_shared(bus):
        for handler in map(bus.configured_handler, bus.handlers):
            group = handler.options.group
            found = await bus.backend.lag(handler.topic, group=group)
            groups.append(
                {
                    "handler": handler.name,
                    "group": group,
                    "topic": handler.topic,
                    "lag": None if found is None else sum(found.values()),
                    "partitions": None if found is None else dict(sorted(found.items())),
                }
            )
    return groups


def _rows(group: dict[str, Any]) -> Iterator[list[str]]:
    partitions = group["partitions"] or {}
    counts = {**(partitions if len(partitions) > 1 else {}), "all": group["lag"]}
    for partition, count in counts.items():
        yield [
            group["handler"],
            group["group"],
            group["topic"],
            str(partition),
            "unknown" if count is None else str(count),
        ]
