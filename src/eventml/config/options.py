"""The backend's part of the settings: which URL wins, and which options go with it.

An option belongs to the backend that its own source names, or else the strongest weaker source that
names one. When a stronger source then names another backend, the option is left out: a file that
says `redis://` and `lease = 30` does not stand in the way of `--backend memory://`. An option that
nobody named a backend for belongs to whichever wins. The code's default does not count as naming one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from eventml.config.backends import find_backend, registered
from eventml.config.entries import Entry, UnusableError, unknown, value_of
from eventml.config.environment import variable
from eventml.config.redaction import redact
from eventml.config.settings import BackendSettings
from eventml.config.urls import expand, expand_url, split
from eventml.errors import UnknownBackendError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import msgspec

    Fields = Mapping[str, structs.FieldInfo]

_URL: Final = ("backend", "url")


def choose(
    layers: Sequence[Sequence[Entry]], environ: Mapping[str, str]
) -> tuple[BackendSettings | None, list[str]]:
    """The backend's settings, or what is wrong with them.

    Args:
        layers: What each source says of `backend`, the weakest first. The first is the code's
            default and always holds a URL.
        environ: Where `${NAME}` is looked up.

    Raises:
        UnknownBackendError: no backend is registered for the winning URL's scheme.
        MissingExtraError: the backend needs something that is not installed.
        ConfigError: what is registered is not a backend.
    """
    urls = [next((entry for entry in layer if entry.path == _URL), None) for layer in layers]
    winner = [url for url in urls if url][-1]
    problems = [url.problem(f"expected a URL, got {url.shown}") for url in urls if url and _ill_typed(url)]
    if problems:
        return None, problems
    try:
        parts = split(expand_url(str(winner.value), environ))
    except UnusableError as exc:
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
        entries = list(_belonging(layer, named, parts.scheme, fields, environ))
        if url is winner:
            entries += _query(winner, parts.query)
        found, wrong = _checked(entries, fields, environ)
        values |= found
        problems += wrong
    return _built(kind, fields, values, parts.base, problems)


def _ill_typed(url: Entry) -> bool:
    return not isinstance(url.value, str)


def _query(winner: Entry, query: Sequence[tuple[str, str]]) -> list[Entry]:
    # Who keeps a whole URL in a variable keeps its secrets there: what came out of one is not shown.
    secret = "${" in str(winner.value)
    source = f"the URL of {winner.source}"
    return [
        Entry(("backend", name), value, source, text=True, secret=secret, expanded=True)
        for name, value in query
    ]


def _belonging(
    layer: Sequence[Entry], named: Entry | None, scheme: str, fields: Fields, environ: Mapping[str, str]
) -> Iterator[Entry]:
    """The options of a source that are meant for the backend that won."""
    same = named is None or _same_backend(named, scheme, environ)
    for entry in layer:
        # Where it cannot be told which backend was named, what this one knows is taken for its own.
        if entry.path != _URL and (same or (same is None and _field(entry, fields) in fields)):
            yield entry


def _same_backend(named: Entry, scheme: str, environ: Mapping[str, str]) -> bool | None:
    """Whether a URL that may have lost names the same backend. None if that cannot be told here."""
    try:
        other = split(expand_url(str(named.value), environ)).scheme
    except UnusableError:
        return None
    known = registered()
    return other == scheme or known.get(other) == known[scheme]


def _checked(
    entries: Sequence[Entry], fields: Fields, environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """The values of one source's options by field, and what is wrong with them."""
    values: dict[str, Any] = {}
    problems = []
    for entry in entries:
        name = _field(entry, fields)
        if name not in fields:
            problems.append(entry.problem(unknown(name, fields)))
        elif name in values:
            problems.append(entry.problem("given twice, in the URL and beside it or twice in the URL"))
        else:
            try:
                values[name] = value_of(_with_variables(entry, environ), fields[name].type)
            except UnusableError as exc:
                problems.append(entry.problem(str(exc)))
    return values, problems


def _with_variables(entry: Entry, environ: Mapping[str, str]) -> Entry:
    if entry.expanded or not isinstance(entry.value, str):
        return entry
    value = expand(entry.value, environ)
    return structs.replace(entry, value=value, secret=entry.secret or value != entry.value)


def _field(entry: Entry, fields: Fields) -> str:
    """The field an option means. In a variable's name case is lost, and a dash is an underscore."""
    name = entry.path[-1]
    if not entry.text or name in fields:
        return name
    return next((field for field in fields if field.lower().replace("-", "_") == name), name)


def _built(
    kind: type[msgspec.Struct], fields: Fields, values: Mapping[str, Any], url: str, problems: list[str]
) -> tuple[BackendSettings | None, list[str]]:
    missing = [name for name, field in fields.items() if field.required and name not in values]
    problems += [
        f"backend.{name}: not set, and {redact(url)} needs it: set {variable(('backend', name))}"
        for name in missing
    ]
    if problems:
        return None, problems
    try:
        options = kind(**{fields[name].name: value for name, value in values.items()})
    except (TypeError, ValueError) as exc:  # what a plug-in's own check in __post_init__ raises
        return None, [f"backend: {exc}"]
    return BackendSettings(url=url, options=options), []
