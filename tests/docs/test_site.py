"""The site that `make docs` builds: its links lead somewhere, and it loads nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import eventml
import eventml.testing
from tests.brokers import browser_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    chromium, driver = browser_programs()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}"):
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=Service(driver)) as opened:
        yield opened


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    handler = partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Log nothing."""


def test_the_site_is_searched_in_a_dark_theme_without_a_request_to_elsewhere(
    address: str, browser: Any
) -> None:
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [dark]})
    browser.get(f"{address}/coming-from/loop/")
    wait = WebDriverWait(browser, 30)
    wait.until(
        lambda page: page.find_element(By.TAG_NAME, "body").get_attribute("data-md-color-scheme") == "slate"
    )
    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    wait.until(lambda page: page.switch_to.active_element.tag_name != "body")
    browser.switch_to.active_element.send_keys("bisecting")
    requested = []

    def found(page: Any) -> bool:
        """The first result is opened by Enter, once there is one."""
        requested.extend(
            page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        )
        page.switch_to.active_element.send_keys(Keys.ENTER)
        return "bisecting" in page.current_url

    wait.until(found)
    assert requested
    assert all(url.startswith(address) for url in requested)
