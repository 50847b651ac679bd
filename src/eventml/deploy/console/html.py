"""HTML without injection: texts are escaped unless they are HTML already, and made printable."""

from __future__ import annotations

import re
from datetime import timedelta
from html import escape
from itertools import count as naturals
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

from eventml.deploy.console.numbers import format_seconds
from eventml.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FOLDER: Final = Path(__file__).parent / "assets"

_PAGE: Final = Template((FOLDER / "page.html").read_text(encoding="utf-8"))
_PARTS: Final = {
    name: text.strip()
    for name, text in re.findall(
        r"<!-- (.+) -->\n((?:(?!<!-- ).*\n)*)", (FOLDER / "parts.html").read_text(encoding="utf-8")
    )
}
_NAVIGATION: Final = {
    "./": "Overview",
    "dead-letters": "Dead letters",
    "models": "Models",
    "tail": "Live tail",
    "try": "Try it",
}


class Html(str):
    """Text that is HTML: it is not escaped again."""

    __slots__ = ()


def part(name: str, /, **values: object) -> Html:
    """Return a part of `assets/parts.html` with values in its places.

    A value that is neither `Html` nor a number is escaped, for a text or an attribute in double quotes; of a
    list each item.
    """
    return Html(_PARTS[name].format(**{name: _safe(value) for name, value in values.items()}))


def _safe(value: object, keep: str = "") -> Any:
    if isinstance(value, Html | int | float):
        return value
    if isinstance(value, list | tuple):
        return "".join(str(_safe(one)) for one in value)
    return escape(printable(str(value), keep))


def lines(text: str) -> Html:
    """Return text of several lines, for an element that keeps them."""
    return Html(_safe(text, keep="\n\t"))


def page(bus: str, here: str, content: Html) -> bytes:
    """Return a whole page of a bus; `here` is its path, one of the navigation."""
    links = [
        part("link", path=path, name=name, current=Html(' aria-current="page"') if path == here else "")
        for path, name in _NAVIGATION.items()
    ]
    return _PAGE.substitute(
        title=_NAVIGATION[here], bus=_safe(bus), links=_safe(links), content=content
    ).encode()


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], text: int = 1) -> Html:
    """Return a table whose first cells are headers of their rows; the columns from `text` on are numbers."""

    def cells(tag: str, start: int, contents: Iterable[object]) -> Html:
        kinds = (Html(' class="number"') if n >= text else "" for n in naturals(start))
        made = (part("cell", kind=kind, content=one) for kind, one in zip(kinds, contents, strict=False))
        return Html("".join(f"<{tag}{one}</{tag[:2]}>" for one in made))

    body = [
        Html(f"<tr>{cells('th scope=row', 0, [first])}{cells('td', 1, others)}</tr>")
        for first, *others in rows
    ]
    return part("table", caption=caption, head=cells("th scope=col", 0, columns), body=body)


def count(number: float | None) -> str:
    """Return a number for people: without fractions from ten on; "?" if it is not known."""
    if number is None:
        return "?"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:,.1f}"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """Return a time: "25ms", "1.5s", "2 days, 3:04:05"."""
    return format_seconds(seconds) if seconds < 60 else str(timedelta(seconds=int(seconds)))  # noqa: PLR2004
