"""A table of settings, as TOML or the caller gives it, taken apart into entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventml.config.entries import Entry, show, unknown
from eventml.config.settings import HandlerSettings, Settings, TopicSettings, WebSettings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import msgspec

SECTIONS: Final[Mapping[str, type[msgspec.Struct]]] = {"consumer": HandlerSettings, "topic": TopicSettings}
"""The sections that hold one table a name, and what such a table may say."""

WEB: Final = WebSettings.__struct_fields__


def flatten(
    table: Mapping[str, object], source: str, handlers: Collection[str] = ()
) -> tuple[list[Entry], list[str]]:
    """The entries of a table, and what is wrong with its shape. Their values are not checked here.

    Args:
        table: Shaped as `eventml.toml` is.
        source: What to call it in a message.
        handlers: The handlers that there are; empty is "not known", and then any name will do.
    """
    entries, problems = [], []
    for key, value in table.items():
        if key not in Settings.__struct_fields__:
            problems.append(Entry((key,), value, source).problem(unknown(key, Settings.__struct_fields__)))
        elif key in ("drain", "tracing"):
            entries.append(Entry((key,), value, source))
        elif key == "backend" and isinstance(value, str):
            entries.append(Entry((key, "url"), value, source))
        elif not isinstance(value, dict):
            also = "a URL or " if key == "backend" else ""
            problems.append(
                Entry((key,), value, source).problem(f"expected {also}a table, got {show(value)}")
            )
        elif key == "backend":
            entries += [Entry((key, name), said, source) for name, said in value.items()]
        elif key == "web":
            found = [Entry((key, name), said, source) for name, said in value.items()]
            entries += [entry for entry in found if entry.path[1] in WEB]
            problems += [e.problem(unknown(e.path[1], WEB)) for e in found if e.path[1] not in WEB]
        else:
            for one in _section(key, value, source, handlers):
                (entries if isinstance(one, Entry) else problems).append(one)  # type: ignore[arg-type] # by its type
    return entries, problems


def _section(
    section: str, tables: Mapping[str, object], source: str, handlers: Collection[str]
) -> Iterator[Entry | str]:
    fields = SECTIONS[section].__struct_fields__
    for name, table in tables.items():
        here = Entry((section, name), table, source)
        if section == "consumer" and handlers and name not in handlers:
            yield here.problem(unknown(name, handlers))
        elif not isinstance(table, dict):
            yield here.problem(f"expected a table, got {here.shown}")
        else:
            for field, value in table.items():
                entry = Entry((section, name, field), value, source)
                if field in fields:
                    yield entry
                elif isinstance(value, dict):
                    yield entry.problem(f'unknown; a name with dots is quoted: [{section}."{name}.{field}"]')
                else:
                    yield entry.problem(unknown(field, fields))
