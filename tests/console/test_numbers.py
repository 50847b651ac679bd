"""The numbers of a service, the history that keeps them, the distributions, and HTML without injection."""

from __future__ import annotations

import html.parser
import logging
import sqlite3
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus, config
from eventml.deploy.console import Snapshot, handler_numbers, remote_status
from eventml.deploy.console.collector import Collector
from eventml.deploy.console.dead_letters import Cause, Choice
from eventml.deploy.console.history import FIELDS, SPANS, History, HistoryFile, Point, series
from eventml.deploy.console.live_pages import LivePages, distribution
from eventml.deploy.console.numbers import changes, increase, merged
from eventml.deploy.console.site import open_console
from eventml.deploy.console.templates import render
from eventml.deploy.workers import (
    HandlerReport,
    HostPort,
    ServiceStatus,
    WorkerStatus,
    handler_totals,
    serve_status,
)
from eventml.deploy.workers.metrics import render_metrics
from eventml.printable import printable
from eventml.runtime import Profile

if TYPE_CHECKING:
    from pathlib import Path


def status(received: float = 0, lag: int | None = 0, **worker: object) -> ServiceStatus:
    """The status of one worker that has received this many events."""
    totals = {"received": [received], "completed": [received]}
    handler = HandlerReport(group="g", totals=totals, lag=lag, model=("m", "1"))
    values = {"name": "worker-1", "pid": 1, "state": "ready", "handlers": {"h": handler}, **worker}
    return ServiceStatus(bus="b", workers=[msgspec.convert(values, WorkerStatus, from_attributes=True)])


counters = st.lists(st.integers(0, 1000), min_size=1, max_size=5).map(lambda found: [float(n) for n in found])


@given(counters, counters)
def test_an_increase_is_never_negative_and_adds_up(before: list[float], more: list[float]) -> None:
    now = [a + b for a, b in zip(before, more, strict=False)]
    [found] = increase({"x": before[: len(now)]}, {"x": now}).values()
    assert found == more[: len(now)]
    [reset] = increase({"x": [n + 1 for n in now]}, {"x": now}).values()
    assert reset == now, "a counter that fell was reset: it counts from zero"


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=400))
def test_a_point_has_the_exact_rate_of_its_step(arrivals: list[int]) -> None:
    history, total = History(), 0
    for number, count in enumerate(arrivals):
        total += count
        history.add(Snapshot(2.0 * number, status(total)), 1e9 + 2.0 * number)
    now = 1e9 + 2.0 * (len(arrivals) - 1)
    points = history.points("5m", now)
    assert [point.values["h"][0] for point in points] == [count / 2 for count in arrivals[1:]][-150:]
    coarse = history.points("1h", now)
    means = [sum(arrivals[1:][n : n + 10]) / 20 for n in range(0, len(arrivals) - 10, 10)]
    assert [point.values["h"][0] for point in coarse] == means


@given(st.integers(1, 1_000), st.sampled_from([*SPANS]))
def test_a_ring_is_bounded_and_as_long_as_its_span(points: int, span: str) -> None:
    step, length = SPANS[span]
    history = History()
    for number in range(points + 1):
        history.add(Snapshot(step * number, status(number)), 1e9 + step * number)
    kept = history.points(span, 1e9 + step * points)
    assert len(kept) == min(points, int(length / step))
    assert kept[-1].at == 1e9 + step * points


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=30))
def test_the_bars_of_a_distribution_are_as_high_as_their_shares(pairs: list[tuple[int, int]]) -> None:
    now, recorded = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    profile = Profile([float(n) for n in range(len(pairs) - 1)], recorded)
    found = distribution([*now, 0.0], profile)
    if not sum(now):
        assert found is None
        return
    assert found is not None
    assert found["is_compared"] == bool(sum(recorded))
    bars = found["bars"]
    assert max(max(bar["now"], bar["recorded"]) for bar in bars) == 1
    assert all(bar["now"] or bar["recorded"] for bar in (bars[0], bars[-1])), "it begins and ends with a bar"
    assert [bar["x"] for bar in bars] == [10 * n for n in range(len(bars))]
    heights = [bar["now"] for bar in bars]
    first = next(n for n, pair in enumerate(pairs) if any(pair))
    shares = now[first : first + len(heights)]
    assert heights[shares.index(max(shares))] == max(heights)


def test_workers_with_other_golden_rows_are_counted_beside_each_other() -> None:
    before = {"predictions": [1.0, 2.0, 3.0, 4.0], "received": [3.0], "bounds": [1.0, 3.0]}
    after = {"predictions": [1.0, 2.0, 3.0, 4.0], "received": [4.0], "bounds": [1.0, 2.0]}
    handler = HandlerReport(group="g", totals=after, profile=Profile([1.0, 2.0]))
    whole = msgspec.structs.replace(status(handlers={"h": handler}), ended={"h": before})
    assert handler_totals(whole)["h"] == {**after, "received": [7.0]}
    assert 'eventml_predictions_count{group="g",handler="h"} 6.0' in render_metrics(whole)
    assert increase(before, after)["predictions"] == after["predictions"]


def test_a_distribution_of_other_buckets_is_not_drawn() -> None:
    assert distribution([1.0, 2.0, 3.0], Profile([1.0, 2.0, 3.0])) is None
    assert distribution([], Profile()) is None


def test_the_predictions_are_those_of_the_last_five_minutes() -> None:
    count = 0

    def predicted() -> ServiceStatus:
        nonlocal count
        count += 1
        counted = [float(count), 0.0, -5.0 * count]  # the sum of predictions below zero falls
        handler = HandlerReport(group="g", totals={"predictions": counted}, profile=Profile([1.0]))
        return status(handlers={"h": handler})

    collector = Collector(predicted, None, History())
    for _ in range(3):
        collector.collect()
    tick = collector.tick()
    earlier, now = (handler_totals(one.status)["h"] for one in (tick.earlier, tick.now))
    assert increase(earlier, now) == {"predictions": [2.0, 0.0, -10.0]}


def test_a_gap_has_no_line() -> None:
    point = (1.0,) * len(FIELDS)
    found = series([Point(10, {"h": point}), Point(12, {"h": point}), Point(60, {"h": point})], 2.0)
    assert found["at"] == [10, 12, 14, 60]
    assert found["handlers"]["h"]["lag"] == (1.0, 1.0, None, 1.0)


def test_what_happens_to_workers_is_named() -> None:
    before = status()
    assert changes(before, before) == []
    restarted = status(restarts=1, reason="killed by SIGKILL")
    assert changes(before, restarted) == ["worker-1 restarted: killed by SIGKILL"]
    gone = status(connected=False)
    assert changes(before, gone) == ["worker-1 is ready, no broker"]
    assert changes(gone, before) == ["worker-1 is ready"]
    handler = HandlerReport(group="g", model=("m", "2"))
    after = status(handlers={"h": handler})
    assert changes(before, after) == ["h: model 2 in place of 1"]
    both = msgspec.structs.replace(before, workers=[*before.workers, *after.workers])
    assert changes(before, both) == ["h: model 2 beside 1"]
    assert changes(both, after) == ["h: model 2 on all workers"]
    rolled = msgspec.structs.replace(before, rolling_restarts=1)
    assert changes(before, rolled) == ["rolling restart completed"]


def test_several_ports_are_one_service() -> None:
    found = merged({"a:1": status(5, lag=7), "b:1": status(3, lag=7)})
    assert [worker.name for worker in found.workers] == ["worker-1 at a:1", "worker-1 at b:1"]
    [numbers] = handler_numbers(Snapshot(0.0, merged({})), Snapshot(2.0, found))
    assert (numbers.received, numbers.lag) == (4.0, 7), "both counted, and the lag of the group once"


