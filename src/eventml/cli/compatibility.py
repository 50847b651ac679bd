"""Which changes between two AsyncAPI documents of a bus break readers: a pure comparison of JSON schemas.

What is written must fit what readers take. On a topic that the bus sends to, the new schema is written, and
readers know the old one; on one that it receives from, events of the old schema wait or still come.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import chain
from operator import getitem
from typing import Any, Final

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
    lines, after = list[str](), _messages(new)
    for (action, topic), before in _messages(old).items():
        messages, known = after.get((action, topic), []), [schema for _, schema in before]
        if action == "receive":  # what it reads fits what each of the old handlers took
            tried = [[_incompatibilities(one, schema, "$") for one in known] for _, schema in messages]
            found = [min(one, key=len) for one in tried]
            lines += [f"read from {topic}: {one}; {_RECEIVE}" for one in chain(*found)]
            continue
        found = [_incompatibilities(schema, {"anyOf": known}, "$", misses_all=True) for _, schema in messages]
        types = [content_type for content_type, _ in before]
        found += [[f"it is {one} and readers take {types[0]}"] for one, _ in messages if one not in types]
        found += [] if messages else [["nothing is written any more"]]
        lines += [f"written to {topic}: {one}; {_SEND}" for one in chain(*found)]
    return list(dict.fromkeys(lines))


def _messages(document: dict[str, Any]) -> dict[tuple[str, str], list[tuple[str, Any]]]:
    """The content types and schemas of what is sent to each topic, and of what is received from it."""
    found: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for operation in _inline(document, document["operations"]).values():
        messages = found.setdefault((operation["action"], operation["channel"]["address"]), [])
        messages += [(message["contentType"], message["payload"]) for message in operation["messages"]]
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


def _incompatibilities(written: Any, read: Any, path: str, misses_all: bool = False) -> list[str]:
    """The paths at which a value of one schema may not fit the other, and why.

    `misses_all` says whether readers miss a field that they do not require too.
    """
    alternatives, known, found = _alternatives(written), _alternatives(read), list[str]()
    types, taken = _types(*alternatives), _types(*known)
    if types - taken:
        may = _show(types if types == _ALL else types - taken)
        found.append(f"{path}: it may be {may} and readers take {_show(taken)}")
    for one in alternatives:
        fitting = [other for other in known if _types(one) & _types(other)]
        # The differences from an alternative of the same title say most.
        same = [other for other in fitting if other.get("title") == one.get("title")]
        tried = [list(_compare_alternative(one, other, path, misses_all)) for other in same or fitting]
        if tried:
            found = found + min(tried, key=len)
    return found


def _compare_alternative(written: Any, read: Any, path: str, misses_all: bool) -> Iterator[str]:
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
        yield from _incompatibilities(schema, taken, f"{path}.{name}", misses_all)
    for keyword in _INNER.keys() & read.keys():
        inner = written.get(keyword, not fields)
        yield from _incompatibilities(inner, read[keyword], path + _INNER[keyword], misses_all)
    for keyword in sorted(read.keys() - _COMPARED - _ANNOTATIONS):
        if read[keyword] != written.get(keyword):
            yield f"{path}: {keyword} is {written.get(keyword)} and that of readers is {read[keyword]}"


def _alternatives(schema: Any) -> list[Any]:
    """The alternatives of a schema; for the schemas of a tuple's items, those of each."""
    if isinstance(schema, bool):
        return [{}] if schema else []
    parts = schema if isinstance(schema, list) else schema.get("anyOf") or schema.get("oneOf")
    return [one for part in parts for one in _alternatives(part)] if parts else [schema]


def _types(*alternatives: Any) -> set[str]:
    found: set[str] = set()
    for alternative in alternatives:
        values, named = _values(alternative), alternative.get("type", [])
        found |= {named} if isinstance(named, str) else set(named)
        if not named:
            found |= _ALL if values is None else {_TYPES.get(type(value), "object") for value in values}
    return found | {"integer"} if "number" in found else found


def _values(schema: Any) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _show(types: set[str]) -> str:
    shown = types - {"integer"} if "number" in types else types
    return "anything" if types == _ALL else " or ".join(sorted(shown)) or "nothing"
