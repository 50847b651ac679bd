"""Three workers under load, and a model that is replaced: every event is answered, by a good version."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from tests.deploy.conftest import name
from tests.deploy.oracle import Oracle
from tests.deploy.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.model_updates.conftest import ModelFile

__all__ = ["name"]
pytestmark = pytest.mark.slow

APPS = Path(__file__).with_name("apps")
UPDATES = 6


@pytest.fixture(params=["redis", "kafka"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url)
    return str(request.getfixturevalue("kafka_broker").url)


@pytest.fixture
def service(url: str, name: str, model_file: ModelFile, tmp_path: Path) -> Iterator[Service]:
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"number": 1}')
    variables = {"APP": name, "EVENTML_BACKEND": url, "MODEL": str(model_file.path), "GOLDEN": str(golden)}
    options = ("--workers", "3", "--operations", "0")
    service = Service(tmp_path / "log", *options, app="adding_app:bus", env=variables, apps=APPS)
    yield service
    print(service.text)  # noqa: T201 - shown where the test fails
    service.kill()


class Publishing(threading.Thread):
    """Publishes numbers until it is stopped: a few each hundredth of a second."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self._oracle = oracle
        self._stop_asked = threading.Event()

    def run(self) -> None:
        anyio.run(self._publish)

    async def _publish(self) -> None:
        async with self._oracle.connect() as backend:
            while not self._stop_asked.is_set():
                await backend.publish(self._oracle.next_records(5))
                await anyio.sleep(0.01)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def test_no_event_is_lost_and_no_refused_version_answers(
    service: Service, url: str, name: str, model_file: ModelFile
) -> None:
    oracle = Oracle(url, name, "add")
    oracle.publish(10)
    service.until_ready()
    [first] = model_file.adds
    publishing = Publishing(oracle)
    publishing.start()
    try:
        refused = {model_file.replace_by(b"half a model", 0.0)}
        service.until(lambda: service.metric("eventml_models_refused_total") == 3)
        refused.add(model_file.replace(float("nan")))
        service.until(lambda: service.metric("eventml_models_refused_total") == 6)
        status, details = service.get("/readyz")
        assert (status, details.startswith("ok\n")) == (200, True)
        assert details.count(f"add goes on with model adding {first}: ") == 3
        for number in range(UPDATES):
            version = model_file.replace(float(number + 2))
            in_use = {"handler": "add", "version": version}
            service.until(lambda in_use=in_use: service.metric("eventml_model_info", **in_use) == 3)  # type: ignore[misc]
            time.sleep(0.2)
    finally:
        publishing.stop()
    assert service.get("/readyz")[1] == "ok\n"
    oracle.collect(within=60)
    oracle.check()
    used = set()
    for records in oracle.answers.values():
        [record] = records
        answer, version = msgspec.json.decode(record.value), record.headers["ce_modelversion"]
        assert record.id == f"{answer['number']}/add@{version}"
        assert answer["total"] == answer["number"] + model_file.adds[version]
        used.add(version)
    assert used == set(model_file.adds) - refused
    assert service.stop() == 0
