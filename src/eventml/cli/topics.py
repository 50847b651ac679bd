"""`eventml topics create`: create the topics of an app, on a backend that needs topics created."""

from collections.abc import Sequence
from typing import Annotated

import anyio
import msgspec
import typer

from eventml.backends.base import NewTopic
from eventml.bus import Bus, create_topics, topics_of
from eventml.cli.buses import BackendOption, BusArgument, backend_url, load_bus
from eventml.cli.output import JsonOption, handle_errors, print_table

app = typer.Typer(help="Create the topics of an app.", no_args_is_help=True)


class CreatedTopics(msgspec.Struct):
    """Topics that the command created, and topics that existed before."""

    backend: str
    created: list[str]
    existed: list[str]


@app.callback()
def _topics() -> None:
    """Make `create` a subcommand; typer would drop its name if it were the only command."""


@app.command()
@handle_errors()
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
    if as_json:
        typer.echo(msgspec.json.encode(created or CreatedTopics(backend_url(app_bus), [], [])))
    elif created is None:
        typer.echo(
            f"{backend_url(app_bus)} needs no topics created: a topic exists once a record is published to it"
        )
    else:
        rows = [[topic.name, "created" if topic.name in created.created else "existed"] for topic in topics]
        print_table(["topic", "state"], rows)


async def _create(bus: Bus, topics: Sequence[NewTopic]) -> CreatedTopics | None:
    """Create topics; None if the backend needs none created."""
    async with bus.open():
        created = await create_topics(bus, topics)
    if created is None:
        return None
    existed = [topic.name for topic in topics if topic.name not in created]
    return CreatedTopics(backend_url(bus), sorted(created), existed)
