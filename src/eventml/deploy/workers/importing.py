"""The bus at MODULE:BUS, imported in a worker."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from eventml.bus import Bus
from eventml.errors import ConfigError


def import_bus(place: str) -> Bus:
    """Import it, with the current directory on the path as `python -m` has it.

    Raises:
        ConfigError: there is no bus there.
        Exception: whatever the module raises.
    """
    module_name, _, name = place.partition(":")
    here = str(Path.cwd())
    if sys.path[0] != here:
        sys.path.insert(0, here)
    bus = getattr(importlib.import_module(module_name), name, None)
    if not isinstance(bus, Bus):
        raise ConfigError(f"{place}: there is no Bus of that name in the module")
    return bus
