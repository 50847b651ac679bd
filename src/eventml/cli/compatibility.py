"""Which changes between two AsyncAPI documents of a bus break readers: a pure comparison of JSON schemas.

What is written must fit what readers take. On a topic that the bus sends to, the new schema is written, and
readers know the old one; on one that it receives from, events of the old schema wait or still come.
"""

from __future__ import annotations

from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_ALL: Final = {*_TYPES.values(), "array", "object"}
_INNER: Final = {"items": "[]", "additionalProperties": ".*"}  # what a value holds: the end of its path
# All further keywords must be equal wherever readers have them.
_COMPARED: Final = {*_INNER, "type", "enum", "const", "properties", "required"}
_ANNOTATIONS: Final = {"title", "description", "default", "examples", "discriminator"}
_SEND: Final = "go on writing what its readers take, or write the new form to another topic"
_RECEIVE: Final = "give a new field a default, and take the old form until its last event has been read"


def breaking_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return a line for each change that breaks readers: the topic, the field's path, and what to do.

    A topic that is new, or that is not read any more, breaks none.

    Raises:
        AttributeError, KeyError, TypeError: one is no document like those of `eventml schema`.
    """
    lines, after = list[str](), _payloads(new)
    for (action, topic), known in _payloads(old).items():
        schemas = after.get((action, topic), [])
        if action == "receive":  # what it reads fits what each of the old handlers took
            found = [min([_misfits(one, schema, "$") for one in known], key=len) for schema in schemas]
            lines += [f"read from {topic}: {misfit}; {_RECEIVE}" for misfits in found for misfit in misfits]
            continue
        found = [_misfits(schema, {"anyOf": known}, "$", misses_all=True) for schema in schemas]
        found += [] if schemas else [["nothing is written any more"]]
        lines += [f"written to {topic}: {misfit}; {_SEND}" for misfits in found for misfit in misfits]
    return list(dict.fromkeys(lines))


def _payloads(document: dict[str, Any]) -> dict[tuple[str, str], list[Any]]:
    """The schemas of what is sent to each topic, and of what is received from it."""
    found: dict[tuple[str, str], list[Any]] = {}
    for operation in _inline(document, document["operations"]).values():
        payloads = found.setdefault((operation["action"], operation["channel"]["address"]), [])
        payloads += [message["payload"] for message in operation["messages"]]
    return found


def _inline(document: dict[str, Any], value: Any, within: tuple[str, ...] = ()) -> Any:
    """A part of a document with all that it refers to in its place, but for a type that contains itself."""
    if isinstance(value, list):
        return [_inline(document, one, within) for one in value]
    if not isinstance(value, dict) or value.get("$ref") in within:
        return value
    if isinstance(ref := value.get("$ref"), str):  # and not a field of that name
        return _inline(document, reduce(getitem, ref.split("/")[1:], document), (*within, ref))
    return {name: _inline(document, one, within) for name, one in value.items()}


def _misfits(written: Any, read: Any, path: str, misses_all: bool = False) -> list[str]:
    """The paths at which a value of one schema may not fit the other, and why.

    `misses_all` says whether readers miss a field that they do not require too.
    """
    forms, known, found = _forms(written), _forms(read), list[str]()
    types, taken = _types(*forms), _types(*known)
    if types - taken:
        may = _show(types if types == _ALL else types - taken)
        found.append(f"{path}: it may be {may} and readers take {_show(taken)}")
    for form in forms:
        fitting = [one for one in known if _types(form) & _types(one)]
        same = [one for one in fitting if one.get("title") == form.get("title")]  # their misfits say most
        tried = [list(_misfits_of_form(form, one, path, misses_all)) for one in same or fitting]
        if tried:
            found = found + min(tried, key=len)
    return found


def _misfits_of_form(written: Any, read: Any, path: str, misses_all: bool) -> Iterator[str]:
    values, required = _values(read), read.get("required", ())
    if values and (extra := [v for v in _values(written) or ["another value"] if v not in values]):
        yield f"{path}: it may be {extra} and readers take {values}"
    fields, known = written.get("properties", {}), read.get("properties", {})
    for name in dict.fromkeys((*known, *required)):
        if name in required and name not in written.get("required", ()):
            yield f"{path}.{name}: events {'may ' * (name in fields)}lack it and readers require it"
        elif misses_all and name not in fields:
            yield f"{path}.{name}: events lack it and readers may use it"
    for name, schema in fields.items():
        taken = known.get(name, read.get("additionalProperties", True))
        yield from _misfits(schema, taken, f"{path}.{name}", misses_all)
    for keyword in _INNER.keys() & read.keys():
        inner = written.get(keyword, not fields)
        yield from _misfits(inner, read[keyword], path + _INNER[keyword], misses_all)
    for keyword in sorted(read.keys() - _COMPARED - _ANNOTATIONS):
        if read[keyword] != written.get(keyword):
            yield f"{path}: {keyword} is {written.get(keyword)} and that of readers is {read[keyword]}"


def _forms(schema: Any) -> list[Any]:
    """The alternatives of a schema; for the schemas of a tuple's items, those of each."""
    if isinstance(schema, bool):
        return [{}] if schema else []
    parts = schema if isinstance(schema, list) else schema.get("anyOf") or schema.get("oneOf")
    return [form for part in parts for form in _forms(part)] if parts else [schema]


def _types(*forms: Any) -> set[str]:
    found: set[str] = set()
    for form in forms:
        values, named = _values(form), form.get("type", [])
        found |= {named} if isinstance(named, str) else set(named)
        if not named:
            found |= _ALL if values is None else {_TYPES.get(type(value), "object") for value in values}
    return found | {"integer"} if "number" in found else found


def _values(form: Any) -> list[Any] | None:
    return [form["const"]] if "const" in form else form.get("enum")


def _show(types: set[str]) -> str:
    shown = types - {"integer"} if "number" in types else types
    return "anything" if types == _ALL else " or ".join(sorted(shown)) or "nothing"
