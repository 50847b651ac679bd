"""The tables of the page about scale are those that the simulation prints from its saved measurements."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import msgspec
import pytest
import yaml

from benchmarks import simulation
from benchmarks.simulation_fit import PREDICTED, Measured, predict
from benchmarks.simulation_measuring import Case

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/scale.md").read_text("utf-8")


@pytest.fixture(scope="module")
def measured() -> Measured:
    return msgspec.json.decode((ROOT / "benchmarks/simulation.json").read_bytes(), type=Measured)


@pytest.fixture(scope="module")
def simulated(measured: Measured) -> Mapping[Case, float]:
    return predict(measured)


def assert_printed(rows: simulation.Rows) -> None:
    missing = [line for row in rows if (line := f"| {' | '.join(row)} |") not in PAGE]
    assert not missing, "these rows are not in docs/scale.md:\n" + "\n".join(missing)


def test_the_comparison_is_the_simulations(measured: Measured, simulated: Mapping[Case, float]) -> None:
    assert_printed(simulation.compared(measured, simulated))


def test_the_plan_is_the_simulations(measured: Measured) -> None:
    assert_printed(simulation.planned(measured))


def test_the_bursts_are_the_simulations(measured: Measured) -> None:
    assert_printed(simulation.followed(simulation.bursts(measured.start())))


def test_the_pictures_are_drawn_from_the_saved_measurements(
    measured: Measured, simulated: Mapping[Case, float], tmp_path: Path
) -> None:
    from benchmarks import simulation_plots  # noqa: PLC0415 - matplotlib takes a second

    simulation_plots.compared(measured, simulated, tmp_path / "compared.svg")
    drawn, shown = (
        set(re.findall(r">([^<>]*\w[^<>]*)</text>", file.read_text("utf-8")))
        for file in (tmp_path / "compared.svg", ROOT / "docs/images/scale-compared.svg")
    )
    assert drawn == shown
    assert str(Case(forest=True, workers=3, nodes=3)) in shown


def test_the_recommended_trigger_is_that_of_new_projects_and_has_the_simulated_threshold() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    triggers = yaml.safe_load(block)["triggers"]
    template = (ROOT / "src/eventml/templates/kubernetes/kubernetes/keda.yaml.tmpl").read_text("utf-8")
    spec = yaml.safe_load(Template(template).substitute(name="shop", slug="shop"))["spec"]
    assert spec["triggers"] == triggers
    assert float(triggers[0]["metadata"]["threshold"]) == simulation.DEMAND
    [simulated] = [scaler for name, scaler in simulation.SCALERS.items() if "the template" in name]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (simulated.least, simulated.most)


def test_the_recommended_query_has_metrics_that_the_operations_port_serves() -> None:
    operations = (ROOT / "docs/operations.md").read_text("utf-8")
    [query] = re.findall(r"query: >-\n(.*?)\n *#", PAGE, re.DOTALL)
    names = re.findall(r"eventml_\w+", query)
    assert names == ["eventml_events_completed_total", "eventml_lag"]
    assert all(f"`{name}`" in operations for name in names)


def test_every_case_that_is_predicted_is_within_15_percent() -> None:
    """What the page says, of the saved measurements."""
    rows = [row for row in PAGE.splitlines() if row.endswith("| predicted |")]
    assert len(rows) == len(PREDICTED)
    assert all(abs(int(re.findall(r"([+-]\d+)%", row)[0])) <= 15 for row in rows), rows
