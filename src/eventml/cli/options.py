"""Arguments and options that several commands take."""

from typing import Annotated

import typer

BusArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:BUS", help="The module and the name of its bus, such as examples.rides.app:bus."
    ),
]
TopicArgument = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="URL",
        help="Where the events are, such as redis://localhost:6379; stronger than all configuration.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for a machine.")]
