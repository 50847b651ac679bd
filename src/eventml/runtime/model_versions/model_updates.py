"""New versions of a model, taken over by a running handler between two batches.

A new version is loaded beside the one in use and checked on the golden rows, off the event loop. One that
fails is refused: the handler goes on with the version that it has.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio import to_thread

from eventml.errors import EventMLError, ModelTamperedError
from eventml.models import Model, ModelSource, current_version
from eventml.runtime.failures.classification import is_infrastructure
from eventml.runtime.failures.exceptions import describe
from eventml.runtime.loaded_handlers import LoadedHandler, load_model
from eventml.runtime.stats import Stats

log = logging.getLogger("eventml")


_Found = tuple[str | None, tuple[int, ...]]
"""The version of a model; and the inode, size and time of the file with its golden rows."""


class ModelUpdates:
    """Follows the model of one handler: a file that is replaced, or a name in a registry.

    Args:
        use: Makes the handler use a model from its next call on.
    """

    def __init__(self, loaded: LoadedHandler, stats: Stats, use: Callable[[Model], None]) -> None:
        assert loaded.handler.model is not None  # noqa: S101 - for the type checker
        self._loaded = loaded
        self._name = loaded.handler.name
        self._source: ModelSource = loaded.handler.model
        self._stats = stats
        self._use = use
        self._refused: _Found | None = None  # so that it is not loaded at each poll

    async def run(self, seconds: float) -> None:
        """Look for a new version every so many seconds, until cancelled."""
        while True:
            await anyio.sleep(seconds)
            await self.check()

    async def check(self) -> None:
        """Look for a new version once, and use it if it passes its checks."""
        version = None
        try:
            version = await self._find()
            if version[0] == self._model.version:
                self._accept()
            elif version != self._refused:
                new = await load_model(self._loaded.handler, self._loaded.lifespans)
                if new.version != self._model.version:  # the file may have been put back meanwhile
                    self._take_over(new)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - libraries raise anything for a file
            final = version if version is not None and await self._is_final(version, exc) else None
            self._refuse(final, str(exc) if isinstance(exc, EventMLError) else describe(exc))

    async def _find(self) -> _Found:
        """The version that the model has now, and which golden rows there are."""
        golden = self._loaded.handler.options.golden
        return await to_thread.run_sync(_found, self._source, golden, abandon_on_cancel=True)

    async def _is_final(self, version: _Found, error: BaseException) -> bool:
        """Whether a version need not be tried again: the error is its own, and the source still has it."""
        # A file may be replaced before the file with its digest is.
        if isinstance(error, ModelTamperedError) or _is_temporary(error):
            return False
        with suppress(Exception):
            return await self._find() == version
        return False

    def _take_over(self, new: Model) -> None:
        old = self._model
        self._use(new)
        self._stats.model_updates += 1
        self._stats.model_since = time.monotonic()
        log.warning("%s: model %s: version %s replaces %s", self._name, new.name, new.version, old.version)
        self._accept()

    def _refuse(self, version: _Found | None, reason: str) -> None:
        """Record why there is no new version. `version` is None if the same version is to be tried again."""
        self._refused = version
        if reason != self._stats.model_refused:
            self._stats.model_refused = reason
            self._stats.models_refused += version is not None
            log.error("%s: version %s of its model stays in use: %s", self._name, self._model.version, reason)

    def _accept(self) -> None:
        self._refused, self._stats.model_refused = None, ""

    @property
    def _model(self) -> Model:
        assert self._loaded.model is not None  # noqa: S101 - for the type checker
        return self._loaded.model


def _found(source: ModelSource, golden: str | None) -> _Found:
    version = current_version(source)
    with suppress(OSError):
        if golden is not None:
            rows = os.stat(golden)  # noqa: PTH116 - as models are
            return version, (rows.st_ino, rows.st_size, rows.st_mtime_ns)
    return version, ()


def _is_temporary(error: BaseException | None) -> bool:
    """Whether a service that the handler needs was unavailable when the model was loaded or checked.

    Memory that does not suffice is the model's fault: loading it again and again could end the worker.
    """
    while error is not None:
        if is_infrastructure(error) and not isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False
