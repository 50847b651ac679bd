"""`eventml topics create`: an app's topics, on a backend where somebody has to create them."""

from collections.abc import Sequence
from typing import Annotated

import anyio
import msgspec
import typer

from eventml.backends.base import NewTopic
from eventml.bus import Bus, create_topics, topics_of
from eventml.cli.buses import app_bus, url_of
from eventml.cli.options import BackendOption, BusArgument, JsonOption
from eventml.cli.reporting import reporting
from eventml.cli.tables import show_table

app = typer.Typer(help="The topics of an app.", no_args_is_help=True)


class Created(msgspec.Struct):
    """What has become of the topics."""

    backend: str
    created: list[str]
    existed: list[str]


@app.callback()
def _topics() -> None:
    pass


@app.command()
@reporting()
def create(
    bus: BusArgument,
    partitions: Annotated[int | None, typer.Option(metavar="N", min=1, help="Of each topic.")] = None,
    replication: Annotated[int | None, typer.Option(metavar="N", min=1, help="Copies of each topic.")] = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create the topics that are missing.

    They are those that the app reads and writes, and those of its dead letters.

    Partitions, replication and retention come from `[topic."<name>"]`; the options here replace them.
    """
    the_app = app_bus(bus, backend)
    wanted = topics_of(the_app, partitions=partitions, replication=replication)
    created = anyio.run(_create, the_app, wanted)
    if as_json:
        typer.echo(msgspec.json.encode(created or Created(url_of(the_app), [], [])))
    elif created is None:
        typer.echo(f"{url_of(the_app)} needs no topics created: each is there once something goes to it")
    else:
        rows = [[topic.name, "created" if topic.name in created.created else "was there"] for topic in wanted]
        show_table(["topic", ""], rows)


async def _create(bus: Bus, wanted: Sequence[NewTopic]) -> Created | None:
    """What was created; None if the backend needs none of it."""
    async with bus.open():
        made = await create_topics(bus, wanted)
        if made is None:
            return None
    existed = [topic.name for topic in wanted if topic.name not in made]
    return Created(url_of(bus), sorted(made), existed)
