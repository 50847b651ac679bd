"""`eventml run`: run the handlers of a bus, in this process or in several workers.

With `--reload` it starts anew when a file of the app or a model changes.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.util import cache_from_source
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import anyio
import typer
from msgspec import structs

from eventml.bus import Bus, stop_when_idle
from eventml.cli.buses import NO_HANDLERS, backend_url, load_bus, seconds, with_options
from eventml.cli.output import UsageError, start_logging
from eventml.cli.workers import run_in_process, service_plan
from eventml.deploy.console import open_console
from eventml.deploy.workers import ServicePlan, run_service
from eventml.errors import MissingExtraError
from eventml.models import path_of
from eventml.runtime import Worker, task_group

log = logging.getLogger("eventml")


_RELOAD: Final = "--reload"
_SOURCES: Final = (".py", ".toml")  # the app, and its settings
_POLL: Final = 500  # milliseconds between two looks at the process


@with_options(service_plan)
def run(
    plan: ServicePlan,
    *,
    until_idle: Annotated[
        float | None, seconds(0, "Stop once no event has arrived or been left to handle for this long.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Run N worker processes under a supervisor, each with every handler; or a number for each "
            "handler, as in duration=3,tip=1.",
        ),
    ] = None,
    max_lag: Annotated[
        int | None,
        typer.Option(metavar="EVENTS", min=0, help="Report not ready while the lag of a group is higher."),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(_RELOAD, help="For development: start anew when a file of the app or a model changes."),
    ] = False,
) -> None:
    """Run the handlers of a bus.

    SIGTERM or SIGINT stops it: it receives no more events, and completes those in flight. A second signal
    abandons those in flight; they go back to their consumer groups.
    """
    bus = load_bus(plan.bus, plan.backend)
    if not bus.handlers:
        raise UsageError(NO_HANDLERS)
    if reload:
        raise typer.Exit(run_reloading(bus))
    plan = structs.replace(plan, workers=workers or "1", until_idle=until_idle, max_lag=max_lag)
    if workers is not None:
        raise typer.Exit(anyio.run(run_service, bus, plan, open_console(bus)))
    run_in_process(_open_worker, bus, plan, in_flight="events")


@asynccontextmanager
async def _open_worker(bus: Bus, plan: ServicePlan) -> AsyncIterator[Worker]:
    async with bus.open(), bus.worker(plan.only) as worker, task_group() as tasks:
        tasks.start_soon(_log_handlers, bus, worker)
        if plan.until_idle is not None:
            tasks.start_soon(stop_when_idle, worker, plan.until_idle)
        try:
            yield worker
        finally:
            tasks.cancel_scope.cancel()
            _log_counts(worker)


async def _log_handlers(bus: Bus, worker: Worker) -> None:
    await worker.ready.wait()
    for loaded in worker.handlers:
        handler, model = loaded.handler, loaded.model
        log.info(
            "%s: %s%s, group %s%s",
            handler.name,
            handler.topic,
            f" -> {', '.join(handler.outputs)}" if handler.outputs else "",
            handler.options.group,
            f", model {model.name} {model.version}" if model else "",
        )
    log.info("running %s on %s", ", ".join(worker.stats), backend_url(bus))
    if not bus.backend.capabilities.shared:
        log.info("%s lives in this process: only this process can publish to it", backend_url(bus))


def _log_counts(worker: Worker) -> None:
    for name, stats in worker.stats.items():
        log.info(
            "%s: %d received, %d published, %d dead letters, %d retries, %d still in flight",
            name,
            stats.received,
            stats.published,
            stats.dead_letters,
            stats.retries,
            stats.in_flight,
        )


def run_reloading(bus: Bus) -> int:
    """Run this command without `--reload` in a process, and again when a file changes, until a signal.

    Watched are the sources in the current folder and below it, and the models that handlers name by a path. A
    process that ends by itself, as after a mistake in the source, is started again by the next change.

    Returns:
        The exit status: 0 unless the last process left events unfinished.

    Raises:
        MissingExtraError: watchfiles is not installed.
    """
    try:
        from watchfiles import DefaultFilter, watch  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("reload", _RELOAD) from exc
    start_logging()
    models = model_files(bus)
    folders = {Path.cwd(), *(model.parent for model in models if model.parent.is_dir())}
    ignored, stop = DefaultFilter(), threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            process.send_signal(number)  # the second one abandons the events in flight
        stop.set()

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):  # the last one as a terminal closes; Windows has none
        if found := getattr(signal, name, None):
            signal.signal(found, handle)

    def is_of_the_app(change: object, path: str) -> bool:
        return Path(path) in models or (path.endswith(_SOURCES) and ignored(change, path))  # type: ignore[arg-type]

    process, ended = _start_command(), False
    try:
        for changes in watch(
            *folders, watch_filter=is_of_the_app, stop_event=stop, rust_timeout=_POLL, yield_on_timeout=True
        ):
            if changes:
                files = sorted({os.path.relpath(path) for _, path in changes})
                log.info("changed: %s; starting anew", ", ".join(files))
                _end_command(process)
                _remove_bytecode(files)
                process, ended = _start_command(), False
            elif not ended and process.poll() is not None:
                ended = True
                log.warning("ended with status %d; the next change starts it anew", process.returncode)
    finally:  # also if the files cannot be watched
        status = _end_command(process)
    return status


def model_files(bus: Bus) -> set[Path]:
    """Return the files of the models of a configured bus; none for a model that a function loads."""
    models = [bus.configured_handler(name).model for name in bus.handlers]
    paths = [path_of(model) for model in models if model is not None]
    return {Path(path).absolute() for path in paths if path is not None}


def _remove_bytecode(files: Iterable[str]) -> None:
    """Otherwise Python may use that of the old source, if it was as long and written in the same second."""
    for path in files:
        Path(cache_from_source(path)).unlink(missing_ok=True)


def _start_command() -> subprocess.Popen[bytes]:
    """Start the command in a session of its own: Ctrl-C signals this process, which stops the other once."""
    command = [sys.executable, "-m", "eventml", *(word for word in sys.argv[1:] if word != _RELOAD)]
    return subprocess.Popen(command, start_new_session=True)  # noqa: S603 - this command


def _end_command(process: subprocess.Popen[bytes]) -> int:
    """Let the process complete its events in flight. Returns 0 if it did, or had not started to work yet."""
    process.terminate()
    return int(process.wait() not in (0, -signal.SIGTERM))
