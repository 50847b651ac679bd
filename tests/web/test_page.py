"""`/docs` in a real browser: it loads under its content security policy, and calls the service."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.web.conftest import TOKEN

selenium = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.chrome.service import Service  # noqa: E402 - it comes with the extra dev
from selenium.webdriver.common.by import By  # noqa: E402 - as above
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402 - as above

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Serve

WAIT = 20


@pytest.fixture
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    opened = selenium.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def test_the_page_calls_the_service(serve: Serve, browser: Any) -> None:
    server = serve(env={"EVENTML_TOKEN": TOKEN})
    browser.get(f"http://127.0.0.1:{server.port}/docs")
    wait = WebDriverWait(browser, WAIT)
    wait.until(lambda page: "enter its token" in page.find_element(By.ID, "message").text)
    browser.find_element(By.ID, "token").send_keys(TOKEN)
    browser.find_element(By.ID, "load").click()
    wait.until(lambda page: page.find_elements(By.TAG_NAME, "section"))
    section = next(
        one for one in browser.find_elements(By.TAG_NAME, "section") if "/predict/double" in one.text
    )
    section.find_element(By.TAG_NAME, "button").click()
    answer = section.find_element(By.TAG_NAME, "pre")
    wait.until(lambda _: "prediction" in answer.text)
    assert answer.text.startswith("200")
    severe = [line for line in browser.get_log("browser") if "401" not in line["message"]]
    assert not severe


@pytest.mark.parametrize("predictor", ["ride", "trip", "moment", "thing"])
def test_the_example_of_each_type_is_answered(serve: Serve, browser: Any, predictor: str) -> None:
    """The first thing that a visitor does is to send it."""
    server = serve(app="times:bus")
    browser.get(f"http://127.0.0.1:{server.port}/")
    wait = WebDriverWait(browser, WAIT)
    wait.until(lambda page: page.find_elements(By.TAG_NAME, "section"))
    [section] = [
        one for one in browser.find_elements(By.TAG_NAME, "section") if f"/predict/{predictor}" in one.text
    ]
    section.find_element(By.TAG_NAME, "button").click()
    answer = section.find_element(By.TAG_NAME, "pre")
    wait.until(lambda _: len(answer.text) > len("…"))
    assert answer.text.startswith("200"), section.text
