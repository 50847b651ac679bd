"""Types of events: which ones there are, their decoders and their JSON schemas.

msgspec decodes its structs, dataclasses, attrs classes, TypedDicts, NamedTuples and what Python has built in.
Models and dataclasses of pydantic validate themselves. Each event is validated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

Decode = Callable[[bytes], Any]
"""Decodes the bytes of one event. Raises msgspec.DecodeError, msgspec.ValidationError if they do not fit the
type, and whatever a validator or `__post_init__` of the type raises."""

_POSSIBLE: Final = (
    "a msgspec.Struct, a dataclass, an attrs class, a TypedDict, a NamedTuple, a pydantic model, dict or Any"
)


def check_event_type(event_type: Any) -> None:
    """Check that events can have this type.

    Raises:
        TypeError: they cannot; the message names the class that has no form in JSON, and what can be one.
    """
    name = getattr(event_type, "__name__", event_type)
    try:
        if uses_pydantic(event_type):
            json_decoder(event_type)
            return
        unknown = next(_unknown_classes(msgspec.inspect.type_info(event_type), set()), None)
        json_decoder(event_type)
    except Exception as exc:  # a TypeError of msgspec, or whatever pydantic raises
        raise TypeError(f"{name} cannot be the type of an event: {exc}") from exc
    if unknown is not None:
        hint = (
            "; make the event a pydantic model too" if uses_pydantic(unknown) else f". It may be {_POSSIBLE}"
        )
        raise _no_form(event_type, unknown, hint)


def check_output_type(output_type: Any) -> None:
    """Check that outputs can have this type: what `check_event_type` accepts, and whatever can be encoded.

    Raises:
        TypeError: as `check_event_type`.
    """
    try:
        classes = list(_unknown_classes(msgspec.inspect.type_info(output_type), set()))
    except Exception:  # noqa: BLE001 - a type that msgspec cannot describe may have values that it can encode
        return
    for unknown in classes:
        if unknown is not object and not hasattr(unknown, "tolist") and not uses_pydantic(unknown):
            raise _no_form(output_type, unknown, f". It may be {_POSSIBLE}")


def _no_form(event_type: Any, unknown: Any, hint: str) -> TypeError:
    name = getattr(event_type, "__name__", event_type)
    where = "it" if unknown is event_type else f"{unknown.__name__}, which it contains,"
    return TypeError(f"{name} cannot be the type of an event: {where} has no form in JSON{hint}")


def uses_pydantic(event_type: Any) -> bool:
    """Whether it is a model or a dataclass of pydantic, or a union that has one."""
    # An attribute of pydantic's, so that it need not be imported for users who do without it.
    return hasattr(event_type, "__pydantic_validator__") or any(map(uses_pydantic, get_args(event_type)))


def json_decoder(event_type: Any, *, strict: bool = True) -> Decode:
    """The decoder of JSON.

    Args:
        event_type: Type of the events.
        strict: Whether `"1"` is refused for an integer. A model of pydantic decides for itself.
    """
    if uses_pydantic(event_type):
        return _validating(_adapter(event_type).validate_json)
    return msgspec.json.Decoder(event_type, strict=strict).decode


def msgpack_decoder(event_type: Any, *, strict: bool = True) -> Decode:
    """The decoder of MessagePack; otherwise as `json_decoder`."""
    if uses_pydantic(event_type):
        decode, validate = msgspec.msgpack.Decoder().decode, _adapter(event_type).validate_python
        return _validating(lambda value: validate(decode(value)))
    return msgspec.msgpack.Decoder(event_type, strict=strict).decode


def convert(value: Any, event_type: Any, *, strict: bool = True) -> Any:
    """An event made of a dict of its fields, as a row of a table is.

    Raises:
        msgspec.ValidationError: it does not fit the type.
    """
    if uses_pydantic(event_type):
        return _validating(_adapter(event_type).validate_python)(value)
    return msgspec.convert(value, event_type, strict=strict)


def fields_of(event_type: Any) -> list[tuple[str, str, Any]] | None:
    """The fields of a type: name in JSON, name in Python, and type of each; None if it has none."""
    if isinstance(event_type, type) and uses_pydantic(event_type):
        found = getattr(event_type, "__pydantic_fields__", {})
        return [(f.serialization_alias or f.alias or name, name, f.annotation) for name, f in found.items()]
    if is_typeddict(event_type):
        return [(name, name, hint) for name, hint in get_type_hints(event_type).items()]
    try:
        info = msgspec.inspect.type_info(event_type)
    except TypeError:
        return None
    hints = get_type_hints(event_type) if hasattr(info, "fields") else {}
    return [(f.encode_name, f.name, hints[f.name]) for f in getattr(info, "fields", ())] if hints else None


def is_list_type(type_: Any) -> bool:
    """Whether it is `list`, `list[...]` or `Sequence[...]`."""
    return type_ is list or get_origin(type_) in (list, Sequence)


def to_builtin(value: Any) -> Any:
    """Convert a value of a type that msgspec does not know: numpy's scalars and arrays, pydantic's models.

    Raises:
        TypeError: it has no form in JSON or MessagePack.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, str):  # a class of its own, as the text of a header may be
        return str(value)
    if uses_pydantic(type(value)):
        return value.__pydantic_serializer__.to_python(value, by_alias=True)
    raise TypeError(f"{type(value).__name__} has no form in JSON or MessagePack")


