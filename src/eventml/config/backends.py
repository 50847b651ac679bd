"""The backend: finding its module by the URL's scheme, and choosing its URL and options among the sources.

An option belongs to the backend that its own source names, or else to the one that the strongest weaker
source names. If a stronger source then names another backend, the option is left out: a file with `redis://`
and `lease = 30` does not prevent `--backend memory://`. An option for which no source names a backend belongs
to the winning one. The default URL in the code does not count as naming a backend.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import structs

from eventml.config.settings import BackendSettings, Entry, convert, did_you_mean, unknown, variable
from eventml.config.urls import InvalidValueError, expand, expand_url, redact, split_url
from eventml.errors import ConfigError, MissingExtraError, UnknownBackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventml.backends.base import BackendModule

    Fields = Mapping[str, structs.FieldInfo]

_GROUP: Final = "eventml.backends"
_URL: Final = ("backend", "url")


def _registered() -> dict[str, set[str]]:
    """The registered entry points by scheme: one each, unless two packages register the same scheme."""
    found: dict[str, set[str]] = {}
    for point in metadata.entry_points(group=_GROUP):
        found.setdefault(point.name.lower(), set()).add(point.value)
    return found


def find_backend(scheme: str) -> BackendModule:
    """Import the backend module that is registered for a URL scheme.

    Raises:
        UnknownBackendError: No backend is registered for it.
        MissingExtraError: The backend needs a package that is not installed.
        ConfigError: The registered module cannot be imported, or is not a backend.
    """
    known = _registered()
    if scheme not in known:
        raise UnknownBackendError(
            f"backend.url: no backend is registered for {scheme}://{did_you_mean(scheme, known)} "
            f"(registered: {', '.join(sorted(known)) or 'none; is eventml installed?'})"
        )
    if len(known[scheme]) > 1:
        both = " and ".join(sorted(known[scheme]))
        raise ConfigError(f"backend.url: {scheme}:// is registered twice, as {both}; uninstall one of them")
    (value,) = known[scheme]
    label = f"backend.url: the entry point {scheme} = {value} in {_GROUP}"
    try:
        module = metadata.EntryPoint(scheme, value, _GROUP).load()
    except MissingExtraError:
        raise
    except Exception as exc:  # a third-party module can raise anything while it is imported
        raise ConfigError(f"{label} cannot be imported: {type(exc).__name__}: {exc}") from exc
    for name in ("Settings", "capabilities", "open"):
        if not callable(getattr(module, name, None)):
            raise ConfigError(f"{label} is not a backend: it has no class or function named {name}")
    try:
        structs.fields(module.Settings)
    except (TypeError, NameError) as exc:  # NameError: a type that is imported under TYPE_CHECKING
        raise ConfigError(f"{label} is not a backend: its Settings is no msgspec struct: {exc}") from exc
    return cast("BackendModule", module)


def choose_backend(
    layers: Sequence[Sequence[Entry]], environ: Mapping[str, str]
) -> tuple[BackendSettings | None, list[str]]:
    """The backend's settings, or the problems with them.

    Args:
        layers: The entries below `backend` of each source, the weakest first. The first is the default
            in the code, and always has a URL.
        environ: The environment, for `${NAME}`.

    Raises:
        UnknownBackendError: No backend is registered for the winning URL's scheme.
        MissingExtraError: The backend needs a package that is not installed.
        ConfigError: The registered module is not a backend.
    """
    urls = [next((entry for entry in layer if entry.path == _URL), None) for layer in layers]
    winner = [url for url in urls if url][-1]
    if problems := [
        url.problem(f"expected a URL, got {url.shown}")
        for url in urls
        if url and not isinstance(url.value, str)
    ]:
        return None, problems
    try:
        parts = split_url(expand_url(str(winner.value), environ))
    except InvalidValueError as exc:
        return None, [winner.problem(str(exc))]
    try:
        kind = find_backend(parts.scheme).Settings
    except UnknownBackendError as exc:
        raise UnknownBackendError(f"{exc} (from {winner.source})") from None
    fields = {field.encode_name: field for field in structs.fields(kind)}
    values: dict[str, Any] = {}
    named = None
    for url, layer in zip(urls, layers, strict=True):
        named = url if url and layer is not layers[0] else named
        entries = _options_for(layer, named, parts.scheme, fields, environ)
        if url is winner:
            # A variable may hold a whole URL with its secrets: a value that came from one is not shown.
            secret, source = "${" in str(winner.value), f"the URL of {winner.source}"
            entries += [
                Entry(("backend", name), value, source, text=True, secret=secret, expanded=True)
                for name, value in parts.query
            ]
        checked, found = _check(entries, fields, environ)
        values |= checked
        problems += found
    problems += [
        f"backend.{name}: not set, but required by {redact(parts.base)}: set {variable(('backend', name))}"
        for name, field in fields.items()
        if field.required and name not in values
    ]
    if problems:
        return None, problems
    try:
        options = kind(**{fields[name].name: value for name, value in values.items()})
    except (TypeError, ValueError) as exc:  # raised by the backend's own check in __post_init__
        return None, [f"backend: {exc}"]
    return BackendSettings(url=parts.base, options=options), []


def _options_for(
    layer: Sequence[Entry], named: Entry | None, scheme: str, fields: Fields, environ: Mapping[str, str]
) -> list[Entry]:
    """The options of one source that belong to the winning backend, if `named` is the URL that it names."""
    options = [entry for entry in layer if entry.path != _URL]
    if named is None:
        return options
    try:
        other = split_url(expand_url(str(named.value), environ)).scheme
    except InvalidValueError:  # not known here: options that the winning backend knows count as its own
        return [entry for entry in options if _field(entry, fields) in fields]
    known = _registered()
    return options if known.get(other) == known[scheme] else []


def _check(
    entries: Sequence[Entry], fields: Fields, environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """The values of one source's options by field, and their problems."""
    values: dict[str, Any] = {}
    problems = []
    for entry in entries:
        name = _field(entry, fields)
        if name not in fields:
            problems.append(entry.problem(unknown(name, fields)))
        elif name in values:
            problems.append(entry.problem("given twice: in the URL and beside it, or twice in the URL"))
        else:
            try:
                values[name] = convert(_with_variables(entry, environ), fields[name].type)
            except InvalidValueError as exc:
                problems.append(entry.problem(str(exc)))
    return values, problems


def _with_variables(entry: Entry, environ: Mapping[str, str]) -> Entry:
    if entry.expanded or not isinstance(entry.value, str):
        return entry
    value = expand(entry.value, environ)
    return structs.replace(entry, value=value, secret=entry.secret or value != entry.value)


def _field(entry: Entry, fields: Fields) -> str:
    """The field of an option. In a variable's name its case is lost, and a dash has become an underscore."""
    name = entry.path[-1]
    if not entry.text or name in fields:
        return name
    return next((field for field in fields if field.lower().replace("-", "_") == name), name)
