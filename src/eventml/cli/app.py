"""The command line application: every command, and `--version`."""

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eventml.cli import (
    check,
    compare,
    demo,
    dlq,
    doctor,
    graph,
    init,
    publish,
    run,
    score,
    serve,
    tail,
    top,
    topics,
)
from eventml.cli.buses import reads_settings
from eventml.cli.output import print_errors


class _Commands(TyperGroup):
    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except Exception as exc:  # noqa: BLE001 - `print_errors` raises all others again
            raise typer.Exit(print_errors(exc)) from None


app = typer.Typer(
    cls=_Commands,
    name="eventml",
    help="Deploy machine-learning models on event streams.",
    no_args_is_help=True,
    # Help and errors are plain text where no terminal shows them. Mode "rich" would drop text in brackets.
    rich_markup_mode="markdown" if sys.stdout.isatty() and sys.stderr.isatty() else None,
    pretty_exceptions_enable=False,
)
app.command(short_help="Write a project that runs at once.")(init.init)
app.command(short_help="Watch a service that loses a worker and gets bad events.")(demo.demo)
app.command()(run.run)
app.command()(serve.serve)
app.command()(publish.publish)
app.command()(score.score)
app.command()(doctor.doctor)
app.command()(compare.compare)
app.command()(compare.replay)
app.command()(compare.canary)
app.command()(tail.tail)
app.command()(check.check)
app.command()(check.schema)
app.command()(graph.graph)
app.command()(topics.lag)
app.command()(top.ui)
for command in (*app.registered_commands, *topics.app.registered_commands, *dlq.app.registered_commands):
    if command.callback not in (None, init.init, demo.demo):  # these two read no settings
        command.callback = reads_settings(command.callback)
app.command(short_help="Show a running service live.")(top.top)
app.add_typer(topics.app, name="topics")
app.add_typer(dlq.app, name="dlq")


def _print_version(enabled: bool) -> None:
    if enabled:
        typer.echo(f"eventml {version('eventml')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass
