"""The pages of decisions and of comparisons: each figure is one of the page that it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

DOCS = Path(__file__).parents[2] / "docs"
COMPARING = sorted([*(DOCS / "decisions").glob("*.md"), *(DOCS / "coming-from").glob("*.md")])
FIGURE = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!,?\d)")
DESIGN: Final = {"3,000", "6,000", "130,000", "150,000"}
"""Measured for the design, on Redis 7.0, and on no other page: the fence of completions, a full server."""


@pytest.mark.parametrize("page", COMPARING, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_large_figure_is_on_the_page_that_it_comes_from(page: Path) -> None:
    """A figure that is measured anew has to change here, too."""
    text = page.read_text("utf-8")
    linked = {(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#:]+\.md)", text)}
    sources = "".join(other.read_text("utf-8") for other in linked if other.parent != page.parent)
    assert set(FIGURE.findall(text)) <= set(FIGURE.findall(sources)) | DESIGN


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_of_a_decision_says_why_and_what_it_costs(page: Path) -> None:
    text = page.read_text("utf-8")
    if page.stem == "index":
        listed = set(re.findall(r"\]\((\w[\w-]*)\.md\)", text))
        assert listed == {other.stem for other in page.parent.glob("*.md")} - {"index"}
        return
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == ["Why", "What it costs", "What would change it"]
    assert "\n**Decision.** " in text
    assert len(text.splitlines()) < 60
