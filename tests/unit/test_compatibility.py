"""Which changes of a JSON schema break readers: by tables, and by a property that a validator decides."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from eventml.cli.compatibility import breaking_changes

Schema = dict[str, Any]


def document(action: str, *payloads: Any, schemas: Schema | None = None) -> Schema:
    """An AsyncAPI document with one topic, `rides`, and one operation for each schema of its events."""
    return {
        "channels": {
            "rides": {
                "address": "rides",
                "messages": {
                    str(number): {"contentType": "application/json", "payload": one}
                    for number, one in enumerate(payloads)
                },
            }
        },
        "operations": {
            str(number): {
                "action": action,
                "channel": {"$ref": "#/channels/rides"},
                "messages": [{"$ref": f"#/channels/rides/messages/{number}"}],
            }
            for number, _ in enumerate(payloads)
        },
        "components": {"schemas": schemas or {}},
    }


def differences(action: str, old: Any, new: Any) -> list[str]:
    """The path and the reason of each line."""
    lines = breaking_changes(document(action, old), document(action, new))
    start = f"{'written to' if action == 'send' else 'read from'} rides: "
    assert all(line.startswith(start) and "; " in line for line in lines)
    return [line.removeprefix(start).split(";")[0] for line in lines]


def fields(*required: str, **known: Any) -> Schema:
    return {"type": "object", "properties": known, "required": list(required)}


INT, NUMBER, TEXT = {"type": "integer"}, {"type": "number"}, {"type": "string"}
MAYBE = {"anyOf": [INT, {"type": "null"}], "default": None}
CARD = {"title": "Card", **fields("type", "number", type={"enum": ["Card"]}, number=TEXT)}
CARD_2 = {"title": "Card", **fields("type", "number", "pin", type={"enum": ["Card"]}, number=INT, pin=INT)}
CASH = {"title": "Cash", **fields("type", type={"enum": ["Cash"]})}
LACKS, MAY_LACK = "events lack it and readers require it", "events may lack it and readers require it"

CHANGES: list[tuple[Any, Any, list[str], list[str]]] = [
    # old, new, what breaks readers of what the bus writes, what breaks the bus as a reader
    (fields("a", a=INT), fields("a", a=INT), [], []),
    (fields("a", a=INT), fields("a", a=INT, b=TEXT), [], []),
    (fields("a", a=INT), fields("a", "b", a=INT, b=TEXT), [], [f"$.b: {LACKS}"]),
    (fields("a", a=INT, b=INT), fields("a", "b", a=INT, b=INT), [], [f"$.b: {MAY_LACK}"]),
    (fields("a", "b", a=INT, b=INT), fields("a", a=INT, b=INT), [f"$.b: {MAY_LACK}"], []),
    (fields("a", "b", a=INT, b=INT), fields("a", a=INT), [f"$.b: {LACKS}"], []),
    (fields(a=INT), fields(), ["$.a: events lack it and readers may use it"], []),
    (fields("a", a=INT), fields("b", b=INT), [f"$.a: {LACKS}"], [f"$.b: {LACKS}"]),
    (fields(a=INT), fields(a=MAYBE), ["$.a: it may be null and readers take integer"], []),
    (fields(a=MAYBE), fields(a=INT), [], ["$.a: it may be null and readers take integer"]),
    (fields(a=INT), fields(a=NUMBER), ["$.a: it may be number and readers take integer"], []),
    (
        fields(a=INT),
        fields(a=TEXT),
        ["$.a: it may be string and readers take integer"],
        ["$.a: it may be integer and readers take string"],
    ),
    (
        fields(a=INT),
        fields(a={}),
        ["$.a: it may be anything and readers take integer"],
        [],
    ),
    (INT, {"type": ["integer", "null"]}, ["$: it may be null and readers take integer"], []),
    ({"enum": ["a", "b"]}, {"enum": ["a"]}, [], ["$: it may be ['b'] and readers take ['a']"]),
    ({"const": "a"}, {"enum": ["a", "b"]}, ["$: it may be ['b'] and readers take ['a']"], []),
    (TEXT, {"enum": ["a"]}, [], ["$: it may be ['another value'] and readers take ['a']"]),
    (
        {"type": "array", "items": INT},
        {"type": "array"},
        ["$[]: it may be anything and readers take integer"],
        [],
    ),
    (
        fields(a={"type": "array", "items": fields(b=INT)}),
        fields(a={"type": "array", "items": fields(b=NUMBER)}),
        ["$.a[].b: it may be number and readers take integer"],
        [],
    ),
    (
        {"type": "object", "additionalProperties": INT},
        {"type": "object", "additionalProperties": NUMBER},
        ["$.*: it may be number and readers take integer"],
        [],
    ),
    (
        {**fields(a=INT, b=INT), "additionalProperties": False},
        {**fields(a=INT), "additionalProperties": False},
        ["$.b: events lack it and readers may use it"],
        ["$.b: it may be integer and readers take nothing"],
    ),
    ({**INT, "minimum": 0}, INT, ["$: minimum is None and that of readers is 0"], []),
    (INT, {**INT, "minimum": 0}, [], ["$: minimum is None and that of readers is 0"]),
    (
        {"type": "string", "format": "date"},
        {"type": "string", "format": "uuid"},
        ["$: format is uuid and that of readers is date"],
        ["$: format is date and that of readers is uuid"],
    ),
    ({**INT, "title": "a", "default": 1, "description": "a"}, INT, [], []),
    (INT, {**INT, "title": "b", "default": 2, "description": "b"}, [], []),
    ({"anyOf": [CARD, CASH]}, {"anyOf": [CASH, CARD]}, [], []),
    (
        {"anyOf": [CARD, CASH]},
        {"anyOf": [CARD_2, CASH]},
        ["$.number: it may be integer and readers take string"],
        [f"$.pin: {LACKS}", "$.number: it may be string and readers take integer"],
    ),
    ({"oneOf": [CARD, CASH]}, CASH, [], ["$.type: it may be ['Card'] and readers take ['Cash']"]),
]


@pytest.mark.parametrize(("old", "new", "for_readers", "for_the_bus"), CHANGES)
def test_changes(old: Any, new: Any, for_readers: list[str], for_the_bus: list[str]) -> None:
    assert differences("send", old, new) == for_readers
    assert differences("receive", old, new) == for_the_bus


def test_references_lead_into_the_own_document() -> None:
    ride = {"$ref": "#/components/schemas/Ride"}
    old = document(
        "send", ride, schemas={"Ride": fields("a", a={"$ref": "#/components/schemas/A"}), "A": INT}
    )
    new = document("send", ride, schemas={"Ride": fields("a", a=NUMBER)})
    assert breaking_changes(old, old) == []
    [line] = breaking_changes(old, new)
    assert line.startswith("written to rides: $.a: it may be number and readers take integer; ")


def test_a_type_that_contains_itself() -> None:
    stop = {"$ref": "#/components/schemas/Stop"}

    def stops(at: Schema) -> Schema:
        following = {"anyOf": [stop, {"type": "null"}]}
        return document("receive", stop, schemas={"Stop": fields("at", at=at, then=following)})

    assert breaking_changes(stops(INT), stops(INT)) == []
    [line] = breaking_changes(stops(NUMBER), stops(INT))
    assert "$.at: it may be number" in line


def test_topics_that_come_and_go() -> None:
    rides, nothing = document("send", INT), document("send")
    assert breaking_changes(nothing, rides) == []
    [line] = breaking_changes(rides, nothing)
    assert line.startswith("written to rides: nothing is written any more; ")
    assert breaking_changes(document("receive", INT), nothing) == []


def test_several_handlers_of_a_topic() -> None:
    a, b, both = fields("a", a=INT), fields("b", b=INT), fields("a", "b", a=INT, b=INT)
    # Events have had what each handler that reads them requires.
    assert breaking_changes(document("receive", a, b), document("receive", b, a)) == []
    assert breaking_changes(document("receive", a, b), document("receive", a, fields("c", c=INT)))
    # Readers had to take the events of each handler that writes them.
    assert breaking_changes(document("send", a, b), document("send", b)) == []
    assert breaking_changes(document("send", a), document("send", a, fields("c", c=INT)))
    assert breaking_changes(document("send", a), document("send", both)) == []


# A property: where nothing is said to break, each event of the old schema fits the new one.

NAMES = st.sampled_from(["a", "b", "c"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        [{}, INT, NUMBER, TEXT, {"type": "null"}, {"type": ["string", "null"]}, {"type": "boolean"}]
    )
    | st.lists(st.sampled_from(["a", "b", 1]), min_size=1, unique=True).map(lambda values: {"enum": values})
    | st.integers(-2, 2).map(lambda number: {"type": "integer", "minimum": number}),
    lambda inner: (
        st.builds(
            lambda known, required, rest: {
                **fields(*sorted(required & known.keys()), **known),
                **({} if rest is None else {"additionalProperties": rest}),
            },
            st.dictionaries(NAMES, inner, max_size=3),
            st.sets(NAMES),
            st.none() | st.just(False) | inner,
        )
        | inner.map(lambda items: {"type": "array", "items": items})
        | st.lists(inner, min_size=1, max_size=3).map(lambda forms: {"anyOf": forms})
    ),
    max_leaves=6,
)


def changed(draw: st.DrawFn, schema: Any) -> Any:
    """The schema with a part of it widened, narrowed or left as it is."""
    if draw(st.integers(0, 3)) == 0:
        return draw(SCHEMAS)
    made = dict(schema)
    for keyword in ("items", "additionalProperties"):
        if isinstance(made.get(keyword), dict):
            made[keyword] = changed(draw, made[keyword])
    if "anyOf" in made:
        made["anyOf"] = [changed(draw, one) for one in made["anyOf"]] + draw(st.lists(SCHEMAS, max_size=1))
    if "properties" in made:
        made["properties"] = {name: changed(draw, one) for name, one in made["properties"].items()}
        made["required"] = draw(st.lists(st.sampled_from(["a", "b"]), unique=True, max_size=1))
    for keyword in ("minimum", "enum", "additionalProperties"):
        if keyword in made and draw(st.booleans()):
            del made[keyword]
    return made


def value_of(draw: st.DrawFn, schema: Any) -> Any:
    """A value that may fit the schema."""
    if schema is False or "anyOf" in (schema or {}):
        return value_of(draw, draw(st.sampled_from(schema["anyOf"]))) if schema else None
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    named = schema.get("type", ["null", "integer", "string", "boolean", "number"])
    kind = named if isinstance(named, str) else draw(st.sampled_from(named))
    if kind == "object":
        names = [name for name in schema["properties"] if name in schema["required"] or draw(st.booleans())]
        return {name: value_of(draw, schema["properties"][name]) for name in names}
    if kind == "array":
        return [value_of(draw, schema["items"]) for _ in range(draw(st.integers(0, 2)))]
    simple: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "integer": st.integers(-3, 3),
        "number": st.sampled_from([-1, 0.5, 2]),
        "string": st.sampled_from(["a", "b", "z"]),
    }
    return draw(simple[kind])


def closed(schema: Any) -> Any:
    """The schema with the fields only that it names: a class writes no others."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(one) for name, one in schema.items()}
    if made.get("type") == "object" and made["properties"]:
        made.setdefault("additionalProperties", False)
    return made


@given(st.data())
def test_where_nothing_breaks_each_old_event_fits(data: st.DataObject) -> None:
    old = data.draw(SCHEMAS)
    new = data.draw(st.composite(changed)(old))
    if differences("receive", old, new):
        return
    writes, takes = jsonschema_rs.Draft7Validator(closed(old)), jsonschema_rs.Draft7Validator(new)
    for _ in range(5):
        value = data.draw(st.composite(value_of)(old))
        event(f"fits {writes.is_valid(value)}, changed {old != new}")
        assert takes.is_valid(value) or not writes.is_valid(value)


@given(SCHEMAS)
def test_a_schema_breaks_no_reader_of_itself(schema: Any) -> None:
    assert differences("receive", schema, schema) == []
    assert differences("send", schema, msgspec.json.decode(msgspec.json.encode(schema))) == []
