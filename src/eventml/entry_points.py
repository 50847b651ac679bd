"""Entry points: what installed packages register with eventml, such as backends and formats of models."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from eventml.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def registered(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, in lower case.

    The installed packages are read once in a process, and again only if `sys.path` has changed: a process
    does not find what is installed after that.

    Raises:
        ConfigError: Two packages register one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in _installed(tuple(sys.path)).select(group=group):
        name = point.name.lower()
        if found.setdefault(name, point).value != point.value:
            both = " and ".join(sorted((found[name].value, point.value)))
            raise ConfigError(f"{name} is registered twice in {group}, as {both}; uninstall one")
    return found


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> Any:  # noqa: ARG001 - the key of the cache
    """Read all entry points of the packages on `sys.path`: about 5 ms for 250 packages.

    Returns:
        What `importlib.metadata.entry_points()` returns, which has another type in each version of Python.
    """
    from importlib import metadata  # noqa: PLC0415 - a sixth of `import eventml`, needed to open a bus only

    return metadata.entry_points()
