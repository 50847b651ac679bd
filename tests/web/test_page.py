"""`/docs` in a real browser: it loads under its content security policy, and calls the service."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from examples.rides.generator import generate
from examples.rides.train import train
from tests.brokers import browser_programs
from tests.web.conftest import TOKEN

selenium = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.chrome.service import Service  # noqa: E402 - it comes with the extra dev
from selenium.webdriver.common.by import By  # noqa: E402 - as above
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402 - as above

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.web.conftest import Serve

WAIT = 20
SWAGGER_UI = {  # SHA-256 of the files of swagger-ui-dist 5.35.0, as npm has them
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


@pytest.mark.parametrize("name", SWAGGER_UI)
def test_the_files_of_swagger_ui_are_unchanged(name: str) -> None:
    file = files("eventml.deploy.web") / "swagger_ui" / name
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SWAGGER_UI[name]


@pytest.fixture
def browser() -> Iterator[Any]:
    chromium, driver = browser_programs()
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    opened = selenium.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def operation(browser: Any, path: str) -> Any:
    """The block of a path in Swagger UI, when it is there."""
    button = ".//button[contains(@class, 'execute')]"
    found = f"//*[contains(@class, 'opblock ')][.//*[@data-path='{path}']][{button}]"
    return WebDriverWait(browser, WAIT).until(lambda page: page.find_element(By.XPATH, found), path)


def execute(browser: Any, path: str) -> tuple[str, str]:
    """Click "Execute" of a path, and return the status and the text of the answer."""
    block = operation(browser, path)
    browser.execute_script("arguments[0].click()", block.find_element(By.CSS_SELECTOR, ".execute"))
    answer = ".live-responses-table .response"
    WebDriverWait(browser, WAIT).until(lambda _: block.find_elements(By.CSS_SELECTOR, answer))
    row = block.find_element(By.CSS_SELECTOR, answer)
    return row.find_element(By.CSS_SELECTOR, ".response-col_status").text.split()[0], row.text


def test_the_page_calls_the_service(serve: Serve, browser: Any) -> None:
    server = serve(env={"EVENTML_TOKEN": TOKEN})
    browser.get(f"http://127.0.0.1:{server.port}/docs/")
    token = browser.find_element(By.CSS_SELECTOR, "form input")
    WebDriverWait(browser, WAIT).until(lambda _: token.is_displayed())
    token.send_keys(TOKEN)
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    status, answer = execute(browser, "/predict/double")
    assert status == "200"
    assert '"version": "1"' in answer
    assert "server-timing: predict;dur=" in answer
    assert "Request duration" in answer
    assert not token.is_displayed()
    assert not [line for line in browser.get_log("browser") if "401" not in line["message"]]


@pytest.mark.parametrize("predictor", ["ride", "trip", "moment", "thing"])
def test_the_example_of_each_type_is_answered(serve: Serve, browser: Any, predictor: str) -> None:
    """The first thing that a visitor does is to send it."""
    server = serve(app="times:bus")
    browser.get(f"http://127.0.0.1:{server.port}/")
    status, answer = execute(browser, f"/predict/{predictor}")
    assert status == "200", answer
    assert not browser.get_log("browser")


def test_the_first_prediction_of_the_flagship_example(tmp_path: Path, serve: Serve, browser: Any) -> None:
    train(generate(2_000), tmp_path, trained_on="a test")
    server = serve(app="examples.rides.app:bus", env={"RIDES_MODELS": str(tmp_path)})
    browser.get(f"http://127.0.0.1:{server.port}/")
    status, answer = execute(browser, "/predict/duration")
    assert status == "200", answer
    assert '"minutes": ' in answer
