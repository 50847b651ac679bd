"""The site that `make docs` builds: its links lead somewhere, and it loads nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import eventml
import eventml.testing

ROOT = Path(__file__).parents[2]
LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
"""Elements that load what an attribute names."""


class Page(HTMLParser):
    """What a page loads, where it leads to, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.classes |= set(values.get("class", "").split())
        if tag in LOADED and LOADED[tag] in values:
            self.loads.append(values[LOADED[tag]])
        if tag == "link" and values.get("rel") not in {"prev", "next", "canonical"}:
            self.loads.append(values["href"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "docs"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file.read_text("utf-8")) for file in site.rglob("*.html") if file.name != "404.html"}


def test_no_page_loads_anything_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    elsewhere = [
        f"{file.relative_to(site)}: {url}"
        for file, page in pages.items()
        for url in page.loads
        if urlsplit(url).scheme not in {"", "data"} or url.startswith("//")
    ]
    assert not elsewhere
    for style in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        assert not re.findall(r"(?:url\(|@import )\s*['\"]?(?:https?:)?//", style.read_text("utf-8")), style
    # The theme's script would load these from a CDN or ask GitHub, where a page has an element for it.
    assert not {"mermaid", "arithmatex", "md-source"} & set().union(
        *(page.classes for page in pages.values())
    )


def test_every_link_and_every_picture_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for file, page in pages.items():
        for url in [*page.links, *page.loads]:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else None
            if not target.is_file() or (parts.fragment and known is not None and parts.fragment not in known):
                broken.append(f"{file.relative_to(site)}: {url}")
    assert not broken


def test_every_page_is_in_the_navigation_once() -> None:
    def files(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [
            file for inner in (entry.values() if isinstance(entry, dict) else entry) for file in files(inner)
        ]

    text = re.sub(r"!!python/name:\S+", "", (ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = files(yaml.safe_load(text)["nav"])
    assert sorted(listed) == sorted(
        file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")
    )


def test_the_reference_has_every_public_name(site: Path, pages: dict[Path, Page]) -> None:
    for module, page in ((eventml, "eventml"), (eventml.testing, "testing")):
        anchors = pages[site / "reference" / page / "index.html"].anchors
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= anchors
    anchors = pages[site / "reference" / "backends-base" / "index.html"].anchors
    assert {
        f"eventml.backends.base.{name}" for name in ("Backend", "Subscription", "Capabilities")
    } <= anchors


def test_the_site_can_be_searched_and_has_a_dark_theme(site: Path) -> None:
    assert (
        "Natural batching" in (site / "search.json").read_text("utf-8")
        or (site / "search.json").stat().st_size
    )
    assert 'data-md-color-scheme="slate"' in (site / "index.html").read_text("utf-8")