def to_json(value: Any) -> Any:
    """As `to_builtin`, for JSON: pydantic's models write it themselves."""
    if uses_pydantic(type(value)):
        return msgspec.Raw(value.__pydantic_serializer__.to_json(value, by_alias=True))
    return to_builtin(value)


def json_schemas(
    types: Iterable[Any], ref_template: str
) -> tuple[Callable[[Any], dict[str, Any]], dict[str, Any]]:
    """The JSON schemas of types.

    Args:
        types: The types; those that JSON Schema cannot describe have the schema {}.
        ref_template: Reference to a component, with `{name}` in it.

    Returns:
        A function from a type to its schema, and the components that the schemas refer to, by name.
    """
    found, schemas, components = list[Any](), list[dict[str, Any]](), dict[str, Any]()
    native = list[Any]()
    for event_type in types:
        if event_type in found or event_type in native:
            continue
        try:
            if not uses_pydantic(event_type):
                msgspec.json.schema(event_type)
                native.append(event_type)
                continue
            schema = _adapter(event_type).json_schema(ref_template=ref_template.replace("{name}", "{model}"))
        except Exception:  # noqa: BLE001, S112 - TypeError, RecursionError, or whatever pydantic raises
            continue
        components |= schema.pop("$defs", {})
        found.append(event_type)
        schemas.append(schema)
    known, defined = msgspec.json.schema_components(native, ref_template=ref_template)
    named = set[str]()
    for info, schema in zip(msgspec.inspect.multi_type_info(native), known, strict=True):
        _add_formats(info, schema, defined, named)
    pairs = [*zip(found, schemas, strict=True), *zip(native, known, strict=True)]
    return lambda type_: next((schema for one, schema in pairs if one == type_), {}), components | defined


def _add_formats(info: Any, schema: dict[str, Any], components: dict[str, Any], done: set[str]) -> None:
    """Add the formats of times with or without an offset, which msgspec leaves out: clients go by them."""
    info = _unannotated(info)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in done:
            return
        done.add(name)
        schema = components[name]
    if isinstance(info, msgspec.inspect.DateTimeType | msgspec.inspect.TimeType):
        is_time = isinstance(info, msgspec.inspect.TimeType)
        if info.tz is None:
            schema.setdefault("format", "time" if is_time else "date-time")
        elif not info.tz and not is_time:  # JSON Schema has no name for it
            schema.setdefault("examples", ["2024-01-31T08:30:00"])
    for part, part_schema in _parts(info, schema):
        _add_formats(part, part_schema, components, done)


def _parts(info: Any, schema: dict[str, Any]) -> Iterable[tuple[Any, dict[str, Any]]]:
    """The types that a type consists of, with their schemas."""
    if isinstance(info, msgspec.inspect.UnionType):  # in the schema, structs and None come last
        options = [one for option in schema["anyOf"] for one in option.get("anyOf", [option])]
        return zip(sorted(info.types, key=_place_in_union), options, strict=False)
    if "properties" in schema:
        return [(field.type, schema["properties"][field.encode_name]) for field in info.fields]
    if "prefixItems" in schema:  # a tag is the first of them
        types = getattr(info, "item_types", None) or [field.type for field in info.fields]
        return zip(reversed(types), reversed(schema["prefixItems"]), strict=False)
    if isinstance(schema.get("items"), dict):
        return [(info.item_type, schema["items"])]
    if isinstance(schema.get("additionalProperties"), dict):
        return [(info.value_type, schema["additionalProperties"])]
    return ()


def _unannotated(info: Any) -> Any:
    return _unannotated(info.type) if isinstance(info, msgspec.inspect.Metadata) else info


def _place_in_union(info: Any) -> int:
    one = _unannotated(info)
    is_object = isinstance(one, msgspec.inspect.StructType) and not one.array_like
    return 2 if isinstance(one, msgspec.inspect.NoneType) else int(is_object)


@lru_cache(maxsize=256)  # it takes milliseconds to make, and `convert` needs it for each row
def _adapter(event_type: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - the type is pydantic's, so it is installed

    return TypeAdapter(event_type)


def _validating(validate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Translate pydantic's errors: where the value is wrong and how, without the value."""
    from pydantic import ValidationError  # noqa: PLC0415 - as above

    def checked(value: Any) -> Any:
        try:
            return validate(value)
        except ValidationError as exc:
            errors = exc.errors(include_url=False, include_context=False, include_input=False)
            first = errors[0]
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            if first["type"] == "json_invalid":
                raise msgspec.DecodeError(first["msg"]) from exc
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            raise msgspec.ValidationError(f"{first['msg']}{more} - at `${path}`") from exc

    return checked


def _unknown_classes(info: Any, seen: set[int]) -> Iterator[Any]:
    """The classes that msgspec does not know, in what it says of a type."""
    if isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
    elif isinstance(info, tuple):
        for one in info:
            yield from _unknown_classes(one, seen)
    elif isinstance(info, msgspec.Struct) and id(info) not in seen:
        seen.add(id(info))
        for name in info.__struct_fields__:
            yield from _unknown_classes(getattr(info, name), seen)
