"""What a worker's process runs, whoever the work comes from: `runtime.worker.Worker` for streams, or
`web.serving.WebWorker` for callers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anyio

    from eventml.runtime import LoadedHandler, Stats


class AtWork(Protocol):
    """See `Worker` for what each of these promises."""

    @property
    def handlers(self) -> Sequence[LoadedHandler]: ...

    @property
    def stats(self) -> Mapping[str, Stats]: ...

    @property
    def ready(self) -> anyio.Event: ...

    @property
    def in_flight(self) -> int: ...

    async def lag(self) -> dict[str, int | None]: ...

    async def run(self) -> bool: ...

    def stop(self) -> None: ...

    def abandon(self) -> None: ...
