"""An example of an event, made from its JSON schema, for the page at `/docs`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

Schema = dict[str, Any]

_TEXTS: Final = {
    "date-time": "2024-01-31T08:30:00Z",
    "date": "2024-01-31",
    "time": "08:30:00Z",
    "partial-time": "08:30:00",
    "duration": "PT1H",
    "uuid": "5f0c4f0e-9d3b-4c58-8f0a-2b1d8f6c7e21",
    "decimal": "1.5",
    "email": "name@example.org",
    "uri": "https://example.org/",
}
_DEEPEST: Final = 6  # a type may contain itself
_DEEPEST_ITEMS: Final = 4


def example_of(schema: Any, components: Schema, depth: int = 0) -> Any:
    """Return a value that fits a schema, or the first of its `examples`.

    It does not look at patterns: a type with one has to give an example.
    """
    if not isinstance(schema, dict):  # JSON Schema has true and false
        return None
    if "$ref" in schema:  # a default may be beside a reference
        schema = components.get(schema["$ref"].rpartition("/")[2], {}) | schema
    given = schema.get("examples") or [schema[name] for name in ("default", "const") if name in schema]
    given = given or schema.get("enum", [])
    if given or depth > _DEEPEST:
        return given[0] if given else None

    def part(one: Any) -> Any:
        return example_of(one, components, depth + 1)

    if options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return part(options[0])
    match schema.get("type"):
        case "object":
            return {name: part(one) for name, one in schema.get("properties", {}).items()}
        case "array":
            length = max(schema.get("minItems", 0), min(1, schema.get("maxItems", 1)))
            items = [schema.get("items")] * length if depth < _DEEPEST_ITEMS else []
            return [part(one) for one in schema.get("prefixItems", items)]
        case type_:
            make = _SCALARS.get(str(type_))
            return make(schema) if make else None


def _number(schema: Schema) -> float:
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    step = schema.get("multipleOf", 0)
    for number in (1, least, most, step, above + 1, below - 1, (above + below) / 2):
        fits = least <= number <= most and above < number < below and math.isfinite(number)
        if fits and not (step and number % step):
            return number
    return 1


def _text(schema: Schema) -> str:
    text = "text".ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]
    return _TEXTS.get(schema.get("format", ""), text)


_SCALARS: Final[dict[str, Callable[[Schema], Any]]] = {
    "integer": lambda schema: int(_number(schema)),
    "number": lambda schema: float(_number(schema)),
    "boolean": lambda _: False,
    "string": _text,
}
