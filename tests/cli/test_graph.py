"""`eventml graph`: the topology of a bus, and its drawings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from eventml.cli.graph import draw_mermaid, draw_svg, draw_tree
from eventml.deploy.console import Node, layers, topology
from examples.rides.app import bus as rides

if TYPE_CHECKING:
    from tests.cli.conftest import Invoke

ROOT = Path(__file__).parents[2]
APP = """
import eventml, msgspec
from pathlib import Path

bus = eventml.Bus("shop")

class Order(msgspec.Struct):
    id: str

class Score(msgspec.Struct):
    value: float

class Note(msgspec.Struct):
    text: str

bus.topic("orders", event_type=Order, id_field="id")
bus.topic("published.only", event_type=Order)


@bus.predictor("orders", to={"scores": Score, "audit": Note}, model="models/score.skops")
def score(order: Order, model): ...

@bus.predictor("scores", to="orders")
def again(score: Score) -> Order: ...

@bus.consumer("audit")
def keep(note: Note) -> None: ...
"""
TREE = """\
shop
├── producers
│   └── published.only  Order
"""
HOSTILE = [
    '"]; click n0 "https://evil"',
    "<script>alert(1)</script>",
    "\x1b[2J",
    "a\nb",
    "]]>",
    "end",
    "日本",
]


def nodes(invoke: Invoke, folder: Path) -> dict[str, Node]:
    (folder / "app.py").write_text(APP)
    found = json.loads(invoke("graph", "app:bus", "--json").stdout)
    assert found["bus"] == "shop"
    return {key: Node(**node) for key, node in found["nodes"].items()}


def test_json_has_topics_with_types_handlers_with_models_and_dead_letters(
    invoke: Invoke, folder: Path
) -> None:
    found = nodes(invoke, folder)
    assert found["producers"].to == ["topic published.only"], "a handler writes the other topics"
    assert found["topic orders"] == Node("topic", "orders", "Order", ["handler score"])
    dead = "dead letters orders.shop.score.dlq"
    outputs = ["topic scores", "topic audit"]
    assert found["handler score"] == Node("predictor", "score", "model score.skops", [*outputs, dead])
    assert found["handler keep"].kind == "consumer"
    assert found[dead] == Node("dead letters", "orders.shop.score.dlq")


def test_a_model_of_the_settings_has_its_name(invoke: Invoke, folder: Path) -> None:
    (folder / "eventml.toml").write_text('[consumer.score]\nmodel = "models/better.skops"')
    assert nodes(invoke, folder)["handler score"].detail == "model better.skops"


def test_text_draws_each_node_once(invoke: Invoke, folder: Path) -> None:
    found = nodes(invoke, folder)
    shown = invoke("graph", "app:bus").stdout
    assert shown.startswith(TREE)
    assert "score  (predictor)  model score.skops\n" in shown
    for node in found.values():
        if not node.to:
            assert len(re.findall(rf" {re.escape(node.name)}(?=\s)", shown)) == 1
    assert shown.count("(see above)") == 1, "a circle ends"


def test_mermaid_and_svg_have_every_node_and_edge(invoke: Invoke, folder: Path) -> None:
    found = nodes(invoke, folder)
    edges = sum(len(node.to) for node in found.values())
    chart = invoke("graph", "app:bus", "--format", "mermaid").stdout.splitlines()
    assert chart[0] == "flowchart LR"
    assert len(chart) == 1 + len(found) + edges
    assert '["score<br>model score.skops"]' in "\n".join(chart)
    image = ET.fromstring(invoke("graph", "app:bus", "--format", "svg").stdout)  # noqa: S314 - ours
    assert len(image.findall("{*}rect")) == len(found)
    assert len(image.findall("{*}path")) == edges
    assert "".join(image.itertext()).count("model score.skops") == 1


GRAPHS = st.integers(1, 7).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(0, size - 1).map(str), unique=True, max_size=3), min_size=size, max_size=size
    )
)


@given(GRAPHS)
def test_a_layer_is_behind_those_that_lead_to_it_but_in_a_circle(targets: list[list[str]]) -> None:
    found = {str(n): Node("topic", str(n), to=to) for n, to in enumerate(targets)}
    placed = layers(found)
    assert sorted(key for layer in placed for key in layer) == sorted(found)
    assert all(placed)
    layer = {key: number for number, keys in enumerate(placed) for key in keys}

    def reaches(start: str, end: str) -> bool:
        seen, waiting = set[str](), [start]
        while waiting:
            seen.add(key := waiting.pop())
            waiting += [to for to in found[key].to if to not in seen]
        return end in seen

    for key, node in found.items():
        assert all(layer[to] > layer[key] for to in node.to if not reaches(to, key))


@given(GRAPHS)
def test_boxes_do_not_overlap(targets: list[list[str]]) -> None:
    found = {str(n): Node("topic", "n" * n, "x" * (n % 3), to) for n, to in enumerate(targets, 1)}
    found = {key: Node("topic", node.name, node.detail, [str(int(to) + 1) for to in node.to])
             for key, node in found.items()}  # fmt: skip
    image = ET.fromstring(draw_svg("g", found))  # noqa: S314 - ours
    rects = [
        [float(rect.attrib[name]) for name in ("x", "y", "width", "height")] for rect in image.iter("{*}rect")
    ]
    width, height = map(float, image.attrib["viewBox"].split()[2:])
    for number, (x, y, w, h) in enumerate(rects):
        assert x >= 0 <= y
        assert x + w <= width + 1
        assert y + h <= height + 1
        for x2, y2, w2, h2 in rects[number + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_are_text_in_each_drawing(hostile: str) -> None:
    found = {"a": Node("topic", hostile, hostile, ["b"]), "b": Node("predictor", hostile)}
    label = ET.fromstring(draw_svg(hostile, found)).find("{*}text")  # noqa: S314 - ours
    assert label is not None
    assert (label.text or "").isprintable()
    first, *_ = draw_mermaid(found).splitlines()[1:]
    assert re.fullmatch(r'  n0\(\["[^"<>\[\];]*((#\d+;)|[^"<>\[\];])*<br>[^"<>\[\]]*"\]\)', first)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(draw_tree(hostile, found))
    assert all(line.isprintable() for line in shown.get().splitlines())


def test_the_picture_of_the_rides_example_is_current() -> None:
    """`eventml graph examples.rides.app:bus --format svg > docs/graph.svg` draws it."""
    rides.configure(rides.read_settings({"backend": "memory://"}))
    assert (ROOT / "docs" / "graph.svg").read_text() == draw_svg(rides.name, topology(rides)) + "\n"
