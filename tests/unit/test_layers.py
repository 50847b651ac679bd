"""Imports point one way: from what is nearer to the user to what is nearer to the wire.

    cli ─► deploy ─► topics, testing ─► bus ─┬► producer ─► runtime ─► handlers ─► codec, models, frames ─┐
                                             └► config ──────────────► backends/base ◄────────────┘
    backends/<broker> ─► backends/base ─► records, errors

A broker's module is imported by nobody: configuration finds it by its entry point. The one exception
is `testing`, which runs on the in-memory one. Imports for type checkers count like any other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = Path(__file__).parents[2] / "src" / "eventml"

BROKERS: Final = {"backends.memory", "backends.redis", "backends.kafka"}
LAYERS: Final = [
    {"errors"},
    {"records"},
    {"backends.base", "codec", "models", "frames"},
    {"handlers", *BROKERS},
    {"runtime"},
    {"producer", "config"},
    {"bus"},
    {"eventml", "topics", "testing"},
    {"deploy"},
    {"cli"},
    {"__main__"},
]
RANK: Final = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
UPWARDS: Final = {("bus", "deploy"): "deploy.web."}
"""The one import that points the other way, within a function: `Bus.asgi` is where a user looks for it."""

KNOWS: Final = {
    "config": {"backends.base", "errors"},
    **{broker: {"backends.base", "records", "errors"} for broker in BROKERS},
}
"""Of some parts all that they may import; of the others, all that lies below."""


def objection(part: str, imported: str) -> str | None:
    """Why one part may not import another; None if it may."""
    if imported in BROKERS and (part, imported) != ("testing", "backends.memory"):
        return f"{imported} is found by its entry point, never imported"
    if part in KNOWS and imported not in KNOWS[part]:
        return f"{part} knows {', '.join(sorted(KNOWS[part]))}, and nothing of {imported}"
    if RANK[imported] >= RANK[part]:
        return f"{imported} does not lie below {part}"
    return None


def part_of(module: str) -> str:
    """`eventml.backends.redis.wire` is of `backends.redis`, `eventml.runtime.stats` of `runtime`."""
    names = module.split(".")
    if names[1:2] == ["backends"] and len(names) > 2:
        return ".".join(names[1:3])
    return names[1] if len(names) > 1 else "eventml"


def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        module = ".".join(("eventml", *path.relative_to(SOURCE).with_suffix("").parts))
        found[module.removesuffix(".__init__")] = path
    return found


MODULES: Final = modules()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module of ours that a file imports, anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports name the whole module"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "eventml")


def test_every_part_has_its_layer() -> None:
    parts = {part_of(module) for module, path in MODULES.items() if path.read_text(encoding="utf-8").strip()}
    assert parts - {"backends"} == set(RANK)


def test_imports_point_one_way() -> None:
    objections = [
        f"{path}:{line}: {why}"
        for module, path in sorted(MODULES.items())
        for line, name in imports(path)
        if part_of(name) != part_of(module)
        and not name.startswith(f"eventml.{UPWARDS.get((part_of(module), part_of(name)), chr(0))}")
        and (why := objection(part_of(module), part_of(name)))
    ]
    assert not objections, "\n".join(objections)


@pytest.mark.parametrize(
    ("part", "imported"),
    [
        ("backends.redis", "bus"),
        ("backends.redis", "runtime"),
        ("backends.redis", "codec"),
        ("backends.redis", "backends.kafka"),
        ("runtime", "backends.memory"),
        ("runtime", "config"),
        ("config", "backends.redis"),
        ("config", "handlers"),
        ("records", "backends.base"),
        ("bus", "deploy"),
        ("bus", "eventml"),
        ("runtime", "bus"),
        ("deploy", "cli"),
    ],
)
def test_the_wrong_way_is_seen(part: str, imported: str) -> None:
    assert objection(part, imported)


def test_the_core_needs_two_packages_only() -> None:
    """`import eventml` loads anyio and msgspec, and nothing of what comes with an extra."""
    extras = ["redis", "hiredis", "aiokafka", "sklearn", "skops", "numpy", "onnxruntime", "starlette"]
    extras += ["uvicorn", "opentelemetry", "sqlalchemy", "pyarrow", "pandas", "polars", "typer", "rich"]
    extras += ["pytest", "trio"]
    code = f"import sys, eventml, eventml.testing; print(*(set({extras}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert loaded.stdout.split() == []
