"""The pages of the console in a real browser: live numbers, outages, hostile texts, accessibility, size."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import axe_core_python
import pytest
from selenium.webdriver.common.by import By

from eventml import Record
from tests.console.conftest import APPS, TOKEN, console_of, dead_letters, publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.redis.server import RedisServer
    from tests.console.conftest import Page, Serve
    from tests.deploy.service import Service

ASSETS = files("eventml.deploy.console") / "assets"
AXE = (Path(str(axe_core_python.__file__)).parent / "axe.min.js").read_text(encoding="utf-8")
UPLOT = {  # SHA-256 of the files of uPlot 1.6.32, as npm has them
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
PATHS = ("", "handler?name=risk", "handler?name=alarm", "dead-letters", "models", "tail", "try")
HOSTILE = (
    "<script>document.title='run'</script>",
    "\"><img src=x onerror=document.title='run'>",
    "'-document.title='run'-'</style></textarea></title><svg onload=document.title='run'>",
    "{name} {0} %s $content ${content} {{7*7}}",
    "\u202egnp.exe\u2066\x1b[2J\x00\x85\u2028",
    "W" * 3000,
    "\ud83d\ude00 \u4e2d\u6587\uff21 e\u0301\u0301\u0301\u0301".encode("utf-16", "surrogatepass").decode(
        "utf-16"
    ),
)


@pytest.mark.parametrize(("url", "options"), [(None, ("--workers", "1")), (None, ()), ("memory://", ())])
def test_open_pages_do_not_delay_the_end_of_the_service(
    serve: Serve, name: str, url: str | None, options: tuple[str, ...]
) -> None:
    service = serve(*options, url=url)
    service.until_ready()
    token = {"authorization": f"Bearer {TOKEN}"}
    with ExitStack() as stack:
        for path in ("live", f"tail-records?topic={name}.orders"):
            request = Request(f"http://{console_of(service)}/{path}", headers=token)
            answer = stack.enter_context(urlopen(request, timeout=30))  # noqa: S310 - http
            assert answer.readline().startswith(b"data: ")
        assert service.stop(20) == 0, "exit status"


@pytest.mark.parametrize("name", UPLOT)
def test_the_files_of_uplot_are_unchanged(name: str) -> None:
    assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == UPLOT[name]


def orders(name: str, count: int, **fields: str) -> list[Record]:
    note = fields.get("note", "")
    return [
        Record(f"{name}.orders", b'{"id":"o%d","amount":%d,"note":"%b"}' % (n, n, note.encode()))
        for n in range(count)
    ]


@pytest.mark.parametrize("broker", ["redis_server", "kafka_broker"])
def test_the_numbers_of_the_overview_are_live(
    serve: Serve, page: Page, name: str, broker: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(broker).url
    publish(url, dead_letters(name, 12, ["KeyError"]))
    service = serve("--workers", "1", url=url)
    service.until_ready()
    page.open(service)
    page.until_shown("1 of 1 workers ready")
    assert "risk v1" in page.text
    publish(url, orders(name, 300))
    page.until_shown(r"risk v1 [\d.,]+ [\d.,]+ \d+ ≤")  # rates and latencies of what has just been handled
    page.until_shown("12 dead letters")
    charts = page.driver.find_elements(By.CSS_SELECTOR, ".charts canvas")
    assert len(charts) == 3
    assert page.driver.execute_script(
        "const c = document.querySelector('#chart-rate canvas'), p = c.getContext('2d');"
        "return p.getImageData(0, 0, c.width, c.height).data.some(v => v > 0)"
    ), "nothing is drawn"
    assert not page.problems()


def golden_rows(folder: Path) -> str:
    """A file of orders whose predictions are recorded: from 0 to 9.9, evenly."""
    rows = [{"id": "g", "amount": n, "prediction": {"id": "g", "risk": n / 100}} for n in range(0, 1000, 10)]
    (file := folder / "golden.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_the_page_of_a_handler_has_its_numbers_and_its_predictions(
    serve: Serve, page: Page, name: str, redis_server: Any, tmp_path: Path
) -> None:
    service = serve("--workers", "1", env={"GOLDEN": golden_rows(tmp_path)})
    service.until_ready()
    page.open(service)
    page.until_shown("1 of 1 workers ready")
    page.click("risk")
    assert f"It reads {name}.orders and writes {name}.risks, as the group {name}.risk." in page.text
    assert re.search(r"champion risk v1 0:0\d:\d\d worker-1", page.text), page.text
    assert "No number was predicted in the last five minutes." in page.text

    def measured() -> re.Match[str] | None:
        publish(redis_server.url, orders(name, 800))  # of which half are predicted 4 at most
        return re.search(
            r"receive \d.* waits for events.*^call [\d.]+m?s \d+%", page.text, re.DOTALL | re.MULTILINE
        )

    page.until(measured)
    page.until_shown("predictions of the last five minutes, half of them at most 4; 100 are recorded")
    page.until_shown(r"half of them at most 5; the two differ by (1[89]|2[012])%")
    assert page.driver.find_elements(By.CSS_SELECTOR, "#predictions rect.recorded")
    [legend] = page.driver.find_elements(By.CSS_SELECTOR, "#legend span")
    assert legend.text == "risk", "the charts are those of this handler"
    assert service.metric("eventml_predictions_count", handler="risk") >= 800
    page.open(service, "handler?name=alarm")
    assert "Predictions" not in page.text
    assert not page.problems()


def test_without_golden_rows_the_predictions_of_now_are_shown(
    serve: Serve, page: Page, name: str, redis_server: Any
) -> None:
    service = serve()
    service.until_ready()
    page.open(service, "handler?name=risk")

    def predicted() -> bool:
        publish(redis_server.url, orders(name, 800))
        return "predictions of the last five minutes" in page.text

    page.until(predicted)
    assert "half of them at most 5." in page.text
    assert "recorded" not in page.text


def test_challenger_and_canary_are_beside_the_champion(
    serve: Serve, page: Page, name: str, redis_server: Any
) -> None:
    service = serve("--workers", "1", env={"TRIED": "1"})
    service.until_ready()
    page.open(service, "models")

    def predicted() -> bool:
        publish(redis_server.url, orders(name, 100))
        return len(page.driver.find_elements(By.CSS_SELECTOR, "tbody tr:has(rect.now)")) == 3

    page.until(predicted)
    assert re.search(r"champion risk v1 .* worker-1", page.text)
    assert re.search(r"canary, 0.5 of the keys risk v1-canary .* worker-1", page.text)
    assert re.search(r"challenger next risk v1-next .* worker-1", page.text)
    page.open(service, "handler?name=risk.challenger.next")
    assert f"writes {name}.risks.challenger.next" in page.text
    assert not page.problems()


def doctor_settings(folder: Path, *files: Path) -> str:
    """A file of settings that names files that the doctor has written."""
    (settings := folder / "eventml.toml").write_text(f"[console]\ndoctor = {[*map(str, files)]}\n")
    return str(settings)


def test_the_table_of_the_doctor_is_beside_the_models(
    serve: Serve, page: Page, tmp_path: Path, redis_server: Any
) -> None:
    measured, missing = tmp_path / "doctor.json", tmp_path / "missing.json"
    golden = golden_rows(tmp_path)
    command = [sys.executable, "-m", "eventml", "doctor", "orders:risk", "--rows", golden, "--json"]
    env = {**os.environ, "APP": "t", "EVENTML_BACKEND": redis_server.url}
    measured.write_bytes(subprocess.run(command, cwd=APPS, env=env, capture_output=True, check=True).stdout)  # noqa: S603 - our own command
    service = serve("--workers", "1", env={"EVENTML_CONFIG": doctor_settings(tmp_path, measured, missing)})
    service.until_ready()
    page.open(service, "models")
    assert "What risk costs, by the doctor" in page.text
    assert re.search(r"^64 [\d.]+ms [\d.]+µs [\d,.]+$", page.text, re.MULTILINE), page.text
    assert re.search(r"Advice: max_batch [\d,]+, timeout ", page.text)
    assert "missing.json cannot be read: No such file" in page.text
    assert str(tmp_path) not in page.text
    assert_accessible(page)


def test_ten_tabs_of_one_browser_show_the_overview(serve: Serve, page: Page) -> None:
    service = serve("--workers", "1")
    service.until_ready()
    page.open(service)
    [first] = page.driver.window_handles
    for _ in range(9):
        page.driver.switch_to.new_window("tab")
        page.open(service)
        page.until_shown("1 of 1 workers ready")
    for tab in page.driver.window_handles[1:]:
        page.driver.switch_to.window(tab)
        page.driver.close()
    page.driver.switch_to.window(first)
    page.until_shown("1 of 1 workers ready")
    assert not page.problems()


def marked(page: Page) -> bool:
    """Whether a chart has a line in the colour of what has happened, from its top to its bottom."""
    red = (
        "const c = document.querySelector('#chart-lag canvas'), "
        "d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0; "
        "for (let i = 0; i < d.length; i += 4) "
        "n += d[i] > 150 && d[i + 1] < 80 && d[i + 2] < 80 && d[i + 3] > 200; return n"
    )
    return int(page.driver.execute_script(red)) > 40


def test_a_killed_worker_is_seen_at_once_and_remembered(serve: Serve, page: Page) -> None:
    service = serve("--workers", "2")
    service.until_ready()
    page.open(service)
    page.until_shown("2 of 2 workers ready")
    os.kill(service.workers[0], signal.SIGKILL)
    page.until_shown(r"worker-\d restarted")
    page.until_shown("2 of 2 workers ready on .*; restarts: 1")
    assert marked(page), "no line in the chart"


def test_a_broker_that_is_gone_is_seen_and_its_return_too(
    serve: Serve, page: Page, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis()
    service = serve("--workers", "1", url=server.url)
    service.until_ready()
    page.open(service)
    page.until_shown("1 of 1 workers ready")
    server.stop()
    page.until_shown("0 of 1 workers ready")
    page.until_shown("worker-1 does not reach its broker")
    assert page.driver.find_elements(By.CSS_SELECTOR, ".state.bad")
    page.open(service, "dead-letters")
    page.log_in()
    assert page.driver.find_elements(By.CSS_SELECTOR, "[role=alert]"), page.text
    server.start()
    page.open(service)
    page.until_shown("1 of 1 workers ready")


def test_what_has_happened_is_remembered_in_a_file(serve: Serve, tmp_path: Path) -> None:
    env = {"EVENTML_CONSOLE_HISTORY": str(tmp_path / "history.sqlite")}

    def happened(service: Service) -> list[str]:
        service.until_ready()
        service.until(lambda: json.loads(service.get("/history?span=24h")[1])["marks"])
        return [mark["text"] for mark in json.loads(service.get("/history?span=24h")[1])["marks"]]

    first = serve("--workers", "1", env=env)
    assert happened(first) == ["worker-1 is ready"]
    assert first.stop() == 0
    second = serve("--workers", "1", env=env)
    second.until(lambda: happened(second)[:1] == ["worker-1 is ready"] and len(happened(second)) > 1)


def test_a_page_whose_service_has_ended_says_so(serve: Serve, page: Page) -> None:
    service = serve()
    page.open(service)
    page.until_shown("1 of 1 workers ready")
    service.stop()
    page.until_shown("The service does not answer: these numbers are old")


@pytest.mark.parametrize("broker", ["redis_server", "kafka_broker"])
def test_records_that_arrive_are_shown_filtered_and_paused(
    serve: Serve, page: Page, name: str, broker: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(broker).url
    publish(url, orders(name, 1))
    service = serve(url=url)
    page.open(service, "tail")
    page.log_in()
    page.open(service, f"tail?topic={name}.orders&text=O7%22")
    page.until_shown("Waiting for new records")
    secret = Record(
        f"{name}.orders", b'{"id":"o7","amount":7}', b"till 7", "a", {"Cookie": "s3cret", "x-till": "7"}
    )

    def tailed() -> list[str]:
        found = page.driver.find_elements(By.CSS_SELECTOR, "#records details")
        return [one.get_attribute("textContent") for one in found]

    def arrive() -> bool:
        publish(url, [*orders(name, 5), secret])
        return bool(tailed())

    page.until(arrive)
    assert all('"id": "o7"' in one and "till 7" in one and "x-till: 7" in one for one in tailed())
    assert "Cookie: (hidden)" in tailed()[0]
    assert "s3cret" not in page.driver.page_source
    page.click("Pause")
    page.until_shown("Paused after")
    before = len(tailed())
    publish(url, [secret] * 5)
    assert len(tailed()) == before
    page.click("Go on")
    page.until_shown("Waiting|records")
    page.until(arrive)
    assert not page.problems()


def test_a_predictor_is_tried_with_the_fields_of_its_events(serve: Serve, page: Page) -> None:
    service = serve("--workers", "1")
    service.until_ready()
    page.open(service, "try")
    page.log_in("Ada")
    page.open(service, "try")
    amount = page.driver.find_element(By.NAME, "field.amount")
    amount.clear()
    amount.send_keys("250")
    page.click("Send")
    assert '"risk": 2.5' in page.text
    assert "model v1" in page.text
    assert "/predict/risk" in page.text
    assert "Ada at 127.0.0.1 tried a predictor: risk" in service.text
    assert page.driver.find_element(By.NAME, "field.amount").get_attribute("value") == "250"
    page.driver.execute_script("document.getElementsByName('field.amount')[0].type = 'text'")
    amount = page.driver.find_element(By.NAME, "field.amount")
    amount.clear()
    amount.send_keys("much")
    page.click("Send")
    assert "Expected `float`, got `str` - at `$.amount`" in page.text
    assert not page.problems()


def test_a_web_service_answers_its_own_form(serve: Serve, page: Page, free_port: int) -> None:
    service = serve("--port", str(free_port), command="serve")
    service.until_logged("serving on http")
    page.open(service, "try")
    page.log_in()
    page.open(service, "try")
    page.click("Send")
    assert '"version": "v1"' in page.text, page.text
    assert f"http://127.0.0.1:{free_port}/predict/risk" in page.text


def test_the_console_of_a_service_that_runs_elsewhere(
    serve: Serve, page: Page, name: str, redis_server: Any, free_port: int
) -> None:
    publish(redis_server.url, dead_letters(name, 5, ["KeyError"]))
    service = serve("--workers", "1")
    service.until_ready()
    ui = serve("--at", console_of(service), "--at", "1", "--listen", str(free_port), command="ui")
    page.open(ui)
    page.until_shown("1 of 1 workers ready")
    page.until_shown("no service answers at 127.0.0.1:1")
    page.until_shown("5 dead letters")
    page.open(ui, "dead-letters")
    page.log_in()
    assert "5 dead letters" in page.text
    assert ui.stop() == 0


def test_hostile_texts_are_shown_as_they_are(
    serve: Serve, page: Page, name: str, redis_server: Any, tmp_path: Path
) -> None:
    letters = []
    for number, text in enumerate(HOSTILE):
        [one] = dead_letters(name, 1, [text.replace("\x00", "")], message=text.replace("\x00", ""))
        headers = {**one.headers, "x-hostile": text.replace("\x00", ""), "eventml-dlq-offset": str(number)}
        letters.append(Record(one.topic, text.encode(), text.encode()[:500], f"{number} {text}", headers))
    publish(redis_server.url, letters)
    (doctor := tmp_path / "doctor.json").write_text(
        json.dumps({"examination": {"predictor": HOSTILE[0]}, "advice": {"warnings": HOSTILE[1:]}})
    )
    version = HOSTILE[0] + HOSTILE[1]
    env = {"VERSION": version, "TRIED": "1", "EVENTML_CONFIG": doctor_settings(tmp_path, doctor)}
    service = serve("--workers", "1", env=env)
    service.until_ready()
    page.open(service, "dead-letters")
    page.log_in(HOSTILE[0])
    for width in (1280, 390):
        page.resize(width)
        page.open(service, "dead-letters")
        assert f"{len(HOSTILE)} dead letters" in page.text
        assert_safe(page)
        links = [one.get_attribute("href") for one in page.driver.find_elements(By.LINK_TEXT, "Show one")]
        assert len(links) == len(HOSTILE)
        for link in links:
            page.driver.get(link)
            assert "This one:" in page.text
            assert_safe(page)
        for path in ("", "handler?name=risk", "models", "try"):
            page.open(service, path)
            assert_safe(page)
    page.open(service, f"tail?topic={name}.orders.{name}.risk.dlq")

    def arrive() -> bool:
        publish(redis_server.url, letters)
        return len(page.driver.find_elements(By.CSS_SELECTOR, "#records details")) >= len(HOSTILE)

    page.until(arrive)
    assert_safe(page)
    for link in page.driver.find_elements(By.CSS_SELECTOR, "#records summary")[: len(HOSTILE)]:
        page.driver.execute_script("arguments[0].click()", link)
    assert_safe(page)


def assert_safe(page: Page) -> None:
    """Nothing of a text was executed or loaded, and the page is as wide as its window."""
    assert page.driver.title != "run"
    assert not page.driver.find_elements(By.CSS_SELECTOR, "main img, main script, main svg[onload]")
    width, window = page.driver.execute_script("return [document.body.scrollWidth, innerWidth]")
    assert width <= window, page.driver.current_url
    assert not page.problems()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_are_accessible(
    serve: Serve, page: Page, name: str, redis_server: Any, width: int, dark: bool, tmp_path: Path
) -> None:
    publish(redis_server.url, [*dead_letters(name, 12, ["KeyError", "ValueError"]), *orders(name, 500)])
    service = serve("--workers", "1", env={"GOLDEN": golden_rows(tmp_path), "TRIED": "1"})
    service.until_ready()
    page.resize(width, dark=dark)
    page.open(service, "dead-letters")
    assert_accessible(page)
    page.log_in()
    for path in PATHS:
        page.open(service, path)
        if not path:
            page.until_shown("12 dead letters")
        assert_accessible(page)
    page.open(service, "dead-letters")
    page.click("Show one")
    assert_accessible(page)
    page.click("Replay")
    assert_accessible(page)


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing, and the page is as wide as its window."""
    page.driver.execute_script(AXE)
    found = page.driver.execute_async_script("axe.run().then(arguments[0])")
    problems = [
        f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes']][:3]}"
        for one in found["violations"]
    ]
    assert not problems, "\n".join([page.driver.current_url, *problems])
    width, window = page.driver.execute_script("return [document.body.scrollWidth, innerWidth]")
    assert width <= window


