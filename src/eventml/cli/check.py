"""`eventml check`: what a bus would run, on which backend, and everything that would keep it from running.

`eventml schema`, in this module too, prints the document that `check --against` compares with.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import msgspec
import typer
from msgspec.structs import replace

from eventml import config
from eventml.backends.base import Capabilities, CreatesTopics
from eventml.bus import Bus, asyncapi_document, import_bus, topics_of
from eventml.cli.buses import NO_HANDLERS, BackendOption, BusArgument, backend_url, configure, find, load_bus
from eventml.cli.compatibility import breaking_changes
from eventml.cli.output import (
    JsonOption,
    UsageError,
    expected_errors,
    print_json,
    print_message,
    print_table,
    print_text,
)
from eventml.errors import ConfigError
from eventml.handlers import Handler
from eventml.runtime import check_capabilities, check_topics, dead_letter_queues, load_canary, load_model

_GUARANTEES: Final[dict[tuple[str, object], str]] = {
    ("ordering", "per_key"): "in order by key",
    ("ordering", "single_member"): "in order with one member only",
    ("ordering", "none"): "no order",
    ("atomic_completion", True): "outputs once",
    ("atomic_completion", False): "outputs may repeat",
    ("durable", True): "durable",
    ("durable", False): "not durable",
}
"""Texts of the guarantees that most apps depend on. `--json` has all fields of `Capabilities`."""


class CheckReport(msgspec.Struct, kw_only=True):
    """Result of `eventml check`. The bus can run if there are no problems."""

    bus: str
    backend: str | None = None
    guarantees: Capabilities | None = None
    drain: float | None = None
    handlers: list[dict[str, Any]] = msgspec.field(default_factory=list)
    problems: list[str] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)


def check(
    bus: BusArgument,
    backend: BackendOption = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Connect to the backend too, and check that the topics exist.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="Output of an earlier eventml schema."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bus before it is run.

    Shows its handlers, its backend and the guarantees of the backend, and lists, last, every problem that
    would keep it from running; with `--against`, also each change of its events that breaks readers. The
    exit status is 1 if there is any.

    Models are loaded, and predict their golden rows. Lifespans are not entered, and no group is joined.
    """
    app = find(import_bus, bus)
    try:
        configure(app, backend)
        report = anyio.run(partial(check_bus, app, connect=connect))
    except ConfigError as exc:
        report = CheckReport(bus=app.name, problems=str(exc).splitlines())
    else:
        report.problems += _changes_since(against, app) if against is not None else []
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    if report.problems:
        raise typer.Exit(1)


def _changes_since(against: Path, bus: Bus) -> list[str]:
    document = asyncapi_document(bus)  # its errors are none of the file
    try:
        return breaking_changes(msgspec.json.decode(against.read_bytes()), document)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise UsageError(f"--against: {against} was not written by eventml schema: {exc!r}") from exc


def schema(bus: BusArgument, backend: BackendOption = None) -> None:
    """Print what a bus reads and writes, as an AsyncAPI document.

    It has the JSON schemas of the events, and the bindings of the configured backend, which is not
    connected. Models are not loaded.
    """
    print_json(asyncapi_document(load_bus(bus, backend)), indented=True)


async def check_bus(bus: Bus, *, connect: bool) -> CheckReport:
    """Check a configured bus; connect to its backend if `connect` is set."""
    report = CheckReport(bus=bus.name, backend=backend_url(bus), drain=bus.settings.drain)
    handlers = [bus.configured_handler(name) for name in bus.handlers]
    if not handlers:
        report.problems.append(NO_HANDLERS)
    with _add_errors(report):
        await _check_backend(bus, report, connect=connect)
    for handler in handlers:
        checked = _describe_handler(handler)
        report.handlers.append(checked)
        with _add_errors(report, f"{handler.name}: "):
            checked["model"] = await _load_model(handler, report)
        if report.guarantees is not None:
            with _add_errors(report):
                check_capabilities(handler, report.guarantees)
        report.problems += [
            f"{handler.name}: its parameter {name!r} has no value; define a lifespan of that name with "
            "@bus.lifespan, or give the parameter a default"
            for name in handler.resource_names
            if name not in {"model", *bus.lifespans}
        ]
    report.warnings += [
        f"{' and '.join(queue.handlers)} read {queue.topic} in the same consumer group, {queue.group}: each "
        "event goes to only one of them"
        for queue in dead_letter_queues(handlers)  # one for each topic and group
        if len(queue.handlers) > 1
    ]
    return report


