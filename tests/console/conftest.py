"""A service with its console, a browser, and dead letters as a service writes them."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import pytest

from backends.process import free_ports
from eventml import Record, config
from eventml.backends.base import CreatesTopics, NewTopic
from tests.brokers import browser_programs
from tests.deploy.service import Service

selenium = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.chrome.service import Service as Driver  # noqa: E402 - it comes with the extra dev
from selenium.webdriver.common.by import By  # noqa: E402 - as above
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402 - as above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eventml.backends.base import Backend

APPS = Path(__file__).with_name("apps")
TOKEN = "t0ken-of-the-tests"  # noqa: S105 - of the tests
WAIT = 30


class Serve(Protocol):
    """Start a service with a console."""

    def __call__(
        self, *options: str, url: str | None = None, env: dict[str, str] | None = None, command: str = "run"
    ) -> Service: ...


class Page:
    """A page of a console in a browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.base = ""

    def open(self, service: Service | str, path: str = "") -> None:
        """Open a page of the console of a service."""
        address = service if isinstance(service, str) else console_of(service)
        self.base = f"http://{address}/"
        self.driver.get(self.base + path)

    def resize(self, width: int, *, dark: bool = False) -> None:
        """Show the pages as on a screen of this width."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def log_in(self, name: str = "Ada") -> None:
        """Send the token on the page that asks for it."""
        self.driver.find_element(By.NAME, "token").send_keys(TOKEN)
        self.driver.find_element(By.NAME, "name").send_keys(name)
        self.click("Continue")

    def click(self, text: str, within: str = "") -> None:
        """Click a button or a link that begins with a text, within the element at an XPath."""
        at = f"{within}//*[self::button or self::a][starts-with(normalize-space(), '{text}')]"
        self.driver.execute_script("arguments[0].click()", self.driver.find_element(By.XPATH, at))
        self.until(lambda: self.driver.execute_script("return document.readyState === 'complete'"))

    @property
    def text(self) -> str:
        """The text of the page."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true."""
        try:
            WebDriverWait(self.driver, WAIT).until(lambda _: condition())
        except Exception as exc:
            raise AssertionError(f"{exc}\n{self.text}") from exc

    def until_shown(self, pattern: str) -> None:
        """Wait until a pattern is in the text of the page."""
        self.until(lambda: re.search(pattern, self.text))

    def problems(self) -> list[str]:
        """What the browser has logged: violations of the policy, errors of the script, missing files."""
        expected = ("status of 401", "net::ERR_", "status of 403")
        return [
            line["message"]
            for line in self.driver.get_log("browser")
            if not any(text in line["message"] for text in expected)
        ]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    chromium, driver = browser_programs()
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    opened = selenium.Chrome(options=options, service=Driver(driver))
    opened.set_page_load_timeout(60)
    yield opened
    opened.quit()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    page = Page(browser)
    page.resize(1280)
    yield page
    browser.delete_all_cookies()
    browser.get("about:blank")
    browser.get_log("browser")


@pytest.fixture
def name() -> str:
    """A name for the app that no other test uses."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    return next(free_ports())


@pytest.fixture
def serve(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Iterator[Serve]:
    """Start services, which are killed at the end of the test."""
    services: list[Service] = []

    def start(
        *options: str, url: str | None = None, env: dict[str, str] | None = None, command: str = "run"
    ) -> Service:
        backend = url or request.getfixturevalue("redis_server").url
        variables = {"APP": name, "EVENTML_BACKEND": backend, "EVENTML_TOKEN": TOKEN, **(env or {})}
        log = tmp_path / f"service-{len(services)}.log"
        options = (*options, "--operations", "0") if "--listen" not in options else options
        services.append(Service(log, *options, app="orders:bus", env=variables, command=command, apps=APPS))
        return services[-1]

    yield start
    for service in services:
        print(service.text)  # noqa: T201 - shown where the test fails
        service.kill()


def console_of(service: Service) -> str:
    """Host and port of the console of a service, once it is there."""
    service.until_logged("console: http://")
    found = re.search(r"console: http://([0-9.]+:\d+)/", service.text)
    assert found is not None
    return found[1]


def dead_letters(name: str, count: int, exceptions: Sequence[str], message: str = "no") -> list[Record]:
    """As many dead letters of the orders of an app, of each exception in turn."""
    topic, group, now = f"{name}.orders", f"{name}.risk", time.time()
    records = []
    for number in range(count):
        exception = exceptions[number % len(exceptions)]
        reason = {
            "topic": topic,
            "partition": "0",
            "offset": str(number),
            "group": group,
            "attempts": "1",
            "first-failure": f"{now:.3f}",
            "last-failure": f"{now + number / 1e3:.3f}",
            "exception": exception,
            "message": f"{exception}: {message}",
        }
        headers = {f"eventml-dlq-{key}": text for key, text in reason.items()}
        value = b'{"id":"o%d","amount":%d,"note":"x"}' % (number, number)
        records.append(Record(f"{topic}.{group}.dlq", value, None, f"o{number}", headers))
    return records


def publish(url: str, records: Sequence[Record]) -> None:
    """Write records to topics of a broker, which are created if they have to be."""

    async def write(backend: Backend) -> None:
        for start in range(0, len(records), 1000):
            await backend.publish(records[start : start + 1000])

    topics = {record.topic for record in records}
    app = {topic.split(".")[0] for topic in topics}
    call(url, write, sorted(topics | {f"{name}.{topic}" for name in app for topic in ("orders", "risks")}))


def call(url: str, function: Callable[[Backend], Any], topics: Sequence[str] = ()) -> Any:
    """Call a coroutine function with a backend, within a minute."""

    async def run() -> Any:
        settings = config.load(environ={}, overrides={"backend": url}).backend
        with anyio.fail_after(60):
            async with config.find_backend(settings.scheme).open(settings.url, settings.options) as backend:
                if isinstance(backend, CreatesTopics):
                    await backend.create_topics([NewTopic(name=topic, partitions=1) for topic in topics])
                return await function(backend)

    return anyio.run(run)


def read(url: str, topic: str) -> list[Record]:
    """All records of a topic."""

    async def receive(backend: Backend) -> list[Record]:
        found: list[Record] = []
        async with backend.subscribe([topic], group=None, start="earliest") as subscription:
            while True:
                with anyio.move_on_after(3) as waiting:
                    found += [delivery.record for delivery in await subscription.receive(1000)]
                if waiting.cancelled_caught:
                    return found

    records: list[Record] = call(url, receive)
    return records
