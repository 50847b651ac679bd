"""`eventml graph`: the topology of a bus, as text, Mermaid, SVG or JSON."""

# No `from __future__ import annotations` here: typer reads the annotations at run time.
from collections.abc import Mapping
from html import escape
from pathlib import Path
from re import sub
from statistics import fmean
from string import Template
from typing import Annotated, Final, Literal

import typer
from rich.cells import cell_len
from rich.text import Text
from rich.tree import Tree

from eventml.cli.buses import BackendOption, BusArgument, load_bus
from eventml.cli.output import JsonOption, print_json, print_styled, print_text
from eventml.deploy.console import Node, layers, topology
from eventml.printable import printable

_CHAR: Final = 7.3  # pixels, of 12 px monospace
_LINE: Final = 17
_GAP: Final = 46  # between layers
_PAD: Final = 12  # within a node, and between two
_SVG: Final = Path(__file__).with_name("graph.svg")


def graph(
    bus: BusArgument,
    backend: BackendOption = None,
    form: Annotated[Literal["text", "mermaid", "svg"], typer.Option("--format", help="The format.")] = "text",
    as_json: JsonOption = False,
) -> None:
    """Draw the topology of a bus: its topics and handlers.

    A topic has the type of its events, a predictor its model. A topic that no handler writes has `producers`.
    Nothing is connected, and no model is loaded.
    """
    app = load_bus(bus, backend)
    nodes = topology(app)
    if as_json:
        print_json({"bus": app.name, "nodes": nodes})
    elif form == "text":
        print_styled(draw_tree(app.name, nodes))
    else:
        print_text(draw_mermaid(nodes) if form == "mermaid" else draw_svg(app.name, nodes))


def draw_tree(name: str, nodes: Mapping[str, Node]) -> Tree:
    """Return a tree for a terminal. Below a node that occurs again nothing is repeated."""
    root, drawn = Tree(Text(printable(name))), set[str]()

    def add(tree: Tree, key: str) -> None:
        title, *detail = nodes[key].lines
        more = [] if key.startswith(("topic", "producers")) else [f"({nodes[key].kind})"]
        targets = nodes[key].to if key not in drawn else []
        more += detail if targets or not nodes[key].to else ["(see above)"]
        drawn.add(key)
        branch = tree.add(Text.assemble(title, ("".join(f"  {text}" for text in more), "dim")))
        for target in targets:
            add(branch, target)

    for key in nodes:
        if key not in drawn:  # not reached yet: only a cycle of handlers
            add(root, key)
    return root


def draw_mermaid(nodes: Mapping[str, Node]) -> str:
    """Return a flow chart in the language of Mermaid."""
    ids, lines = {key: f"n{number}" for number, key in enumerate(nodes)}, ["flowchart LR"]
    for key, node in nodes.items():
        label = "<br>".join(sub(r"[^\w .,:/()|-]", lambda c: f"#{ord(c[0])};", line) for line in node.lines)
        left, right = ("[", "]") if key.startswith("handler") else ("([", "])")
        lines.append(f'  {ids[key]}{left}"{label}"{right}')
        lines += [f"  {ids[key]} {'-.->' if to.startswith('dead') else '-->'} {ids[to]}" for to in node.to]
    return "\n".join(lines)


def draw_svg(title: str, nodes: Mapping[str, Node]) -> str:
    """Return an image: layers from left to right, the nodes of each in the order of their predecessors."""
    heights, columns = {key: len(node.lines) * _LINE + _PAD for key, node in nodes.items()}, layers(nodes)
    height = max(sum(heights[key] + _PAD for key in column) for column in columns) + _PAD
    boxes, drawn, x = dict[str, tuple[float, float, float]](), list[str](), float(_PAD)  # x, middle, width

    def place(key: str) -> tuple[float, bool]:
        before = [boxes[one][1] for one in boxes if key in nodes[one].to]
        return fmean(before or [0]), nodes[key].kind == "dead letters"

    for column in columns:
        width = max(cell_len(line) for key in column for line in nodes[key].lines) * _CHAR + 2 * _PAD
        y = (height - sum(heights[key] + _PAD for key in column) + _PAD) / 2
        for key in sorted(column, key=place):
            boxes[key] = x, y + heights[key] / 2, width
            size = f'y="{y:.0f}" width="{width:.0f}" height="{heights[key]}" rx="6"'
            drawn.append(f'<rect class="{nodes[key].kind}" x="{x:.0f}" {size}/>')
            for number, line in enumerate(nodes[key].lines):
                style, at = ' class="detail"' if number else "", f"{y + _LINE * (number + 1) + 1:.0f}"
                drawn.append(f'<text{style} x="{x + _PAD:.0f}" y="{at}">{escape(line)}</text>')
            y += heights[key] + _PAD
        x += width + _GAP
    for key, (left, y1, width) in boxes.items():
        for x2, y2, _ in map(boxes.__getitem__, nodes[key].to):
            x1, half = left + width, _GAP / 2
            curve = f"C{x1 + half:.0f} {y1:.0f} {x2 - half:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
            drawn.append(f'<path d="M{x1:.0f} {y1:.0f}{curve}"/>')
    texts = {"title": escape(printable(title)), "drawn": "\n".join(drawn), "width": round(x - _GAP + _PAD)}
    return Template(_SVG.read_text().rstrip()).substitute(texts, height=height)
