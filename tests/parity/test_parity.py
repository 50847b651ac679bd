"""One predictor answers the same, to the last bit, however it is deployed.

The rides are generated; `PARITY_TRIPS=FILE` takes the first 10,000 of a file of the TLC's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from examples.rides.events import RideStarted
from tests.parity.asking import asked
from tests.parity.parity_app import bus
from tests.parity.scoring import scored
from tests.parity.streaming import streamed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parity.answers import Answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Rides = list[dict[str, Any]]


def decodable(ride: dict[str, Any]) -> bool:
    try:
        msgspec.convert(ride, RideStarted)
    except msgspec.ValidationError:
        return False
    return True


def test_in_memory_every_ride_is_answered_by_every_predictor(in_memory: Answers, rides: Rides) -> None:
    wanted = {ride["ride_id"] for ride in rides if decodable(ride)}
    assert 9_000 < len(wanted) <= len(rides) - 4
    assert {name: answers.keys() for name, answers in in_memory.items()} == dict.fromkeys(
        bus.handlers, wanted
    )


def test_answers_differ_from_ride_to_ride(in_memory: Answers) -> None:
    """Else they could be equal anywhere for want of anything to say."""
    for name, answers in in_memory.items():
        assert len({answer.number for answer in answers.values()}) > 100, name


def test_batches_of_another_size_answer_the_same(in_memory: Answers, rides: Rides) -> None:
    some = rides[:1500]
    mine = {ride["ride_id"] for ride in some}
    assert streamed("memory://in-sevens", some, max_batch=7) == {
        name: {ride: answer for ride, answer in answers.items() if ride in mine}
        for name, answers in in_memory.items()
    }


def test_redis_answers_the_same(in_memory: Answers, rides: Rides, start_redis: Any) -> None:
    assert streamed(start_redis().url, rides) == in_memory


def test_kafka_answers_the_same(in_memory: Answers, rides: Rides, kafka_broker: Any) -> None:
    assert streamed(kafka_broker.url, rides) == in_memory


def test_the_web_service_answers_the_same(in_memory: Answers, rides: Rides) -> None:
    assert asked(rides) == in_memory


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_scoring_a_file_answers_the_same(kind: str, in_memory: Answers, rides: Rides, tmp_path: Path) -> None:
    assert scored(kind, rides, tmp_path) == in_memory


def test_scoring_a_table_of_sqlite_answers_the_same(in_memory: Answers, rides: Rides, tmp_path: Path) -> None:
    assert scored(f"sqlite:///{tmp_path}/rides.db", rides, tmp_path) == in_memory


def test_scoring_a_table_of_postgresql_answers_the_same(
    in_memory: Answers, rides: Rides, tmp_path: Path, postgres_url: str
) -> None:
    assert scored(postgres_url, rides, tmp_path) == in_memory