def test_the_history_of_a_file_outlives_the_process(tmp_path: Path) -> None:
    path, now = tmp_path / "history.sqlite", 1e9
    first = History(HistoryFile(path, "b"))
    for number in range(0, 700, 2):
        first.add(Snapshot(float(number), status(number, restarts=int(number > 350))), now + number)
    second = History(HistoryFile(path, "b"))
    assert second.points("1h", now + 700) == first.points("1h", now + 700)
    assert second.points("24h", now + 700) == first.points("24h", now + 700)
    assert second.marks("24h", now + 700) == first.marks("24h", now + 700)
    assert len(second.marks("24h", now + 700)) == 1
    assert History(HistoryFile(path, "another")).points("1h", now + 700) == []
    second.add(Snapshot(0.0, status()), now + 90_000)
    with sqlite3.connect(path) as database:
        [(kinds,)] = database.execute("SELECT count(*) FROM history WHERE at < ?", (now + 700,)).fetchall()
    database.close()
    assert kinds == 0, "what is too old is deleted"


def test_a_history_file_that_cannot_be_used_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (path := tmp_path / "history.sqlite").write_text("no database at all, but a text of some length")
    history = History(HistoryFile(path, "b"))
    for number in range(100):
        history.add(Snapshot(number * 20.0, status(number)), 1e9 + number * 20)
    assert len(history.points("1h", 1e9 + 1980)) == 99
    [record] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "console.history" in record.message


