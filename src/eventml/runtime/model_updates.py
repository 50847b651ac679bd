"""New versions of a model, taken over by a running handler between two batches.

A new version is loaded beside the one in use and checked on the golden rows, off the event loop. One that
fails is refused: the handler goes on with the version that it has.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from eventml.errors import EventMLError, ModelTamperedError
from eventml.models import Model, ModelSource, current_version
from eventml.runtime.failures import describe
from eventml.runtime.loaded_handlers import LoadedHandler, load_model
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("eventml")


class ModelUpdates:
    """Follows the model of one handler: a file that is replaced, or a name in a registry.

    Args:
        use: Has the handler use a model from its next call on.
    """

    def __init__(self, loaded: LoadedHandler, stats: Stats, use: Callable[[Model], None]) -> None:
        assert loaded.handler.model is not None  # noqa: S101 - for the type checker
        self._loaded = loaded
        self._name = loaded.handler.name
        self._source: ModelSource = loaded.handler.model
        self._stats = stats
        self._use = use
        self._refused: str | None = None  # the version, so that it is not loaded at each poll

    async def run(self, seconds: float) -> None:
        """Look for a new version every so many seconds, until cancelled."""
        while True:
            await anyio.sleep(seconds)
            await self.check()

    async def check(self) -> None:
        """Look for a new version once, and use it if it passes its checks."""
        version = None
        try:
            version = await to_thread.run_sync(current_version, self._source, abandon_on_cancel=True)
            if version == self._model.version:
                self._accept()
            elif version != self._refused:
                self._take_over(await load_model(self._loaded.handler, self._loaded.lifespans))
        except Exception as exc:  # noqa: BLE001 - a library raises anything for a file; the old version goes on
            # A file may be replaced before the file with its digest is.
            final = None if isinstance(exc, ModelTamperedError) else version
            self._refuse(final, str(exc) if isinstance(exc, EventMLError) else describe(exc))

    def _take_over(self, new: Model) -> None:
        old = self._model
        self._use(new)
        self._stats.model_updates += 1
        log.warning("%s: model %s: version %s replaces %s", self._name, new.name, new.version, old.version)
        self._accept()

    def _refuse(self, version: str | None, reason: str) -> None:
        """Record why there is no new version. `version` is None if it may still be used as it is."""
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
