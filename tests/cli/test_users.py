"""Each command on Redis as the user of `users.acl` that the docs name for it, and what a user may not do."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import redis

from backends.redis import acl
from tests.brokers import bundled_redis
from tests.redis.users import set_user, url_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backends.redis.server import RedisServer
    from tests.brokers import StartRedis
    from tests.cli.conftest import Invoke

    Run = Callable[..., str]

APP = """
from pathlib import Path

import msgspec
import eventml

bus = eventml.Bus("rides")

class Ride(msgspec.Struct):
    ride_id: str
    zone: int

class Minutes(msgspec.Struct):
    ride_id: str
    minutes: float

@bus.predictor("rides.started", to="rides.duration", retries=0, dedupe_window=100)
def duration(rides: list[Ride]) -> list[Minutes]:
    if any(ride.zone == 9 for ride in rides) and not Path("fixed").exists():
        raise KeyError(9)
    return [Minutes(ride.ride_id, 2.0 * ride.zone) for ride in rides]
"""
RIDES = [{"ride_id": "a", "zone": 1}, {"ride_id": "b", "zone": 9}, {"ride_id": "c", "zone": "nine"}]
PASSWORDS = {user: f"a password for the {user}" for user in acl.USERS}
FORGED = {
    "data": '{"pay": "me"}',
    "id": "forged",
    "eventml-dlq-topic": "payments.commands",
    "eventml-dlq-partition": "0",
    "eventml-dlq-offset": "0",
    "eventml-dlq-group": "rides.duration",
    "eventml-dlq-attempts": "1",
    "eventml-dlq-first-failure": "1.0",
    "eventml-dlq-last-failure": "2.0",
    "eventml-dlq-exception": "KeyError",
    "eventml-dlq-message": "KeyError: 9",
}
DEAD_LETTERS = "rides.started.rides.duration.dlq"


@pytest.fixture
def run(invoke: Invoke, folder: Path) -> Run:
    (folder / "app.py").write_text(APP)

    def command(url: str, *args: str, code: int = 0, stdin: str | None = None) -> str:
        result = invoke(*args, "--backend", url, stdin=stdin)
        assert result.exit_code == code, result.output
        return result.output

    return command


@pytest.mark.parametrize("bundled", [False, True], ids=["found", "bundled"])
def test_each_command_passes_as_the_user_that_the_docs_name(
    run: Run, start_redis: StartRedis, folder: Path, caplog: pytest.LogCaptureFixture, *, bundled: bool
) -> None:
    executable = bundled_redis() if bundled else None
    server = start_redis(executable=executable, passwords=PASSWORDS)
    producer, consumer, operator = (f"{server.url_for(user)}?retention=0" for user in acl.USERS)
    run(producer, "publish", "rides.started", "--id", "ride_id", stdin="\n".join(map(json.dumps, RIDES)))
    run(consumer, "run", "app:bus", "--until-idle", "0.2")
    run(operator, "check", "app:bus", "--connect")
    run(operator, "topics", "create", "app:bus")
    assert re.search(r"all +0$", run(operator, "lag", "app:bus"), re.MULTILINE)
    assert '"ride_id":"a"' in run(operator, "tail", "rides.duration", "--from", "earliest", "-n", "1")
    listed = run(operator, "dlq", "list", "app:bus")
    assert set(re.findall(r"^duration +(\w+) +1 ", listed, re.MULTILINE)) == {"DecodeError", "KeyError"}
    assert "KeyError: 9" in run(operator, "dlq", "show", "app:bus", "--id", "b")
    assert "1 dropped" in run(operator, "dlq", "drop", "app:bus", "--exception", "DecodeError")
    assert "1 replayed" in run(operator, "dlq", "replay", "app:bus")
    (folder / "fixed").touch()
    run(consumer, "run", "app:bus", "--until-idle", "0.2")
    assert '"ride_id":"b"' in run(operator, "tail", "rides.duration", "--from", "earliest", "-n", "2")
    assert run(operator, "dlq", "list", "app:bus") == "no dead letters\n"
    assert not [record for record in caplog.records if record.name.startswith("eventml.redis")], caplog.text


@pytest.fixture
def server(start_redis: StartRedis) -> RedisServer:
    """A server with the three users on `rides.*` alone; its default user may do everything."""
    server = start_redis()
    with redis.Redis.from_url(server.url) as client:
        for user in acl.USERS:
            client.execute_command(*set_user(user, keys=("rides.*",)))
    return server


@pytest.mark.parametrize(
    ("user", "args"),
    [
        ("producer", ("publish", "payments.commands")),
        ("producer", ("tail", "rides.started", "--from", "earliest", "-n", "1")),
        ("producer", ("run", "app:bus", "--until-idle", "0.2")),
        ("producer", ("dlq", "list", "app:bus")),
        ("producer", ("dlq", "drop", "app:bus", "--all")),
        ("consumer", ("publish", "payments.commands")),
        ("consumer", ("tail", "payments.commands", "--from", "earliest", "-n", "1")),
        ("operator", ("publish", "payments.commands")),
        ("operator", ("tail", "payments.commands", "--from", "earliest", "-n", "1")),
    ],
)
def test_a_command_that_a_user_of_some_topics_may_not_run(
    run: Run, server: RedisServer, user: str, args: tuple[str, ...]
) -> None:
    with redis.Redis.from_url(server.url) as client:
        for topic in ("rides.started", DEAD_LETTERS, "payments.commands"):
            client.xadd(topic, {"data": "1"})
            client.xgroup_create(topic, "rides.duration.replay", "0")
        output = run(url_of(server.url, user), *args, code=1, stdin='{"pay": "me"}\n')
        assert "does not allow this user" in output
        assert client.xlen("payments.commands") == 1


def test_a_forged_dead_letter_does_not_reach_a_topic_that_its_writer_may_not_write_to(
    run: Run, server: RedisServer
) -> None:
    """Neither one that names another topic, nor one whose names add up to the same dead-letter topic."""
    writer: Any = redis.Redis.from_url(url_of(server.url, "producer"), decode_responses=True)
    added_up = {"eventml-dlq-topic": "rides", "eventml-dlq-group": "started.rides.duration"}
    with writer:
        with pytest.raises(redis.exceptions.NoPermissionError):
            writer.xadd("payments.commands", FORGED)
        writer.xadd(DEAD_LETTERS, FORGED)
        writer.xadd(DEAD_LETTERS, FORGED | added_up)
    output = run(server.url, "dlq", "replay", "app:bus", code=1)
    assert "duration: 0 replayed to rides.started; 2 remain\n" in output
    assert "duration: 2 could not be replayed, and remain: their headers name another topic" in output
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.keys("*") == [DEAD_LETTERS]
    assert "2 misplaced, not to be replayed" in run(server.url, "dlq", "list", "app:bus")
    assert "2 dropped" in run(server.url, "dlq", "drop", "app:bus", "--id", "forged")
    assert run(server.url, "dlq", "list", "app:bus") == "no dead letters\n"
