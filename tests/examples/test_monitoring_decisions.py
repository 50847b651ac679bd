"""Properties of drift and alarms that hold for every sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eventml.errors import ConfigError
from examples.monitoring.alarms import POINTS, Crossing, Share, call_alarm, drifted, find_alarm, jumped
from examples.monitoring.drift import DRIFTED, by_chance, drifts, psi
from examples.monitoring.profiles import ProfileError, counted, encoded, load, profile
from examples.monitoring.window import Window

histogram = st.lists(st.integers(0, 10_000), min_size=2, max_size=12)


@st.composite
def two_histograms(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    then = draw(histogram)
    return then, draw(st.lists(st.integers(0, 10_000), min_size=len(then), max_size=len(then)))


shares = st.integers(0, 5_000).flatmap(lambda total: st.builds(Share, st.integers(0, total), st.just(total)))


def share_of(lowest: float, highest: float) -> st.SearchStrategy[Share]:
    """A share between two fractions, of a total from 30 to 5,000."""
    return st.integers(30, 5_000).flatmap(
        lambda total: st.builds(Share, st.integers(int(lowest * total), int(highest * total)), st.just(total))
    )


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.none()
columns = st.lists(st.tuples(numbers, st.text(max_size=2) | st.none()), max_size=200)


@given(two_histograms())
def test_index_is_not_negative_and_symmetric(pair: tuple[list[int], list[int]]) -> None:
    then, now = pair
    assert psi(then, now) >= 0
    assert psi(then, now) == pytest.approx(psi(now, then))
    assert psi(then, then) == 0


@given(two_histograms(), st.randoms(use_true_random=False))
def test_index_does_not_depend_on_the_order_of_the_bins(
    pair: tuple[list[int], list[int]], random: Any
) -> None:
    order = list(range(len(pair[0])))
    random.shuffle(order)
    shuffled = [[counts[index] for index in order] for counts in pair]
    assert psi(*shuffled) == pytest.approx(psi(*pair))
    assert by_chance(*shuffled) == pytest.approx(by_chance(*pair))


def test_index_of_a_known_pair() -> None:
    # (0.5 - 0.8) ln(0.5 / 0.8) + (0.5 - 0.2) ln(0.5 / 0.2); half counts do not matter in a million.
    assert psi([500_000, 500_000], [800_000, 200_000]) == pytest.approx(0.41589, abs=1e-4)


def test_index_without_drift_exceeds_the_limit_of_chance_rarely() -> None:
    random = np.random.default_rng(0)
    p = np.full(10, 0.1)
    pairs = [
        (random.multinomial(5_000, p).tolist(), random.multinomial(400, p).tolist()) for _ in range(4_000)
    ]
    beyond = sum(psi(then, now) > by_chance(then, now) for then, now in pairs)
    assert beyond / len(pairs) < 0.004


def test_small_sample_does_not_drift_by_chance_and_shifted_sample_drifts() -> None:
    random = np.random.default_rng(1)
    then = profile({"x": random.normal(size=5_000)})
    [few] = drifts(then, counted(then, {"x": random.normal(size=20)}))
    [far] = drifts(then, counted(then, {"x": random.normal(1.0, size=500)}))
    assert few.psi > 0.1
    assert few.verdict == "stable"
    assert far.verdict == "drifted"
    assert drifted([few]) == []
    [crossing] = drifted([few, far])
    assert (crossing.what, crossing.value) == ("x", far.psi)
    assert crossing.limit == DRIFTED


@given(shares, shares)
def test_only_a_large_rise_is_a_crossing(before: Share, now: Share) -> None:
    crossing = jumped("likely", before, now)
    if crossing is not None:
        assert now.value > before.value + POINTS
        assert crossing.value == now.value > crossing.limit
        assert jumped("likely", now, before) is None


@given(share_of(0, 0.4), share_of(0.3, 1), st.integers(1, 50))
def test_crossing_remains_with_larger_samples(before: Share, now: Share, times: int) -> None:
    assume(jumped("likely", before, now))
    more = [Share(share.count * times, share.total * times) for share in (before, now)]
    assert jumped("likely", *more)


@given(share_of(0, 0.4), share_of(0.3, 1), st.floats(0, 1))
def test_crossing_remains_with_a_higher_share(before: Share, now: Share, further: float) -> None:
    assume(jumped("likely", before, now))
    more = now.count + int(further * (now.total - now.count))
    assert jumped("likely", before, Share(more, now.total))


@given(shares)
def test_empty_sample_is_no_crossing(share: Share) -> None:
    assert jumped("likely", Share(0, 0), share) is None
    assert jumped("likely", share, Share(0, 0)) is None


def test_rise_in_a_small_sample_is_no_crossing() -> None:
    assert jumped("likely", Share(2, 20), Share(5, 20)) is None
    assert jumped("likely", Share(200, 2_000), Share(500, 2_000)) is not None


def test_small_significant_rise_is_no_crossing() -> None:
    assert jumped("likely", Share(100_000, 1_000_000), Share(149_000, 1_000_000)) is None
    assert jumped("likely", Share(100_000, 1_000_000), Share(151_000, 1_000_000)) is not None


@given(columns, columns)
def test_every_cell_is_counted_once(then: list[Any], now: list[Any]) -> None:
    def cells(rows: list[Any]) -> dict[str, list[Any]]:
        return {"number": [row[0] for row in rows], "name": [row[1] for row in rows]}

    made = profile(cells(then))
    for name, counts in counted(made, cells(now)).items():
        assert sum(counts) == len(now)
        assert len(made.features[name].labels()) == len(counts)
    assert {name: feature.counts for name, feature in made.features.items()} == counted(made, cells(then))


@given(columns, st.lists(columns, max_size=5))
def test_window_of_batches_gives_the_drift_of_all_their_events(
    then: list[Any], batches: list[list[Any]]
) -> None:
    made = profile({"x": [row[0] for row in then]})
    window = Window(made, size=sum(map(len, batches)) + 1)
    for batch in batches:
        assert window.add({"x": [row[0] for row in batch]}, len(batch)) is None
    together = [row[0] for batch in batches for row in batch]
    expected = drifts(made, counted(made, {"x": [*together, 1.0]}))
    assert window.add({"x": [1.0]}, 1) == expected
    assert window.rows == 0
    assert window.add({"x": [*together, 1.0]}, len(together) + 1) == expected


def test_profile_is_saved_and_loaded_and_errors_name_the_column(tmp_path: Path) -> None:
    made = profile({"x": [1.0, 2.0, None], "plan": ["a", "b", None]}, [0.3, 0.1])
    (tmp_path / "profile.json").write_bytes(encoded(made))
    assert load(tmp_path / "profile.json") == made
    with pytest.raises(ProfileError, match="'plan'"):
        counted(made, {"x": [1.0]})
    with pytest.raises(ProfileError, match="train the model first"):
        load(tmp_path / "nothing.json")
    with pytest.raises(ProfileError, match="'x' must hold numbers"):
        counted(made, {"x": ["one"], "plan": ["a"]})
    (tmp_path / "broken.json").write_text("[1")
    with pytest.raises(ProfileError, match=r"broken\.json"):
        load(tmp_path / "broken.json")


def test_alarm_is_called_once_with_all_crossings_and_not_without() -> None:
    received: list[Any] = []
    crossings = [Crossing("x", 0.5, 0.25, "x has drifted"), Crossing("y", 0.5, 0.25, "y has drifted")]
    assert call_alarm(received.append, crossings)
    assert not call_alarm(received.append, [])
    assert received == [crossings]


def test_alarm_is_imported_by_name_or_the_error_names_the_option() -> None:
    assert find_alarm("examples.monitoring.alarms:print_alarm").__name__ == "print_alarm"
    for target in (
        "nowhere:alarm",
        "examples.monitoring.alarms:nothing",
        "examples.monitoring.alarms:POINTS",
    ):
        with pytest.raises(ConfigError, match="--alarm"):
            find_alarm(target)