class Texts(html.parser.HTMLParser):
    """The texts, elements and attributes of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts, self.found = "", list[tuple[str, dict[str, str | None]]]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts += data


def shape(html: str) -> list[tuple[str, list[str]]]:
    """The elements of HTML, with the names of their attributes."""
    return [(tag, [*attributes]) for tag, attributes in Texts(html).found]


PAGE = {"bus": "b", "path": "/try", "title": "Try it"}


@given(st.text())
def test_no_text_becomes_html(text: str) -> None:
    def form(text: str) -> str:
        fields = [{"name": text, "text": text, "is_number": False}]
        values = {"name": text, "names": [text], "web": None, "fields": fields, "event": text}
        return render("try", **{**PAGE, "bus": text, "title": text}, **values, error=text)

    assert shape(form(text)) == shape(form("x")) if text else True
    inputs = [attributes for tag, attributes in Texts(form(text)).found if tag == "input"]
    assert [one.get("value") for one in inputs] == [printable(text)] * len(inputs) or not text


@given(st.text())
def test_no_cell_breaks_a_table(text: str) -> None:
    def table(text: str) -> str:
        values = {"total": 1, "unreadable": {}, "all": Choice(), "choice": Choice}
        return render("dead_letters", **PAGE, causes=[Cause(text, text, 1, reason=text)], **values)

    assert shape(table(text)) == shape(table("x"))


@given(st.text())
def test_no_record_breaks_a_live_tail(text: str) -> None:
    def record(text: str) -> str:
        return render("record", at=0.0, key=text, start=text, all=text)

    assert shape(record(text)) == shape(record("x"))


def bus_with_a_handler() -> Bus:
    bus = Bus("b")

    @bus.predictor("orders", to="risks", name="h")
    def predict(order: int) -> int:
        return order

    bus.configure(config.load(environ={}))
    return bus


BUS = bus_with_a_handler()


@given(st.text(min_size=1))
def test_no_name_of_a_worker_or_a_model_breaks_a_page(text: str) -> None:
    def pages(text: str) -> list[list[tuple[str, list[str]]]]:
        predictions = [1.0, 2.0, 3.0]
        handler = HandlerReport(
            group=text,
            totals={"predictions": predictions, "canary_predictions": predictions},
            model=(text, text),
            model_refused=text,
            canary=(text, text),
            profile=Profile([1.0], [1.0, 0.0]),
        )
        now = msgspec.structs.replace(status(name=text, reason=text, handlers={"h": handler}), unready=[text])
        collector = Collector(lambda: now, None, History())
        collector.collect()
        live = LivePages(BUS, collector)
        return [shape(live.page(*page)) for page in (("/", ""), ("/handler", "h"), ("/models", ""))]

    assert pages(text) == pages("x")


def live_pages(now: ServiceStatus, bus: Bus = BUS) -> LivePages:
    collector = Collector(lambda: now, None, History())
    collector.collect()
    return LivePages(bus, collector)


def test_the_numbers_of_a_version_are_those_of_its_workers() -> None:
    workers = list[WorkerStatus]()
    for number, version in enumerate(("old", "new"), 1):
        totals = {"completed": [1000.0 * number]}
        handler = HandlerReport(group="g", totals=totals, model=("m", version))
        workers += status(name=f"worker-{number}", pid=number, handlers={"h": handler}).workers
    page = live_pages(ServiceStatus(bus="b", workers=workers)).page("/models", "")
    assert '<td class="number">1,000</td>' in page
    assert '<td class="number">2,000</td>' in page
    assert "3,000" not in page


def test_a_handler_named_like_a_method_has_no_model() -> None:
    now = status(handlers={"items": HandlerReport(group="g")})
    assert "method" not in live_pages(now).page("/", "")


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"examination":{"predictor":"p"},"advice":{"rate":1234.5,"timeout":0.04}}', "timeout 0.04 s"),
        (b'{"examination":{"predictor":"p"},"advice":{"warnings":["it is slow"]}}', "<li>it is slow</li>"),
        (b'{"examination":{"predictor":"p"},"advice":{"a":' + b"[" * 100_000, "is not from eventml doctor"),
        (
            b'{"examination":{"predictor":"p"},"advice":{"rate":1' + b"0" * 400 + b"}}",
            "is not from eventml doctor",
        ),
        (b'{"examination":{"predictor":"p"},"advice":{}}' + b" " * 1_000_000, "What p costs"),
        (b" " * 1_000_000 + b'{"examination":{"predictor":"p"},"advice":{}}', "is not from eventml doctor"),
    ],
)
def test_a_file_of_the_doctor_is_shown_or_named(tmp_path: Path, content: bytes, shown: str) -> None:
    (file := tmp_path / "doctor.json").write_bytes(content)
    bus = bus_with_a_handler()
    files = [str(file), "a\0b", str(tmp_path)]
    console = msgspec.structs.replace(bus.settings.console, doctor=files)
    bus.configure(msgspec.structs.replace(bus.settings, console=console))
    page = live_pages(status(), bus).page("/models", "")
    assert shown in page
    assert "cannot be read: Is a directory" in page
    assert "Measured with model" not in page


def test_numbers_are_computed_once_for_all_who_look() -> None:
    asked = 0

    def count() -> ServiceStatus:
        nonlocal asked
        asked += 1
        return status(asked)

    collector = Collector(count, None, History())
    with collector.running():
        ticks = {collector.tick().number for _ in range(50)}
        columns = {id(collector.columns(collector.tick(), "5m")) for _ in range(50)}
    assert asked <= 2, "a second one at most, if two seconds have passed"
    assert len(ticks) == len(columns) == asked


def test_a_port_that_does_not_answer_is_a_reason() -> None:
    with serve_status(lambda: status(lag=9), HostPort(port=0), 5, open_console(Bus("b"))) as address:
        found = remote_status("b", [address, HostPort(port=1)])()
        foreign = remote_status("other", [address])()
    assert found.bus == "b"
    assert len(found.workers) == 1
    assert "h has a lag of 9 events, more than --max-lag 5" in found.unready
    assert any("no service answers at 127.0.0.1:1" in reason for reason in found.unready)
    assert any("belongs to the bus 'b', not 'other'" in reason for reason in foreign.unready)


def test_a_page_that_fails_leaves_the_probes_alone() -> None:
    with serve_status(status, HostPort(port=0), None, open_console(Bus("b"))) as address:
        for path, code in (
            ("/readyz", 200),
            ("/nothing", 404),
            ("/assets/../site.py", 404),
            ("/tail-records", 404),
        ):
            try:
                with urlopen(f"http://{address}{path}", timeout=10) as answer:
                    found = answer.status
            except HTTPError as exc:
                with exc:
                    found = exc.code
            assert (path, found) == (path, code)
