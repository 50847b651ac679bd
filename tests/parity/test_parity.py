"""A predictor gives the same predictions, to the last bit, however it is deployed.

The rides are generated; with `PARITY_TRIPS=FILE` they are the first 10,000 of a file of the TLC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from examples.rides.events import RideStarted
from tests.parity.batch import predict_in_batch
from tests.parity.parity_app import bus
from tests.parity.stream import predict_on_a_stream
from tests.parity.web import predict_over_http

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parity.predictions import Predictions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # scikit-learn's `Parallel` empties the process's warning filters for a moment, and warns if it finds
    # them empty, as happens where two threads predict at once. As an error it would fail a handler's call.
    pytest.mark.filterwarnings("ignore:`sklearn.utils.parallel.delayed` should be used:UserWarning"),
]

Rides = list[dict[str, Any]]


def decodable(ride: dict[str, Any]) -> bool:
    try:
        msgspec.convert(ride, RideStarted)
    except msgspec.ValidationError:
        return False
    return True


def assert_same(found: Predictions, expected: Predictions) -> None:
    """As `found == expected`, of which pytest would show the difference after minutes."""
    different = [
        f"{name}, ride {ride}: {found.get(name, {}).get(ride)} in the place of {expected[name].get(ride)}"
        for name in expected
        for ride in {**expected[name], **found.get(name, {})}
        if found.get(name, {}).get(ride) != expected[name].get(ride)
    ]
    assert not different, "\n".join([f"{len(different)} predictions differ:", *different[:5]])
    assert found.keys() == expected.keys()


def test_every_predictor_predicts_every_valid_ride(in_memory: Predictions, rides: Rides) -> None:
    valid = {ride["ride_id"] for ride in rides if decodable(ride)}
    assert 9_000 < len(valid) <= len(rides) - 4
    assert {name: predictions.keys() for name, predictions in in_memory.items()} == dict.fromkeys(
        bus.handlers, valid
    )


def test_predictions_differ_from_ride_to_ride(in_memory: Predictions) -> None:
    """Otherwise the tests below could pass with constants."""
    for name, predictions in in_memory.items():
        assert len({one.number for one in predictions.values()}) > 100, name


def test_predictions_do_not_depend_on_the_size_of_batches(in_memory: Predictions, rides: Rides) -> None:
    some = rides[:500]
    ids = {ride["ride_id"] for ride in some}
    expected = {
        name: {ride: one for ride, one in predictions.items() if ride in ids}
        for name, predictions in in_memory.items()
    }
    assert_same(predict_on_a_stream("memory://in-sevens", some, max_batch=7), expected)


def test_redis_gives_the_same_predictions(in_memory: Predictions, rides: Rides, start_redis: Any) -> None:
    assert_same(predict_on_a_stream(start_redis().url, rides), in_memory)


def test_kafka_gives_the_same_predictions(in_memory: Predictions, rides: Rides, kafka_broker: Any) -> None:
    assert_same(predict_on_a_stream(kafka_broker.url, rides), in_memory)


def test_the_web_service_gives_the_same_predictions(in_memory: Predictions, rides: Rides) -> None:
    assert_same(predict_over_http(rides), in_memory)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_scoring_a_file_gives_the_same_predictions(
    kind: str, in_memory: Predictions, rides: Rides, tmp_path: Path
) -> None:
    assert_same(predict_in_batch(kind, rides, tmp_path), in_memory)


def test_scoring_a_table_of_sqlite_gives_the_same_predictions(
    in_memory: Predictions, rides: Rides, tmp_path: Path
) -> None:
    assert_same(predict_in_batch(f"sqlite:///{tmp_path}/rides.db", rides, tmp_path), in_memory)


def test_scoring_a_table_of_postgresql_gives_the_same_predictions(
    in_memory: Predictions, rides: Rides, tmp_path: Path, postgres_url: str
) -> None:
    assert_same(predict_in_batch(postgres_url, rides, tmp_path), in_memory)
