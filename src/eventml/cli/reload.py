"""`eventml run --reload`: start the command anew when a file of the app or a model changes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from importlib.util import cache_from_source
from pathlib import Path
from types import FrameType
from typing import Final

from eventml.bus import Bus
from eventml.cli.output import start_logging
from eventml.errors import MissingExtraError
from eventml.models import path_of

log = logging.getLogger("eventml")

OPTION: Final = "--reload"
_SOURCES: Final = (".py", ".toml")  # the app, and its settings
_POLL: Final = 500  # milliseconds between two looks at the process


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
        raise MissingExtraError("reload", OPTION) from exc
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

    process, ended = _start(), False
    try:
        for changes in watch(
            *folders,
            watch_filter=is_of_the_app,
            stop_event=stop,
            rust_timeout=_POLL,
            yield_on_timeout=True,
        ):
            if changes:
                files = sorted({os.path.relpath(path) for _, path in changes})
                log.info("changed: %s; starting anew", ", ".join(files))
                _end(process)
                _remove_bytecode(files)
                process, ended = _start(), False
            elif not ended and process.poll() is not None:
                ended = True
                log.warning("ended with status %d; the next change starts it anew", process.returncode)
    finally:  # also if the files cannot be watched
        status = _end(process)
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


def _start() -> subprocess.Popen[bytes]:
    """Start the command in a session of its own: Ctrl-C signals this process, which stops the other once."""
    command = [sys.executable, "-m", "eventml", *(word for word in sys.argv[1:] if word != OPTION)]
    return subprocess.Popen(command, start_new_session=True)  # noqa: S603 - this command


def _end(process: subprocess.Popen[bytes]) -> int:
    """Let the process complete its events in flight. Returns 0 if it did, or had not started to work yet."""
    process.terminate()
    return int(process.wait() not in (0, -signal.SIGTERM))
