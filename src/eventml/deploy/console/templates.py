"""The templates of the pages, in `pages/`. They escape each text and make it printable, whatever is in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eventml.deploy.console import numbers
from eventml.deploy.console.records import format_time
from eventml.printable import cut, printable

if TYPE_CHECKING:
    from jinja2 import Environment

Content = tuple[str, dict[str, Any]]
"""The template of a page, and its values."""

TITLES: Final = {
    "/": "Overview",
    "/dead-letters": "Dead letters",
    "/models": "Models",
    "/tail": "Live tail",
    "/try": "Try it",
}
"""The pages of the navigation, by their paths."""


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - for the console only
    from markupsafe import Markup, escape  # noqa: PLC0415 - as above

    def shown(value: object) -> object:
        """A value as a page shows it. What is not HTML by now is escaped behind this."""
        return value if isinstance(value, Markup) else printable(str(value))

    def lines(text: str) -> Markup:
        """Text of several lines, for an element that keeps them."""
        return escape(printable(text, keep="\n\t"))

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "age": numbers.format_age,
        "bound": numbers.format_bound,
        "count": numbers.format_count,
        "cut": cut,
        "lines": lines,
        "memory": numbers.format_memory,
        "seconds": numbers.format_seconds,
        "time": lambda at: format_time(at) or "-",
    }
    made.globals |= {"titles": TITLES, "error": "", "who": ""}
    made.globals["ui"] = made.get_template("macros.html").module
    return made


def render(template: str, **values: Any) -> str:
    """Return a page, or a part of one, from a template of `pages/` and its values."""
    return _environment().get_template(f"{template}.html").render(values)


def render_blocks(template: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of a page that change, by their ids: the blocks of its template within `content`."""
    found = _environment().get_template(f"{template}.html")
    context = found.new_context(dict(values))
    return {name: "".join(block(context)) for name, block in found.blocks.items() if name != "content"}
