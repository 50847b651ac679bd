"""Fixtures of the examples' tests: a real browser, and models that are trained once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from examples.rides.folder import ENVIRONMENT
from examples.rides.generator import generate
from examples.rides.train import train
from tests.brokers import browser_programs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1100,800",
)


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415 - see the line above

    browser, driver = browser_programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    yield chromium
    chromium.quit()


@pytest.fixture
def browser(_chromium: Any) -> Iterator[Any]:
    """Headless Chromium on an empty page. A test must leave no error on its console."""
    _chromium.get("about:blank")
    _chromium.get_log("browser")
    yield _chromium
    _chromium.get("about:blank")


@pytest.fixture(scope="session")
def rides_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models of the rides, trained on few."""
    folder = tmp_path_factory.mktemp("rides-models")
    train(generate(5_000), folder, trained_on="a test")
    return folder


@pytest.fixture
def with_models(rides_models: Path) -> dict[str, str]:
    """The environment of a process that is to find them."""
    return {**os.environ, ENVIRONMENT: str(rides_models)}
