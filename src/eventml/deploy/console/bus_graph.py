"""The topology of a bus: its topics and handlers as a graph, and its drawing with the rates of now."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import math
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

import msgspec

from eventml.bus import Bus, asyncapi_document
from eventml.deploy.console.numbers import HandlerNumbers, format_count
from eventml.models import path_of
from eventml.printable import cut, printable
from eventml.runtime import dead_letter_queues

_CHAR: Final = 7.5  # pixels, of the labels
_HEIGHT, _MIDDLE = 44, 22  # of a node
_GAP: Final = 110  # between layers, for the rates
_PAD: Final = 12
_BELOW: Final = 34  # below a node, for its dead letters
_LONGEST: Final = 30  # characters of a label
_WIDEST: Final = 12.0  # pixels of a line


class Node(msgspec.Struct):
    """A topic, a handler, or the producers outside the bus."""

    kind: Literal["producers", "topic", "predictor", "consumer", "dead letters"]
    name: str
    detail: str = ""  # the type of a topic's events, or a handler's model
    to: list[str] = []  # keys: the topics that a handler writes, the readers of a topic

    @property
    def lines(self) -> list[str]:
        """The label: the name, and the detail if there is one."""
        return [printable(text) for text in (self.name, self.detail) if text]


def topology(bus: Bus) -> dict[str, Node]:
    """Return the nodes of a bus by key, producers first. Topics of replies are not among them."""
    nodes = {"producers": Node("producers", "producers")}
    for channel in asyncapi_document(bus)["channels"].values():
        types = ", ".join(one for one in channel["messages"] if one != "event")
        nodes[f"topic {channel['address']}"] = Node("topic", channel["address"], types)
    handlers = [bus.configured_handler(name) for name in bus.handlers]
    for one in handlers:
        to = [f"topic {topic}" for topic in one.outputs]
        model = "" if one.model is None else f"model {_model_name(one.model)}"
        nodes[f"handler {one.name}"] = Node("predictor" if to else "consumer", one.name, model, to)
        nodes[f"topic {one.topic}"].to.append(f"handler {one.name}")
    for queue in dead_letter_queues(handlers):
        topic = queue.dead_letter_topic
        nodes[key := f"dead letters {topic}"] = Node("dead letters", topic)
        for name in queue.handlers:
            nodes[f"handler {name}"].to.append(key)
    written = {key for node in nodes.values() for key in node.to}
    nodes["producers"].to = [key for key in nodes if key.startswith("topic") and key not in written]
    return nodes


def _model_name(model: Any) -> str:
    if (path := path_of(model)) is not None:
        return Path(path).name
    function = getattr(model, "func", model)  # of a partial
    name = str(getattr(function, "__name__", "") or getattr(model, "name", type(model).__name__))
    return f"{name}({', '.join(map(repr, model.args))})" if function is not model else name


def layers(nodes: Mapping[str, Node]) -> list[list[str]]:
    """Return the keys of each layer. A node is behind its predecessors; one edge of each cycle is ignored."""
    before = {key: {one for one, node in nodes.items() if key in node.to} for key in nodes}
    order = list[str]()
    while len(order) < len(nodes):
        try:
            order = [*TopologicalSorter(before).static_order()]
        except CycleError as exc:
            before[exc.args[1][1]].remove(exc.args[1][0])
    found = dict[str, int]()
    for key in order:
        found[key] = max((found[one] + 1 for one in before[key]), default=0)
    return [[key for key in nodes if found[key] == n] for n in range(max(found.values(), default=-1) + 1)]


def draw_topology(nodes: Mapping[str, Node], handlers: Sequence[HandlerNumbers]) -> dict[str, Any]:
    """Return a drawing of topics and handlers: lines are as wide as their rate, dead letters hang below.

    It has its size in pixels, a label that says in words which lines there are, `boxes` and `flows`.

    The width grows with the logarithm of the rate, so that a rate of one and one of ten thousand can be seen.
    """
    numbers = {f"handler {one.handler}": one for one in handlers}
    drawn_kinds = ("topic ", "handler ")
    shown = {
        key: Node(node.kind, node.name, node.detail, [to for to in node.to if to.startswith(drawn_kinds)])
        for key, node in nodes.items()
        if key.startswith(drawn_kinds)
    }
    columns = layers(shown)
    height = max((len(column) for column in columns), default=0) * (_HEIGHT + _BELOW) + _PAD
    boxes, x = dict[str, dict[str, Any]](), _PAD
    for column in columns:
        width = round(max(len(_label(shown[key].name)) for key in column) * _CHAR) + 2 * _PAD
        y = (height - len(column) * (_HEIGHT + _BELOW)) // 2
        before = {key: [boxes[one]["y"] for one in boxes if key in shown[one].to] or [0] for key in column}
        for key in sorted(column, key=lambda key, before=before: fmean(before[key])):  # type: ignore[misc]
            boxes[key] = _box(shown[key], numbers.get(key), x, y, width)
            y += _HEIGHT + _BELOW
        x += width + _GAP
    flows = [_flow(boxes[key], boxes[to], _rate(key, to, numbers)) for key in boxes for to in shown[key].to]
    ends = [(one.name, ", ".join(shown[to].name for to in one.to)) for one in shown.values() if one.to]
    label = "; ".join(f"{name} to {to}" for name, to in ends)
    size = {"width": max(x - _GAP + _PAD, 0), "height": height}
    return {**size, "label": label, "flows": flows, "boxes": [*boxes.values()]}


def _label(text: str) -> str:
    return cut(printable(text), _LONGEST)


def _rate(key: str, to: str, numbers: Mapping[str, HandlerNumbers]) -> float | None:
    """The rate of a line, in events a second: those received by a handler, or the sum of those published."""
    reader, writer = numbers.get(to), numbers.get(key)
    return reader.received if reader else writer.published if writer else None


def _box(node: Node, numbers: HandlerNumbers | None, x: int, y: int, width: int) -> dict[str, Any]:
    detail, dead = node.detail, ""
    if numbers is not None:
        detail, unknown = f"lag {format_count(numbers.lag)}", numbers.left is None
        number, what = (numbers.dead, "failed") if unknown else (numbers.left, "dead letters")
        dead = f"{format_count(number)} {what}" if number else ""
    texts = {"label": _label(node.name), "detail": _label(detail), "dead": dead}
    return {"node": node, "x": x, "y": y, "width": width, **texts}


def _flow(start: dict[str, Any], end: dict[str, Any], rate: float | None) -> dict[str, Any]:
    """A line between two boxes, and where its rate is written."""
    x1, y1, x2, y2 = start["x"] + start["width"], start["y"] + _MIDDLE, end["x"], end["y"] + _MIDDLE
    half, width = abs(x2 - x1) // 2, min(1.2 + 2.2 * math.log10(1 + (rate or 0)), _WIDEST)
    line = f"M{x1} {y1}C{x1 + half} {y1} {x2 - half} {y2} {x2 - 2} {y2}"
    aside = width / 2 + 13 if y1 < y2 else -width / 2 - 5  # as the curve comes from above or below
    at = {"x": round(x1 + 0.7 * (x2 - x1)), "y": round(y2 + aside)}
    return {"line": line, "width": round(width, 1), "rate": rate, **at}
