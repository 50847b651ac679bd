"""The workers of a supervisor may not read any more: `/readyz` is 200, and a job ends with status 0."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from tests.deploy.service import Service
from tests.redis import scene, users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backends.redis.server import RedisServer

APP = """
import os
from eventml import Bus
from eventml.deploy.workers import readiness
from eventml.runtime import worker

readiness.FAILING_AFTER = 0.5
worker._IDLE_UNKNOWN = 1.0
bus = Bus("refused")

@bus.consumer(os.environ["TOPIC"], group="group")
def read(numbers: list[int]) -> None: ...
"""


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[Any]:  # redis-py types no raw command
    """Redis with a user `refused`, which may not read entries of streams."""
    with Redis.from_url(redis_server.url) as client:
        rules = ("on", f">{users.PASSWORD}", "~*", "+@all", "-xreadgroup")
        client.execute_command("ACL", "SETUSER", "refused", "reset", *rules)
        yield client
        client.execute_command("ACL", "DELUSER", "refused")


@contextmanager
def service(folder: Path, server: RedisServer, *options: str) -> Iterator[Service]:
    (folder / "refused.py").write_text(APP)
    backend = users.url_of(server.url, "refused") + "?timeout=0.3"
    env = {"TOPIC": scene.new_topic(), "EVENTML_BACKEND": backend}
    options = (*options, "--operations", "0")
    running = Service(folder / "log", *options, app="refused:bus", apps=folder, env=env)
    try:
        running.until_logged("operations port: ")
        yield running
    finally:
        print(running.text)  # noqa: T201 - shown where the test fails
        running.kill()


def test_the_supervisor_says_which_workers_cannot_read_until_they_can(
    admin: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    with service(tmp_path, redis_server, "--workers", "2") as running:
        running.until(lambda: running.get("/readyz")[1].count("receive of read has failed") == 2)
        code, body = running.get("/readyz")
        assert code == 503
        for name in ("worker-1", "worker-2"):
            assert f"{name}: receive of read has failed for" in body
        assert "NOPERM" in body
        assert running.metric("eventml_broker_failing_seconds", worker="worker-1") > 0
        admin.execute_command("ACL", "SETUSER", "refused", "+xreadgroup")
        running.until(lambda: running.get("/readyz") == (200, "ok\n"))
        assert users.PASSWORD not in body + running.text
        assert running.stop() == 0
        assert running.text.count("receive fails") == 1, "a line for the service, not for each worker"


def test_workers_that_restart_while_they_have_no_rights_do_not_stop_the_service(
    admin: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    admin.execute_command("ACL", "SETUSER", "refused", "+xreadgroup")
    with service(tmp_path, redis_server, "--workers", "1") as running:
        running.until(lambda: running.get("/readyz") == (200, "ok\n"))
        admin.execute_command("ACL", "SETUSER", "refused", "-xgroup", "-xreadgroup")
        os.kill(running.workers[0], signal.SIGKILL)
        running.until(lambda: running.text.count("; restarting in") > 5)  # a crash loop would be 5
        code, body = running.get("/readyz")
        assert (code, "NOPERM" in body) == (503, True)
        admin.execute_command("ACL", "SETUSER", "refused", "+xgroup", "+xreadgroup")
        running.until(lambda: running.get("/readyz") == (200, "ok\n"))
        assert running.stop() == 0


def test_a_job_that_may_not_read_ends_with_an_error(
    admin: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    del admin
    with service(tmp_path, redis_server, "--workers", "1", "--until-idle", "0.1") as running:
        assert running.wait() == 1
        assert "whether events are left: receive of read fails: DeniedError" in running.text
        assert "restarting" not in running.text


def test_workers_that_restart_while_the_password_is_another_do_not_stop_the_service(
    admin: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    admin.execute_command("ACL", "SETUSER", "refused", "+xreadgroup")
    with service(tmp_path, redis_server, "--workers", "1") as running:
        running.until(lambda: running.get("/readyz") == (200, "ok\n"))
        admin.execute_command("ACL", "SETUSER", "refused", "resetpass", ">another")
        os.kill(running.workers[0], signal.SIGKILL)
        running.until(lambda: running.text.count("; restarting in") > 5)  # a crash loop would be 5
        running.until(lambda: "WRONGPASS" in running.get("/readyz")[1])
        admin.execute_command("ACL", "SETUSER", "refused", "resetpass", f">{users.PASSWORD}")
        running.until(lambda: running.get("/readyz") == (200, "ok\n"))
        assert users.PASSWORD not in running.text
        assert running.stop() == 0
