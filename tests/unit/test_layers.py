"""The structure of the source: layers, faces, circles of imports, sizes of files, docstrings.

    cli ─► deploy ─► testing ─► bus ─┬► producer ─► runtime ─► handlers ─┬► codec, models, frames ─► records
                                     └► config ──────────────────────────┴► handler_options
    backends/<broker> ─► backends/base ─► records, errors

Imports point to the right only. A broker's module is not imported, because configuration finds it by its
entry point; `testing`, which runs on the in-memory backend, is the exception. TYPE_CHECKING imports count.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SOURCE: Final = Path(__file__).parents[2] / "src" / "eventml"

BROKERS: Final = {"backends.memory", "backends.redis", "backends.kafka"}
LAYERS: Final = [
    {"errors", "printable", "loopback"},
    {"entry_points", "records", "event_types", "event_examples", "signatures", "times"},
    {"backends.base", "codec", "models", "frames"},
    {"handler_options", *BROKERS},
    {"handlers"},
    {"runtime"},
    {"producer", "config"},
    {"bus"},
    {"eventml", "testing"},
    {"deploy", "deploy.workers"},
    {"deploy.web", "deploy.batch", "deploy.console", "deploy.doctor"},
    {"deploy.comparison"},
    {"batch"},
    {"cli"},
    {"__main__"},
]
RANK: Final = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
KNOWS: Final = {
    "config": {"backends.base", "codec", "entry_points", "errors", "handler_options", "times"},
    **{broker: {"backends.base", "records", "errors", "loopback"} for broker in BROKERS},
}
"""Parts that may import these parts only; the others may import everything below them."""

FACES: Final = {
    "eventml.bus",
    "eventml.config",
    "eventml.deploy.batch",
    "eventml.deploy.comparison",
    "eventml.deploy.console",
    "eventml.deploy.doctor",
    "eventml.deploy.web",
    "eventml.deploy.workers",
    "eventml.frames",
    "eventml.models",
    "eventml.producer",
    "eventml.runtime",
    "eventml.testing",
}
"""Packages of which other packages import the `__init__` only."""

_EXTRAS: Final = """
redis hiredis aiokafka sklearn scipy skops numpy onnxruntime starlette uvicorn opentelemetry sqlalchemy
pyarrow pandas polars typer rich jinja2 pytest trio
"""
EXTRAS: Final = set(_EXTRAS.split())
"""Packages that only extras, the commands and the tests need."""

MAX_FILES, MAX_LINES, MAX_FILE, MIN_FILE = 222, 38_370, 350, 40


class Import(NamedTuple):
    """An import of one of our modules."""

    line: int
    name: str
    lazy: bool
    """Whether it is inside a function."""


def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        module = ".".join(("eventml", *path.relative_to(SOURCE).with_suffix("").parts))
        found[module.removesuffix(".__init__")] = path
    return found


MODULES: Final = modules()
TEXTS: Final = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
TREES: Final = {module: ast.parse(text) for module, text in TEXTS.items()}


def part_of(module: str) -> str:
    """`eventml.backends.redis.wire` is in the part `backends.redis`, `eventml.runtime.stats` in `runtime`."""
    names = module.split(".")
    if names[1:2] in (["backends"], ["deploy"]) and len(names) > 2:
        part = ".".join(names[1:3])
        return part if part in RANK or names[1] == "backends" else names[1]
    return names[1] if len(names) > 1 else "eventml"


def imports(module: str) -> Iterator[Import]:
    """Every import of our modules in a module, anywhere in it."""
    functions = [n for n in ast.walk(TREES[module]) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[module]}:{node.lineno}: import from the full module name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = sorted({name if name in MODULES else str(node.module) for name in inner})
        else:
            continue
        yield from (
            Import(node.lineno, name, id(node) in lazy) for name in names if name.split(".")[0] == "eventml"
        )


IMPORTS: Final = {module: list(imports(module)) for module in MODULES}


def report(check: str, offenders: Iterable[tuple[str, str]]) -> None:
    """Fail with all offenders, each a module and a message."""
    lines = [f"{module.replace('.', '/')}: {message}" for module, message in sorted(offenders)]
    assert not lines, f"{check}:\n" + "\n".join(lines)


# Layers and faces


def objection(part: str, imported: str) -> str | None:
    """Why one part may not import another; None if it may."""
    if imported in BROKERS and (part, imported) != ("testing", "backends.memory"):
        return f"{imported} is found by its entry point, never imported"
    if part in KNOWS and imported not in KNOWS[part]:
        return f"{part} may import {', '.join(sorted(KNOWS[part]))}, and not {imported}"
    if RANK[imported] >= RANK[part]:
        return f"{imported} is not below {part}"
    return None


def test_every_part_has_a_layer() -> None:
    parts = {part_of(module) for module, text in TEXTS.items() if text.strip()}
    assert parts - {"backends", "deploy"} == set(RANK) - {"deploy"}


def test_imports_point_one_way() -> None:
    report(
        "layers",
        (
            (module, f"line {line}: {why}")
            for module in MODULES
            for line, name, _ in IMPORTS[module]
            if part_of(name) != part_of(module) and (why := objection(part_of(module), part_of(name)))
        ),
    )


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
        ("config", "runtime"),
        ("handlers", "config"),
        ("records", "backends.base"),
        ("bus", "deploy.web"),
        ("bus", "eventml"),
        ("runtime", "bus"),
        ("deploy.workers", "deploy.web"),
        ("deploy.web", "cli"),
    ],
)
def test_an_import_in_the_wrong_direction_is_reported(part: str, imported: str) -> None:
    assert objection(part, imported)


def test_other_packages_import_a_face_only() -> None:
    def face_of(name: str) -> str | None:
        return next((face for face in FACES if name.startswith(f"{face}.")), None)

    report(
        "faces",
        (
            (module, f"line {line}: import from {face}, not from {name}")
            for module in MODULES
            for line, name, _ in IMPORTS[module]
            if (face := face_of(name)) and not f"{module}.".startswith(f"{face}.")
        ),
    )


def test_modules_that_need_an_extra_are_imported_inside_functions() -> None:
    """The core works without extras: those of its modules that import one are imported inside functions."""
    parts = {part for part, rank in RANK.items() if rank <= RANK["testing"]} - BROKERS
    core = {module for module in MODULES if part_of(module) in parts}
    need_extra = {
        module
        for module in core
        for node in TREES[module].body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and {str(getattr(node, "module", None) or node.names[0].name).split(".")[0]} & EXTRAS
    }
    assert need_extra, "this check finds no such module any more"
    report(
        "extras",
        (
            (module, f"line {line}: import {name} inside a function: it needs an extra")
            for module in core - need_extra
            for line, name, lazy in IMPORTS[module]
            if name in need_extra and not lazy
        ),
    )


# Circles


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_circle_of_imports() -> None:
    graph = {module: {i.name for i in IMPORTS[module] if i.name in MODULES} - {module} for module in MODULES}
    report("circles", ((one[0], f"circle of {', '.join(one)}") for one in circles(graph)))


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert circles(graph) == [["b", "c"]]


# Sizes


def test_sizes_of_files() -> None:
    lines = {module: text.count("\n") for module, text in TEXTS.items()}
    total = sum(lines.values())
    totals = [
        ("total", f"{count} {unit}, at most {limit}")
        for unit, count, limit in (("files", len(lines), MAX_FILES), ("lines", total, MAX_LINES))
        if count > limit
    ]
    small = {"__init__.py", "__main__.py"}
    report(
        "sizes",
        [
            *totals,
            *((m, f"{n} lines, at most {MAX_FILE}") for m, n in lines.items() if n > MAX_FILE),
            *(
                (m, f"{n} lines, at least {MIN_FILE}")
                for m, n in lines.items()
                if n < MIN_FILE and MODULES[m].name not in small
            ),
        ],
    )


# Public names and docstrings


def test_every_name_in_all_exists() -> None:
    offenders = []
    for module, tree in TREES.items():
        exported = {
            str(constant.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for constant in ast.walk(node.value)
            if isinstance(constant, ast.Constant)
        }
        defined = {str(name) for node in ast.walk(tree) for name in _names(node)}
        offenders += [(module, f"__all__ has {name}, which is not defined") for name in exported - defined]
    report("__all__", offenders)


def _names(node: ast.AST) -> Iterator[str | None]:
    if isinstance(node, ast.ImportFrom | ast.Import):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id


def public_definitions(
    body: list[ast.stmt], prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """The public functions, classes and methods of a module or class, with their dotted names."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from public_definitions(node.body, prefix)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_"):
                continue
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def protocol_methods() -> set[str]:
    """Names of methods that a protocol of ours documents: their implementations need no docstring."""
    return {
        method.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(method)
    }


def test_every_public_definition_has_a_docstring() -> None:
    documented = protocol_methods()
    offenders = [(module, "no module docstring") for module, tree in TREES.items() if not _documented(tree)]
    for module, tree in TREES.items():
        if module.rpartition(".")[2].startswith("_") and not module.endswith("__main__"):
            continue
        for name, node in public_definitions(tree.body):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if "overload" in decorators or any(d.endswith(".setter") for d in decorators):
                continue
            if "." in name and node.name in documented and not isinstance(node, ast.ClassDef):
                continue
            if not _documented(node):
                offenders.append((module, f"line {node.lineno}: {name} has no docstring"))
    report("docstrings", offenders)


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node) is not None or (isinstance(node, ast.Module) and not node.body)
