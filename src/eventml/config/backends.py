"""The backend: finding its module by the URL's scheme, and choosing its URL and options among the sources.

An option belongs to the backend that its own source names, or else to the one that the strongest of the
weaker sources names. If a stronger source then names another backend, the option is left out: a file with
`redis://` and `lease = 30` does not prevent `--backend memory://`. An option for which no source names a
backend belongs to the winning one. The default URL in the code does not count as naming a backend. A URL that
does not win and whose scheme is in a variable that is not set names another backend.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import structs

from eventml.backends.base import BackendModule
from eventml.config.settings import URL, BackendSettings, Entry, convert, did_you_mean, variable
from eventml.config.urls import InvalidValueError, expand, expand_url, redact, split_url
from eventml.entry_points import registered
from eventml.errors import ConfigError, MissingExtraError, UnknownBackendError

_GROUP: Final = "eventml.backends"


def find_backend(scheme: str) -> BackendModule:
    """Import the backend module that is registered for a URL scheme.

    Raises:
        UnknownBackendError: No backend is registered for it.
        MissingExtraError: The backend needs a package that is not installed.
        ConfigError: The registered module cannot be imported, or is not a backend; or two packages register
            one scheme.
    """
    known = registered(_GROUP)
    if scheme not in known:
        raise UnknownBackendError(
            f"backend.url: no backend is registered for {scheme}://{did_you_mean(scheme, known)} "
            f"(registered: {', '.join(sorted(known)) or 'none; is eventml installed?'})"
        )
    label = f"backend.url: the entry point {scheme} = {known[scheme].value} in {_GROUP}"
    try:
        module = known[scheme].load()
    except MissingExtraError:
        raise
    except Exception as exc:  # a third-party module can raise anything while it is imported
        raise ConfigError(f"{label} cannot be imported: {type(exc).__name__}: {exc}") from exc
    for name in ("Settings", "capabilities", "open"):
        if not hasattr(module, name):
            raise ConfigError(f"{label} is not a backend: it has no {name}")
    try:
        structs.fields(module.Settings)
    except (TypeError, NameError) as exc:  # NameError: a type that is imported under TYPE_CHECKING
        raise ConfigError(f"{label} is not a backend: {exc}") from exc
    return cast("BackendModule", module)


def choose_backend(
    sources: Sequence[Sequence[Entry]], environ: Mapping[str, str], problems: list[str]
) -> BackendSettings | None:
    """The backend's settings; None if they have problems, which are added to `problems`, a line for each.

    The sources have the entries below `backend`, the weakest source first. The first is the default in the
    code, and always has a URL.

    Raises:
        UnknownBackendError: No backend is registered for the winning URL's scheme.
        MissingExtraError: The backend needs a package that is not installed.
        ConfigError: The registered module cannot be imported.
    """
    urls = [next((entry for entry in source if entry.path == URL), None) for source in sources]
    winner = [url for url in urls if url][-1]
    try:
        scheme, base, query = split_url(expand_url(str(winner.value), environ))
    except InvalidValueError as exc:
        problems.append(winner.problem(str(exc)))
        return None
    try:
        kind = find_backend(scheme).Settings
    except UnknownBackendError as exc:
        raise UnknownBackendError(f"{exc} (from {winner.source})") from None
    modules = {name: point.value for name, point in registered(_GROUP).items()}
    named, options = None, list[Entry]()
    for url, source in zip(urls, sources, strict=True):
        if url and source is not sources[0]:
            named = _scheme(url, environ)
        if named is None or modules.get(named) == modules[scheme]:
            options += [entry for entry in source if entry.path != URL]
        if url is winner:
            # A variable may hold a whole URL with its secrets: a value that came from one is not shown.
            secret, name_of_source = "${" in str(winner.value), f"the URL of {winner.source}"
            options += [
                Entry(("backend", name), value, name_of_source, text=True, secret=secret, expanded=True)
                for name, value in query
            ]
    return _checked(kind, base, options, environ, problems)


def _checked(
    kind: type[msgspec.Struct],
    base: str,
    options: Sequence[Entry],
    environ: Mapping[str, str],
    problems: list[str],
) -> BackendSettings | None:
    fields = {field.encode_name: field for field in structs.fields(kind)}
    types = {name: field.type for name, field in fields.items()}
    values: dict[str, Any] = {}
    found = []
    for entry in options:
        name = _field(entry, fields)
        try:
            values[name] = convert(_with_variables(entry, environ), name, types)
        except InvalidValueError as exc:
            found.append(entry.problem(str(exc)))
    found += [
        f"backend.{name}: not set, but required by {redact(base)}: set {variable(('backend', name))}"
        for name, field in fields.items()
        if field.required and name not in values
    ]
    problems += found
    if found:
        return None
    try:
        chosen = kind(**{fields[name].name: value for name, value in values.items()})
        return BackendSettings(url=base, options=chosen)
    except (TypeError, ValueError) as exc:  # raised by the backend's own check in __post_init__
        problems.append(f"backend: {exc}")
        return None


def _scheme(url: Entry, environ: Mapping[str, str]) -> str:
    """The scheme of a URL that need not win: variables that are not set are empty in it."""
    return expand(str(url.value), defaultdict(str, environ)).partition("://")[0].lower()


def _with_variables(entry: Entry, environ: Mapping[str, str]) -> Entry:
    if entry.expanded or not isinstance(entry.value, str):
        return entry
    value = expand(entry.value, environ)
    return structs.replace(entry, value=value, secret=entry.secret or value != entry.value)


def _field(entry: Entry, fields: Iterable[str]) -> str:
    """The field of an option. In a variable's name its case is lost, and a dash has become an underscore."""
    name = entry.path[-1]
    if not entry.text or name in fields:
        return name
    return next((field for field in fields if field.lower().replace("-", "_") == name), name)
