"""The HTML report: it loads nothing else, and escapes text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.monitoring.alarms import drifted
from examples.monitoring.drift import drifts
from examples.monitoring.profiles import counted, profile
from examples.monitoring.report import Report, Truth, render, worst, write

HOSTILE = "</title><script>alert(1)</script>$x^2$&"


def full_report(**changes: Any) -> Report:
    random = np.random.default_rng(0)
    then = profile({HOSTILE: random.normal(size=2_000), "plan": random.choice([HOSTILE, "b"], 2_000)})
    found = drifts(then, counted(then, {HOSTILE: random.normal(2, size=500), "plan": [HOSTILE] * 500}))
    predicted, actual = random.gamma(4, 4, 500), random.gamma(4, 4, 500)
    fields = {
        "title": HOSTILE,
        "facts": {HOSTILE: HOSTILE},
        "predictions": predicted,
        "unit": HOSTILE,
        "reference": random.gamma(4, 3, 2_000),
        "drifts": found,
        "crossings": drifted(found),
        "truth": Truth(
            rows=worst({HOSTILE: [HOSTILE] * 500}, predicted, actual),
            facts={HOSTILE: HOSTILE},
            predicted=predicted,
            actual=actual,
        ),
    }
    return Report(**{**fields, **changes})


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_hostile_text_is_escaped_and_no_script_runs() -> None:
    page = Page(render(full_report()))
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.texts.count(HOSTILE) > 10


def test_page_loads_nothing_else() -> None:
    text = render(full_report())
    page = Page(text)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    for name, value in page.attributes:
        if name in {"href", "src", "xlink:href"}:
            assert value.startswith("#"), value
    assert "@import" not in text
    assert not [url for url in re.findall(r"url\(([^)]*)\)", text) if not url.startswith("#")]


def test_plots_are_complete_svg_elements() -> None:
    plots = re.findall(r"<svg.*?</svg>", render(full_report()), re.DOTALL)
    assert len(plots) == 5  # distribution, indices, two features, outcome
    for plot in plots:
        ET.fromstring(plot)  # noqa: S314 - our own


@pytest.mark.parametrize(
    "changes",
    [
        {"predictions": np.array([]), "reference": np.array([])},
        {"predictions": np.array([0.5]), "reference": np.array([])},
        {"predictions": np.full(9, 0.5)},
        {"drifts": [], "crossings": [], "truth": None},
        {"truth": Truth(rows=[], facts={}, predicted=np.array([]), actual=np.array([]))},
        {"truth": Truth(rows=[], facts={}, predicted=np.array([0.0, 1.0]), actual=np.array([0.0, 1.0]))},
    ],
)
def test_page_of_little_data_is_rendered(changes: dict[str, Any]) -> None:
    page = Page(render(full_report(**changes)))
    assert {"No alarm", "Alarm"} & set(page.texts)


def test_write_creates_the_folder(tmp_path: Path) -> None:
    written = write(full_report(), tmp_path / "a" / "b" / "report.html")
    assert written.read_text(encoding="utf-8").startswith("<!doctype html>")


@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9) | st.just(float("nan")))),
    st.integers(1, 12),
)
def test_worst_rows_have_the_largest_errors(pairs: list[tuple[float, float]], count: int) -> None:
    predicted, actual = (np.array([pair[side] for pair in pairs], float) for side in (0, 1))
    rows = worst({"row": range(len(pairs))}, predicted, actual, count)
    errors = sorted((abs(a - b) for a, b in pairs if b == b), reverse=True)  # noqa: PLR0124 - NaN
    assert [row["error"] for row in rows] == errors[:count]
    assert all(row["error"] == abs(pairs[row["row"]][0] - pairs[row["row"]][1]) for row in rows)
