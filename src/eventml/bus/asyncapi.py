"""The contract of a bus: an AsyncAPI document of the topics that it reads and writes, and of their events."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from eventml.bus.bus import Bus
from eventml.bus.connection import SYSTEMS
from eventml.event_types import json_schemas
from eventml.records import JSON, MSGPACK
from eventml.runtime import output_event_types


class _Operation(NamedTuple):
    name: str
    topic: str
    event_type: Any
    group: str | None = None  # of one that receives


def asyncapi_document(bus: Bus) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of a bus. Dead-letter topics and topics of replies are not in it.

    What a handler reads is an operation that receives, each topic of its outputs one that sends. A declared
    topic that no handler reads or writes is one that the app itself publishes to. The bindings are those of
    the configured backend; Redis's have no fields. The order of registration makes no difference.

    Raises:
        ConfigError: a setting is invalid.
    """
    used = _operations(bus)
    schema_of, schemas = json_schemas([one.event_type for one in used], "#/components/schemas/{name}")
    protocol = SYSTEMS.get(bus.settings.backend.scheme, bus.settings.backend.scheme)
    channels, operations = dict[str, Any](), dict[str, Any]()
    for one in used:
        payload = _draft_07(schema_of(one.event_type))
        codec = JSON if bus.declared_topic(one.topic).codec == "json" else MSGPACK
        message = {"contentType": codec, "payload": payload, **_bindings(protocol, key={"type": "string"})}
        channel = {"address": one.topic, "messages": {}, **_bindings(protocol, topic=one.topic)}
        title = payload.get("$ref", payload.get("title", "event")).rpartition("/")[2]
        at, name, operation = map(_key, (one.topic, title, one.name))
        while channels.setdefault(at, channel)["address"] != one.topic:
            at += "_"  # the key of another topic, such as a_b for a/b
        while channels[at]["messages"].setdefault(name, message) != message:
            name += "_"  # another class of this name
        while operation in operations:
            operation += "_"
        operations[operation] = {
            "action": "receive" if one.group else "send",
            "channel": {"$ref": f"#/channels/{at}"},
            "messages": [{"$ref": f"#/channels/{at}/messages/{name}"}],
            **(_bindings(protocol, groupId={"type": "string", "enum": [one.group]}) if one.group else {}),
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": bus.name, "version": "1.0.0", "description": "Written by eventml."},
        "defaultContentType": JSON,
        "channels": channels,
        "operations": operations,
        "components": {"schemas": _draft_07(schemas)},
    }


def _operations(bus: Bus) -> list[_Operation]:
    found = list[_Operation]()
    for handler in map(bus.configured_handler, bus.handlers):
        name, group = handler.name, handler.options.group
        found.append(_Operation(f"receive_{name}", handler.topic, handler.event_type, group))
        outputs = output_event_types(handler).items()
        found += [_Operation(f"send_{name}_{topic}", topic, event_type) for topic, event_type in outputs]
    topics = {one.topic for one in found}
    found += [_Operation(f"send_{topic}", topic, Any) for topic in bus.topics if topic not in topics]
    found.sort(key=lambda one: (one.name, one.topic))
    declared = {topic: bus.declared_topic(topic).event_type for topic in {*topics, *bus.topics}}
    return [one._replace(event_type=declared[one.topic]) if one.event_type is Any else one for one in found]


def _key(name: str) -> str:
    """Return a key of the characters that AsyncAPI has in keys: a topic of Kafka is its own key."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _bindings(protocol: str, **fields: Any) -> dict[str, Any]:
    known = {"kafka": {**fields, "bindingVersion": "0.5.0"}, "redis": {}}
    return {"bindings": {protocol: known[protocol]}} if protocol in known else {}


def _draft_07(schema: Any) -> Any:
    """The same schema in draft 07 of JSON Schema, which AsyncAPI has; `json_schemas` makes 2020-12."""
    if isinstance(schema, list):
        return [_draft_07(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {keyword: _draft_07(value) for keyword, value in schema.items()}
    match made:  # and no field of that name
        case {"discriminator": {"propertyName": str(field)}}:
            made["discriminator"] = field
        case {"prefixItems": list(items)}:
            del made["prefixItems"]
            made |= {"items": items, "additionalItems": made.get("items", True)}
    return made
