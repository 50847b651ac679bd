"""`eventml init`: write a project that runs at once, from the templates of the package."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Final

import typer

from eventml.cli.output import UsageError, print_text

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

DEPLOYMENTS: Final = ("docker", "kubernetes")
"""What `--with` may name: folders of templates beside that of the project."""

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_MAX_NAME: Final = 40  # a label of Kubernetes has 63 characters, and a suffix follows the name
_FILES: Final = {"data", "docker", "kubernetes", "models", "simulate", "tests", "train", "wheels"}
"""Names of the project's own files and folders: git ignores some of them, and images lack some."""

_NEEDED: Final = {
    "pandas",
    "prometheus_client",
    "pytest",
    "redis",
    "skops",
    "sklearn",
    "starlette",
    "uvicorn",
}
"""Modules that the project installs. This Python may have none of them."""

_SUFFIX: Final = ".tmpl"
_README_PART: Final = "README.part"


def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the project, its folder and its Python package.")
    ],
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="docker,kubernetes",
            help="Write deployment files too. Repeat it for more, or divide names by commas.",
        ),
    ] = None,
) -> None:
    """Write a project that runs at once: an app, its training, a test, settings and a README."""
    deployments = [part for names in with_ or () for part in names.split(",")]
    write_project(Path(name), name, deployments)
    tests = "  pip install -r requirements-dev.txt\n  python train.py\n  python -m pytest -q"
    print_text(f"{name}/ is written. Next:\n  cd {name}\n{tests}\n  eventml check {name}.app:bus")
    print_text(f"  python simulate.py\n{name}/README.md has the rest.")


def write_project(folder: Path, name: str, deployments: Sequence[str] = ()) -> None:
    """Write the project `name` to a folder, which must not exist.

    Raises:
        UsageError: the name cannot be that of a package, a deployment is unknown, or the folder exists
            or cannot be written.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists: nothing is overwritten; choose another name")
    check_name(name)
    if unknown := set(deployments) - set(DEPLOYMENTS):
        raise UsageError(f"--with {min(unknown)}: unknown; there are {' and '.join(DEPLOYMENTS)}")
    values = {
        "name": name,
        "slug": name.replace("_", "-"),
        "version": version("eventml"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "deploying": "",
    }
    rendered: dict[str, str] = {}
    for part in (*(one for one in DEPLOYMENTS if one in deployments), "project"):  # the README is the last
        for path, text in _templates(files("eventml") / "templates" / part):
            rendered[path.replace("NAME", name)] = Template(text).substitute(values)
        values["deploying"] += rendered.pop(_README_PART, "")
    try:
        folder.mkdir()
        for path, text in rendered.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{folder} cannot be written: {exc.strerror}") from exc


def check_name(name: str) -> None:
    """Check that a project may have this name.

    Raises:
        UsageError: it is no name of a package; or the package would hide a module of this name, or be in a
            folder that is something else in the project.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise UsageError(
            f"{name!r} cannot name a Python package: use lower-case letters, digits and single underscores, "
            f"beginning with a letter, {_MAX_NAME} characters at most, as in ride_times"
        )
    if keyword.iskeyword(name) or name in _FILES | _NEEDED or importlib.util.find_spec(name) is not None:
        raise UsageError(
            f"{name!r} is a word or a module of Python already, or a file of the project: choose another name"
        )


def _templates(folder: Traversable, parents: str = "") -> Iterator[tuple[str, str]]:
    """The path of each file to write, and its template."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, f"{parents}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            name = entry.name.removesuffix(_SUFFIX)
            name = name.removeprefix("dot") if name.startswith("dot.") else name
            yield f"{parents}{name}", entry.read_text(encoding="utf-8")