def test_all_of_it_is_below_200_kb(serve: Serve, page: Page) -> None:
    service = serve("--workers", "1")
    service.until_ready()
    page.open(service)
    page.until_shown("1 of 1 workers ready")
    sizes = page.driver.execute_script(
        "return performance.getEntries().filter(e => 'transferSize' in e && !e.name.endsWith('/live'))"
        ".map(e => e.transferSize)"
    )
    assert len(sizes) >= 5
    assert sum(sizes) < 200_000
    assert sum(len(one.read_bytes()) for one in ASSETS.iterdir() if one.is_file()) < 200_000
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(url.startswith(page.base) for url in loaded), "something comes from elsewhere"


def test_a_backend_in_the_process_is_reached_where_it_is_open(serve: Serve, page: Page) -> None:
    service = serve(url="memory://")
    page.open(service, "dead-letters")
    page.log_in()
    assert "There are no dead letters" in page.text
    page.open(service, "try")
    page.click("Send")
    assert '"risk": 0.01' in page.text


def test_a_web_service_of_several_workers_has_a_console(serve: Serve, page: Page, free_port: int) -> None:
    service = serve("--port", str(free_port), "--workers", "2", command="serve")
    service.until_ready()
    page.open(service)
    page.until_shown("2 of 2 workers ready")
    page.open(service, "try")
    page.log_in()
    page.open(service, "try")
    page.click("Send")
    assert '"version": "v1"' in page.text, page.text