@contextmanager
def _add_errors(report: CheckReport, prefix: str = "") -> Iterator[None]:
    """Add eventml's errors to the problems of the report, and continue."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - `expected_errors` raises all others again
        problems = [f"{prefix}{error}" for error in expected_errors(exc)]
        report.problems += [problem for problem in problems if problem not in report.problems]


async def _check_backend(bus: Bus, report: CheckReport, *, connect: bool) -> None:
    settings = bus.settings.backend
    handlers, module = list(map(bus.configured_handler, bus.handlers)), config.find_backend(settings.scheme)
    report.guarantees = module.capabilities(settings.options)
    check_topics(handlers, module)
    if not connect:
        return
    async with bus.open():
        report.guarantees = bus.backend.capabilities
        check_topics(handlers, bus.backend)
        if isinstance(bus.backend, CreatesTopics):
            missing = await bus.backend.missing_topics([topic.name for topic in topics_of(bus)])
            if missing:
                report.problems.append(
                    f"these topics do not exist: {', '.join(missing)}; create them with eventml topics create"
                )


def _describe_handler(handler: Handler) -> dict[str, Any]:
    """Return a handler as it is configured. Times are seconds; None is "no limit" or "not set".

    `frame` is the library of the data frames that the handler takes, or None if it takes events. `model` has
    the name and the version of its model, if that could be loaded.
    """
    options = handler.options
    return {
        "name": handler.name,
        "reads": handler.topic,
        "writes": list(handler.outputs),
        "group": options.group,
        "start": msgspec.to_builtins(options.start),
        "batched": handler.batched,
        "frame": handler.frame.library if handler.frame is not None else None,
        "max_batch": handler.max_batch,
        "ordered": options.ordered,
        "timeout": options.timeout,
        "model": None,
    }


async def _load_model(handler: Handler, report: CheckReport) -> dict[str, str] | None:
    if handler.model is None:
        return None
    if set(handler.resource_names) != {"model"}:  # it cannot be called: lifespans are not entered
        handler = replace(handler, options=replace(handler.options, golden=None))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = await load_model(handler, {})
        await load_canary(handler, model, {})
    messages = [one.message for one in caught if issubclass(one.category, UserWarning)]
    report.warnings += [f"{handler.name}: {message}" for message in messages]
    return {"name": model.name, "version": model.version}


def _print_report(report: CheckReport) -> None:
    backend = f" on {report.backend}" if report.backend else ""
    drain = "" if report.drain is None else f"; events in flight have {report.drain:g} s to finish at the end"
    print_text(f"{report.bus}{backend}{drain}")
    if report.guarantees is not None:
        given = msgspec.structs.asdict(report.guarantees)
        texts = (text for (name, value), text in _GUARANTEES.items() if given[name] == value)
        print_text(f"  {', '.join(['at least once', *texts])}")
    if report.handlers:
        columns = ["handler", "reads", "writes", "group", "takes", "model"]
        print_table(columns, list(map(_row, report.handlers)), ["takes", "group", "writes"])
    if not (report.warnings or report.problems):
        print_text("no problems")
    for warning in report.warnings:
        print_message(warning, "warning")
    for problem in report.problems:
        print_message(problem, "error")


def _row(handler: dict[str, Any]) -> list[str]:
    batches = f"{handler['frame']} frames" if handler["frame"] else "batches"
    return [
        handler["name"],
        f"{handler['reads']} ({handler['start']})",
        " ".join(handler["writes"]) or "-",
        handler["group"],
        f"{batches} of up to {handler['max_batch']}" if handler["batched"] else "single events",
        " ".join(handler["model"].values()) if handler["model"] else "-",
    ]
