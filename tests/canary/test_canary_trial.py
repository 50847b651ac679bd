"""Trials: what the records of a canary's topic say, and which keys a canary has."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Record
from eventml.runtime.model_versions.canary_trial import CanaryRecord, CanaryTrial, Sums, is_in_share

if TYPE_CHECKING:
    from tests.canary.conftest import Floats, Month

WORSE = {"failures": Sums(30, 30.0, 30.0)}
HALF = {"failures": Sums(15, 15.0, 15.0)}


def trial_of(*records: CanaryRecord, rolls_back: bool = True) -> CanaryTrial:
    trial = CanaryTrial(CanaryRecord(version="v2", share=0.1), rolls_back=rolls_back)
    for record in records:
        trial.apply(record)
    return trial


def sums(worker: str, of: Any = WORSE, trial: str = "", version: str = "v2") -> CanaryRecord:
    return CanaryRecord(version=version, trial=trial, worker=worker, sums=of)


def test_a_worse_canary_gets_no_more_keys() -> None:
    trial = trial_of(sums("a"))
    assert (trial.share, trial.worse) == (0.0, "it fails for events that the model answers (30 observations)")


def test_an_alert_leaves_the_share_as_it_is() -> None:
    trial = trial_of(sums("a"), rolls_back=False)
    assert trial.share == 0.1
    assert trial.worse


def test_the_observations_of_all_workers_are_tested_together() -> None:
    assert not trial_of(sums("a", HALF)).worse
    assert not trial_of(sums("a", HALF), sums("a", HALF)).worse  # a worker's newest sums are all that it has
    assert trial_of(sums("a", HALF), sums("b", HALF)).worse


def test_another_canary_and_an_earlier_trial_change_nothing() -> None:
    began = CanaryRecord(version="v2", trial="t", share=0.5)
    assert trial_of(began, sums("a"), sums("a", version="v3")).share == 0.5
    assert trial_of(began, sums("a", trial="t")).share == 0.0
    assert trial_of(CanaryRecord(version="v3", trial="t", share=0.5)).share == 0.1


def test_a_share_that_is_set_begins_a_new_trial() -> None:
    trial = trial_of(sums("a"), CanaryRecord(version="v2", trial="t", share=0.5))
    assert (trial.share, trial.worse, trial.observations["failures"]) == (0.5, "", 0)


RECORDS = st.builds(
    CanaryRecord,
    version=st.sampled_from(["v1", "v2"]),
    trial=st.sampled_from(["", "t"]),
    share=st.none() | st.floats(0, 1),
    worker=st.sampled_from("ab"),
    sums=st.sampled_from([{}, HALF, WORSE, {"errors": Sums(200, 190.0, 200.0)}]),
)


@given(st.lists(RECORDS))
def test_records_survive_the_topic_and_all_workers_agree(records: list[CanaryRecord]) -> None:
    read = [msgspec.json.decode(msgspec.json.encode(one), type=CanaryRecord) for one in records]
    assert read == records
    first, second = trial_of(*records), trial_of(*read)
    assert (first.name, first.share, first.worse) == (second.name, second.share, second.worse)
    shares = [one.share for one in records if one.share is not None and one.version == "v2"]
    assert first.share in ({0.0} if first.worse else {([0.1, *shares])[-1]})


@given(st.binary(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_canary_keeps_its_keys_when_its_share_grows(key: bytes, one: float, other: float) -> None:
    record, another = Record("t", b"1", key, "id-1"), Record("u", b"2", key, "id-2")
    less, more = sorted([one, other])
    assert is_in_share(record, less) <= is_in_share(record, more)
    assert is_in_share(record, one) == is_in_share(another, one)
    assert (is_in_share(record, 0.0), is_in_share(record, 1.0)) == (False, True)


def test_a_share_is_one_of_the_keys_and_without_keys_one_of_the_ids() -> None:
    keyed = [Record("t", b"", f"rider-{number}".encode(), "id") for number in range(20_000)]
    unkeyed = [Record("t", b"", None, f"rider-{number}") for number in range(20_000)]
    chosen = [is_in_share(record, 0.1) for record in keyed]
    assert 1_870 <= sum(chosen) <= 2_130  # three standard deviations
    assert chosen == [is_in_share(record, 0.1) for record in unkeyed]


def test_the_keys_are_the_same_in_another_process() -> None:
    keys = [f"k{number}" for number in range(200)]
    code = (
        "import sys; from eventml import Record\n"
        "from eventml.runtime.model_versions.canary_trial import is_in_share\n"
        "print(*[k for k in sys.argv[1:] if is_in_share(Record('t', b'', k.encode()), 0.1)])"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, *keys], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [key for key in keys if is_in_share(Record("t", b"", key.encode()), 0.1)]
    assert done.stdout.split()


# Models of trips


def needed(model: Floats, canary: Floats, order: Any, tolerance: float = 0.05) -> int | None:
    """After how many true values the canary is worse, tested every 25; None if it is not."""
    trial, found = trial_of(), Sums()
    for number, difference in enumerate((canary - (1 + tolerance) * model)[order], 1):
        found = found.observe(difference)
        if number % 25 == 0:
            trial.apply(sums("a", {"errors": found}))
            if trial.worse:
                return number
    return None


def test_an_equal_model_is_not_rolled_back_in_100_runs(month: Month) -> None:
    """Two models, each trained on a half of the month, for 5,000 later trips, without any tolerance."""
    size, false_alarms = len(month.trained), 0
    halves = [np.random.default_rng(seed).permutation(size)[: size // 2] for seed in range(10)]
    rest = [np.setdiff1d(np.arange(size), half) for half in halves]
    errors = [
        (month.errors(month.model(half)), month.errors(month.model(other)))
        for half, other in zip(halves, rest, strict=True)
    ]
    for run in range(100):
        first, second = errors[run % 10]
        order = np.random.default_rng(run).permutation(len(first))[:5_000]
        false_alarms += needed(first, second, order, tolerance=0.0) is not None
    assert false_alarms <= 5


@pytest.mark.parametrize(("part", "within"), [(0.01, 1_500), (0.1, 4_000)], ids=["1%", "10%"])
def test_a_worse_model_is_rolled_back_within_so_many_true_values(
    month: Month, part: float, within: int
) -> None:
    """One that was trained on a part of the month."""
    model = month.errors(month.model(slice(None)))
    canary = month.errors(month.model(slice(None, None, round(1 / part))))
    assert canary.mean() > 1.1 * model.mean()
    for seed in range(10):
        found = needed(model, canary, np.random.default_rng(seed).permutation(len(model)))
        assert found is not None
        assert found <= within
