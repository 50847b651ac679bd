"""`eventml check`: what would run, and what stands in the way."""

from functools import partial
from typing import Annotated

import anyio
import msgspec
import typer

from eventml.cli.buses import configure, import_bus
from eventml.cli.examining import examine
from eventml.cli.findings import Findings, HandlerFinding
from eventml.cli.guarantees import in_words
from eventml.cli.options import BackendOption, BusArgument, JsonOption
from eventml.cli.reporting import reporting, say
from eventml.cli.tables import show_table
from eventml.errors import ConfigError


@reporting()
def check(
    bus: BusArgument,
    backend: BackendOption = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Reach the backend too, and look for the topics.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what would run, and what is wrong.

    On which backend, with which guarantees, and what stands in the way.

    It loads the models and enters no lifespan. The exit status is 1 if something stands in the way.
    """
    app = import_bus(bus)
    try:
        configure(app, backend)
    except ConfigError as exc:
        found = Findings(bus=app.name, problems=str(exc).splitlines())
    else:
        found = anyio.run(partial(examine, app, connect=connect))
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        _show(found)
        for warning in found.warnings:
            say(warning, "warning")
        for problem in found.problems:
            say(problem, "error")
    if found.problems:
        raise typer.Exit(1)


def _show(found: Findings) -> None:
    where = f" on {found.backend}" if found.backend else ""
    drain = "" if found.drain is None else f"; {found.drain:g} s to finish what is in hand at the end"
    typer.echo(f"{found.bus}{where}{drain}")
    if found.guarantees is not None:
        for line in in_words(found.guarantees):
            typer.echo(f"  {line}")
    if found.handlers:
        show_table(["handler", "reads", "writes", "group", "takes", "model"], list(map(_row, found.handlers)))


def _row(handler: HandlerFinding) -> list[str]:
    model = handler.model
    return [
        handler.name,
        f"{handler.reads} ({handler.start})",
        handler.writes or "-",
        handler.group,
        _takes(handler),
        f"{model.name} {model.version}" if model else "-",
    ]


def _takes(handler: HandlerFinding) -> str:
    batches = "batches" if handler.frame is None else f"{handler.frame} frames"
    said = [f"{batches} of up to {handler.max_batch}" if handler.batched else "single events"]
    if handler.batched and handler.max_wait:
        said.append(f"waits {handler.max_wait:g} s")
    if handler.ordered is not None:
        said.append("ordered" if handler.ordered else "unordered")
    if handler.timeout is not None:
        said.append(f"timeout {handler.timeout:g} s")
    return ", ".join(said)
