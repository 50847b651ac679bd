"""The code on the pages of `docs/coming-from`: the other library's and ours give the same predictions."""

from __future__ import annotations

import ast
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventml import Record
from eventml.testing import TestBus

if TYPE_CHECKING:
    from backends.redis.server import RedisServer

PAGES = Path(__file__).parents[2] / "docs" / "coming-from"
NAMES = ["faststream", "celery", "bentoml", "loop"]
RIDES = [{"ride_id": "r-1", "miles": 2.0}, {"ride_id": "r-2", "miles": 3.5}]


class Minutes:
    """A model of five minutes for every mile."""

    def predict(self, rows: list[list[float]]) -> Any:
        import numpy as np  # noqa: PLC0415 - only where numpy is installed

        return 5 * np.array(rows)[:, 0]


def code(page: str) -> dict[str, str]:
    """Blocks of a page by the library that they are for."""
    text = (PAGES / f"{page}.md").read_text("utf-8")
    return dict(re.findall(r'```python title="(.*?)"\n(.*?)```', text, re.DOTALL))


def run(source: str) -> dict[str, Any]:
    """Run a block as a module, and return its names, with the model of this test."""
    names: dict[str, Any] = {"__name__": "page"}
    exec(source, names)  # noqa: S102 - our own page
    names["model"] = Minutes()
    return names


@pytest.mark.anyio
@pytest.mark.parametrize("page", NAMES)
async def test_our_code_predicts(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(code(page)["eventml"])
    async with TestBus(names["bus"], models={"duration": Minutes()}, raise_failures=True) as test:
        for ride in RIDES:
            await test.publish_record(Record("rides.started", json.dumps(ride).encode()))
        predicted = [json.loads(record.value or b"") for record in test.records("rides.duration")]
    assert [one["value" if page == "bentoml" else "minutes"] for one in predicted] == [10.0, 17.5]
    if page == "celery":
        assert capsys.readouterr().out == "r-1 10.0\nr-2 17.5\n"


@pytest.mark.parametrize("page", NAMES)
def test_the_code_of_others_parses(page: str) -> None:
    blocks = code(page)
    del blocks["eventml"]
    [other] = blocks.values()
    ast.parse(other)
    assert max(map(len, other.splitlines())) < 60  # beside the other block without a scroll bar


@pytest.mark.anyio
async def test_the_code_of_faststream_predicts() -> None:
    pytest.importorskip("faststream.redis")
    from faststream.redis import TestRedisBroker  # noqa: PLC0415 - after the check

    names = run(code("faststream")["FastStream"])
    async with TestRedisBroker(names["broker"]) as broker:
        for ride in RIDES:
            await broker.publish(ride, stream="rides.started")
        published = [call.args[0] for call in names["results"].mock.mock_calls]
    assert [one["minutes"] for one in published] == [10.0, 17.5]


def test_the_loop_of_redis_py_predicts(redis_server: RedisServer) -> None:
    from redis import Redis  # noqa: PLC0415 - only where it is installed

    names = run(code("loop")["redis-py"])
    with Redis.from_url(redis_server.url) as redis:
        redis.delete("rides.started", "rides.duration")
        names["join"](redis)
        names["join"](redis)  # a second worker
        for ride in RIDES:
            redis.xadd("rides.started", {"data": json.dumps(ride)})
        names["handle_some"](redis)
        entries: Any = redis.xrange("rides.duration")
        pending: Any = redis.xpending("rides.started", "duration")
        redis.delete("rides.started", "rides.duration")
    assert [json.loads(fields[b"data"])["minutes"] for _, fields in entries] == [10.0, 17.5]
    assert pending["pending"] == 0


def test_the_defaults_of_faststream_are_as_the_page_says() -> None:
    pytest.importorskip("faststream.kafka")
    from faststream.kafka import KafkaBroker  # noqa: PLC0415 - after the check
    from faststream.redis import RedisBroker, StreamSub  # noqa: PLC0415 - as above

    text = (PAGES / "faststream.md").read_text("utf-8")
    assert f"FastStream {version('faststream')}." in text, "read its release notes, and the page again"
    assert KafkaBroker().subscriber("topic").ack_policy.name == "ACK_FIRST"
    stream = StreamSub("stream", group="group", consumer="worker-1")
    assert RedisBroker().subscriber(stream=stream).ack_policy.name == "REJECT_ON_ERROR"  # which does not ack
