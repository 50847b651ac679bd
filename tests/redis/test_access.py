"""Connecting: users with few rights, TLS, Unix sockets, and the errors for refused users."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from backends.process import StartError, free_ports
from eventml.backends import redis
from eventml.errors import BackendError, LoginError, UnavailableError
from tests.redis import scene

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import StartRedis

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PASSWORDS = {user: f"{user}-password-of-a-test" for user in ("producer", "consumer", "operator")}


async def test_a_producer_and_a_consumer_need_no_more_than_their_rights(start_redis: StartRedis) -> None:
    server = start_redis(passwords=PASSWORDS)
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 300)
    settings = redis.Settings(lease=0.3, retention=0.0)
    async with (
        redis.open(server.url_for("producer"), settings) as producer,
        redis.open(server.url_for("consumer"), settings) as consumer,
        scene.asking(server.url_for("operator")) as client,
    ):
        await producer.publish(records)
        await producer.publish(scene.new_records(topic, 1, start=300))
        async with consumer.subscribe([topic], group="group", start="earliest") as first:
            await scene.take(first, 10)
        async with consumer.subscribe([topic], group="group", start="earliest") as second:
            taken = await scene.take(second, 301)
            await asyncio.sleep(0.5)  # past the lease, so that it has to be renewed
            await second.complete(scene.answers(taken, to))
            assert await second.lag() == 0
            await scene.until(lambda: _shorter(client, topic), "nothing was trimmed")
        assert await scene.ids(client, to) == scene.answered(scene.new_records(topic, 301))
        with pytest.raises(BackendError, match="does not allow this user"):
            async with producer.subscribe([topic], group="group", start="earliest"):
                pass


async def _shorter(client: Any, topic: str) -> bool:
    return bool(await client.xlen(topic) < 300)


async def test_a_missing_or_wrong_password_is_named_without_showing_it(start_redis: StartRedis) -> None:
    server = start_redis(passwords=PASSWORDS)
    with pytest.raises(LoginError, match="requires a user and a password"):
        async with redis.open(server.url, redis.Settings()):
            pass
    wrong = server.url_for("producer").replace("producer-password", "wrong-password")
    with pytest.raises(LoginError, match="refuses the user or the password") as caught:
        async with redis.open(wrong, redis.Settings()):
            pass
    assert "wrong-password" not in str(caught.value)


async def test_an_unreachable_server_is_reported_at_once() -> None:
    port = next(free_ports())
    with pytest.raises(UnavailableError, match=f"cannot reach Redis at 127.0.0.1:{port}"):
        async with redis.open(f"redis://user:secret@127.0.0.1:{port}", redis.Settings()):
            pass


async def test_a_unix_socket(start_redis: StartRedis) -> None:
    server = start_redis(unix=True)
    topic = scene.new_topic()
    async with (
        redis.open(server.url, redis.Settings(db=3)) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 5))
        assert len(await scene.take(member, 5)) == 5
        async with scene.asking(f"{server.url}?db=3") as client:
            assert await client.xlen(topic) == 5


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_tls(start_redis: StartRedis, tmp_path: Path) -> None:
    certify(tmp_path)
    port = next(free_ports())
    settings = {
        "tls-port": str(port),
        "tls-cert-file": str(tmp_path / "cert.pem"),
        "tls-key-file": str(tmp_path / "key.pem"),
        "tls-ca-cert-file": str(tmp_path / "cert.pem"),
        "tls-auth-clients": "no",
    }
    try:
        server = start_redis(settings=settings)
    except StartError as exc:
        if not re.search("Bad directive|connection type", str(exc)):
            raise
        pytest.skip("this server was built without TLS")
    url, topic = f"rediss://localhost:{port}/0", scene.new_topic()
    records = scene.new_records(topic, 2_000)
    async with (
        redis.open(url, redis.Settings(ca_file=str(tmp_path / "cert.pem"))) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(records)
        await member.complete(scene.answers(await scene.take(member, 2_000), f"{topic}.out"))
        async with scene.asking(server.url) as client:
            assert await scene.ids(client, f"{topic}.out") == scene.answered(records)
    with pytest.raises(UnavailableError, match="certificate verify failed"):
        async with redis.open(url, redis.Settings()):
            pass
    async with redis.open(url, redis.Settings(verify=False)) as backend:
        assert await backend.lag(topic, group="group") == {0: 0}


def certify(folder: Path) -> None:
    """Create a self-signed certificate for localhost."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    name = ("-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))
    subprocess.run((*command.split(), *name, *files), check=True, capture_output=True)  # noqa: S603 - ours


@pytest.mark.parametrize("kind", ["group", None])
async def test_a_user_who_may_not_read_gets_an_error(start_redis: StartRedis, kind: str | None) -> None:
    server = start_redis(passwords=PASSWORDS)
    topic = scene.new_topic()
    async with redis.open(server.url_for("producer"), redis.Settings()) as backend:
        with pytest.raises(BackendError, match="does not allow this user"):
            async with backend.subscribe([topic], group=kind, start="earliest") as reader:
                await reader.receive(1)
