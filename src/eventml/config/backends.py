"""Finding the backend that a URL's scheme chooses, among those that are installed."""

from __future__ import annotations

import difflib
from importlib import metadata
from typing import TYPE_CHECKING, Final, cast

import msgspec

from eventml.errors import ConfigError, MissingExtraError, UnknownBackendError

if TYPE_CHECKING:
    from eventml.backends.base import BackendModule

GROUP: Final = "eventml.backends"


def registered() -> dict[str, frozenset[str]]:
    """For each scheme the entry points registered under it: one, unless two packages are at odds."""
    found: dict[str, frozenset[str]] = {}
    for point in metadata.entry_points(group=GROUP):
        scheme = point.name.lower()
        found[scheme] = found.get(scheme, frozenset()) | {point.value}
    return found


def find_backend(scheme: str) -> BackendModule:
    """Import the backend registered for a scheme.

    Raises:
        UnknownBackendError: there is none.
        MissingExtraError: it needs something that is not installed.
        ConfigError: what is registered cannot be imported, or is not a backend.
    """
    known = registered()
    if scheme not in known:
        close = difflib.get_close_matches(scheme, known, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise UnknownBackendError(
            f"backend.url: no backend is registered for {scheme}://{hint} "
            f"(registered: {', '.join(sorted(known)) or 'none; is eventml installed?'})"
        )
    if len(known[scheme]) > 1:
        both = " and ".join(sorted(known[scheme]))
        raise ConfigError(f"backend.url: {scheme}:// is registered twice, as {both}; uninstall one of them")
    (value,) = known[scheme]
    label = f"the entry point {scheme} = {value} in {GROUP}"
    module = _import(metadata.EntryPoint(scheme, value, GROUP), label)
    settings = getattr(module, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, msgspec.Struct)):
        raise ConfigError(f"backend.url: {label} is not a backend: it has no msgspec struct named Settings")
    try:
        msgspec.structs.fields(settings)
    except NameError as exc:  # a type that is imported for the type checker only
        raise ConfigError(f"backend.url: the types in Settings of {label} cannot be read: {exc}") from exc
    for name in ("capabilities", "open"):
        if not callable(getattr(module, name, None)):
            raise ConfigError(f"backend.url: {label} is not a backend: it has no function named {name}")
    return cast("BackendModule", module)


def _import(point: metadata.EntryPoint, label: str) -> object:
    try:
        return point.load()
    except MissingExtraError:
        raise
    except Exception as exc:  # a plug-in may fail in any way while it is imported
        raise ConfigError(f"backend.url: {label} cannot be imported: {type(exc).__name__}: {exc}") from exc
