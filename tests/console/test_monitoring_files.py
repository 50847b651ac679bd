"""The dashboard for Grafana and the alerts for Prometheus name the metrics and labels that are exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from eventml.deploy.workers.metrics import render_metrics
from eventml.deploy.workers.reports import HandlerReport, ServiceStatus, WorkerStatus
from eventml.runtime import SECONDS_BUCKETS, SIZE_BUCKETS, Profile

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[2] / "deployment" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
METRIC = re.compile(r"\b(eventml_\w+)(?:\{([^}]*)\})?")


def exported() -> dict[str, set[str]]:
    """The labels of each sample of a service."""
    seconds, sizes = [0.0] * (len(SECONDS_BUCKETS) + 2), [0.0] * (len(SIZE_BUCKETS) + 2)
    stages = dict.fromkeys(("receive", "decode", "call", "encode", "complete"), seconds)
    totals = {"received": [1.0], "latency": seconds, "batch": sizes, "predictions": [1.0, 0.0, 5.0], **stages}
    handler = HandlerReport(group="g", totals=totals, lag=1, model=("m", "1"), profile=Profile([7.0]))
    worker = WorkerStatus(name="worker-1", pid=1, state="ready", handlers={"h": handler})
    found: dict[str, set[str]] = {}
    for line in render_metrics(ServiceStatus(bus="b", workers=[worker])).splitlines():
        if not line.startswith("#"):
            name, _, labels = line.partition("{")
            found[name.split(" ")[0]] = set(re.findall(r'(\w+)="', labels))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    yield from ((one["name"], one["expr"]) for one in DASHBOARD["annotations"]["list"])
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)


EXPRESSIONS = dict(enumerate(expressions()))


@pytest.mark.parametrize("number", EXPRESSIONS, ids=lambda n: EXPRESSIONS[n][0])
def test_an_expression_names_what_is_exported(number: int) -> None:
    _, expression = EXPRESSIONS[number]
    known = exported()
    found = METRIC.findall(expression)
    assert found
    labels = set.intersection(*(known.get(name, set()) for name, _ in found))
    for name, selector in found:
        assert name in known, f"{name} is not exported"
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= known[name]
    for by in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {one.strip() for one in by.split(",")} <= labels | {"instance"}
    assert expression.count("(") == expression.count(")")


def test_prometheus_accepts_the_alerts() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    command = [promtool, "check", "rules", str(FOLDER / "alerts.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_metric_that_is_not_exported_is_found() -> None:
    assert "eventml_dead_letters" not in exported()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do_with_labels_that_it_has(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert re.fullmatch(r"\d+m", rule.get("for", "0m"))
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    kept = {one.strip() for by in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for one in by.split(",")}
    assert named <= kept


def test_panels_lie_beside_each_other_and_have_their_own_ids() -> None:
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(boxes)
    links = re.findall(r"label_values\((\w+), (\w+)\)", json.dumps(DASHBOARD))
    assert all(label in exported()[metric] for metric, label in links)
