"""Which worker runs which handlers: a pure decision, taken before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventml.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Place(msgspec.Struct, frozen=True):
    """The work of one worker.

    Attributes:
        name: Unique among the workers: `worker-1`, or `duration-1` where it runs that handler alone.
        only: The handlers that it runs; all of them where there are none.
        listener: The file descriptor of the socket that it serves; None where it reads streams.
    """

    name: str
    only: tuple[str, ...] = ()
    listener: int | None = None


def places(wanted: str, only: Sequence[str], known: Collection[str]) -> list[Place]:
    """The workers that `wanted` asks for: a number, or a number for each handler.

    Args:
        wanted: `4`: so many workers, each running every handler. `duration=3,tip=1`: so many for each
            of these handlers, which nobody else runs.
        only: The handlers that a plain number means; all of them where there are none.
        known: The handlers that there are.

    Raises:
        ConfigError: it is neither, or names a handler that there is not.
    """
    if "=" not in wanted:
        _check_known(only, known)
        return [Place(f"worker-{n}", tuple(only)) for n in range(1, _count(wanted, wanted) + 1)]
    if only:
        raise ConfigError(
            f"--workers {wanted}: it says which handlers are run, and so does --only; leave --only out"
        )
    counts: dict[str, int] = {}
    for part in wanted.split(","):
        handler, _, count = (text.strip() for text in part.partition("="))
        if handler in counts:
            raise ConfigError(f"--workers {wanted}: {handler} is named twice")
        counts[handler] = _count(count, wanted)
    _check_known(counts, known)
    return [
        Place(f"{handler}-{n}", (handler,)) for handler, count in counts.items() for n in range(1, count + 1)
    ]


def idle_handlers(chosen: Sequence[Place], known: Collection[str]) -> list[str]:
    """The handlers that none of these workers runs."""
    if any(not place.only for place in chosen):
        return []
    run = {handler for place in chosen for handler in place.only}
    return [handler for handler in known if handler not in run]


def _count(text: str, wanted: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ConfigError(
            f"--workers {wanted}: {text!r} is no number of workers; write --workers 4, or a number for each "
            "handler: --workers duration=3,tip=1"
        )
    return int(text)


def _check_known(named: Collection[str], known: Collection[str]) -> None:
    unknown = [name for name in named if name not in known]
    if unknown:
        raise ConfigError(f"no handler is named {unknown[0]!r}; there are: {', '.join(known)}")
