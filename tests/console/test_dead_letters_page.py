"""Dead letters on the page: by cause, one in full, and replayed or dropped with exact counts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from selenium.webdriver.common.by import By

from tests.console.conftest import TOKEN, console_of, dead_letters, publish, read

if TYPE_CHECKING:
    from tests.console.conftest import Page, Serve

FIVE = ("KeyError", "ValueError", "TypeError", "LookupError", "Reject")


def rows(page: Page) -> dict[str, str]:
    """The number of dead letters of each exception, as the page shows it."""
    cells = [
        [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")]
        for row in page.driver.find_elements(By.CSS_SELECTOR, "tbody tr")
    ]
    return {row[1]: row[2] for row in cells}


def at_cause(exception: str) -> str:
    return f"//tr[td[normalize-space()='{exception}']]"


@pytest.mark.parametrize("broker", ["redis_server", "kafka_broker"])
def test_ten_thousand_of_five_causes_are_replayed_with_exact_counts(
    serve: Serve, page: Page, name: str, broker: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(broker).url
    publish(url, dead_letters(name, 10_000, FIVE))
    service = serve("--workers", "1", url=url)
    service.until_ready()
    page.open(service, "dead-letters")
    page.log_in()
    assert "10,000 dead letters" in page.text
    assert rows(page) == dict.fromkeys(FIVE, "2,000")

    page.click("Replay", at_cause("KeyError"))
    assert "This would replay 2,000 dead letters of risk with KeyError" in page.text
    page.click("Cancel")
    assert rows(page) == dict.fromkeys(FIVE, "2,000"), "a dry run changes nothing"

    page.click("Replay", at_cause("KeyError"))
    page.click("Replay 2,000")
    assert "2,000 dead letters replayed" in page.text
    assert "risk: 8,000 dead letters are left" in page.text
    page.click("Back")
    assert rows(page) == dict.fromkeys(FIVE[1:], "2,000")

    page.click("Drop", at_cause("Reject"))
    page.click("Drop 2,000")
    assert "2,000 dead letters dropped" in page.text
    page.click("Back")
    page.click("Replay")
    assert "This would replay 6,000 dead letters of all handlers" in page.text
    page.click("Replay 6,000")
    assert "6,000 dead letters replayed" in page.text
    page.click("Back")
    assert "There are no dead letters" in page.text

    service.until(lambda: service.metric("eventml_events_published_total", handler="risk") == 8000)
    predicted = [record.id for record in read(url, f"{name}.risks")]
    expected = {f"o{number}" for number in range(10_000) if FIVE[number % 5] != "Reject"}
    assert len(predicted) == 8000
    assert {one.partition("/")[0] for one in predicted} == expected
    logged = re.findall(r"Ada at 127\.0\.0\.1 (replayed|dropped) (\d+) dead letters", service.text)
    assert logged == [("replayed", "2000"), ("dropped", "2000"), ("replayed", "6000")]
    assert not page.problems()


@pytest.mark.parametrize("broker", ["redis_server", "kafka_broker"])
def test_one_dead_letter_is_shown_in_full_and_replayed(
    serve: Serve, page: Page, name: str, broker: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(broker).url
    records = dead_letters(name, 6, ["KeyError", "ValueError"])
    for record in records:
        record.headers["x-api-token"] = "s3cret"  # type: ignore[index] # a dict
        record.headers["x-origin"] = "till 7"  # type: ignore[index] # as above
    publish(url, records)
    service = serve("--workers", "1", url=url)
    page.open(service, "dead-letters")
    page.log_in()
    assert rows(page) == {"KeyError": "3", "ValueError": "3"}
    page.click("Show one", at_cause("KeyError"))
    assert '"amount": 4' in page.text
    assert "x-origin: till 7" in page.text
    assert "x-api-token: (hidden)" in page.text
    assert "s3cret" not in page.driver.page_source
    page.click("Replay", "//div[starts-with(normalize-space(), 'This one')]")
    assert "This would replay 1 dead letters of risk with KeyError of the event o4" in page.text
    page.click("Replay 1")
    page.click("Back")
    assert rows(page) == {"KeyError": "2", "ValueError": "3"}
    service.until(lambda: service.metric("eventml_events_published_total", handler="risk") == 1)


def test_without_a_token_records_are_not_shown(
    serve: Serve, page: Page, name: str, redis_server: Any
) -> None:
    publish(redis_server.url, dead_letters(name, 3, ["KeyError"]))
    service = serve(env={"EVENTML_TOKEN": ""})
    for path in ("dead-letters", "tail", "try"):
        page.open(service, path)
        assert "Set the environment variable EVENTML_TOKEN" in page.text
        assert "KeyError" not in page.text
    assert service.get("/tail-records?topic=x")[0] == 404


def post(address: str, path: str, form: bytes, **headers: str) -> int:
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    try:
        with urlopen(Request(f"http://{address}/{path}", form, names), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as exc:
        with exc:
            return exc.code


def test_forms_of_other_sites_and_wrong_tokens_change_nothing(
    serve: Serve, page: Page, name: str, redis_server: Any
) -> None:
    publish(redis_server.url, dead_letters(name, 3, ["KeyError"]))
    service = serve()
    address = console_of(service)
    form = b"action=drop&choice=e30%3D&confirmed=yes"  # all of them
    own = f"http://{address}"
    assert post(address, "dead-letters", form) == 403
    assert post(address, "dead-letters", form, origin="https://evil.example") == 403
    assert post(address, "dead-letters", form, origin="null") == 403
    assert post(address, "dead-letters", form, origin=own) == 401
    assert post(address, "dead-letters", form, origin=own, cookie="eventml-console-1=guess") == 401
    assert post(address, "dead-letters", form, authorization="Bearer wrong") == 401
    assert post(address, "log-in", b"token=wrong", origin=own) == 401
    page.open(service, "dead-letters")
    page.log_in()
    assert rows(page) == {"KeyError": "3"}
    assert post(address, "dead-letters", form, authorization=f"Bearer {TOKEN}") == 200
    page.open(service, "dead-letters")
    assert "There are no dead letters" in page.text
    page.click("Log out")
    page.open(service, "dead-letters")
    assert "Token of the service" in page.text
