"""Login and encryption, on a broker that requires them."""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

import eventml
from backends.process import NotInstalledError
from eventml import config
from eventml.backends import kafka
from eventml.backends.base import Completion, NewTopic
from eventml.errors import (
    BackendError,
    ConfigError,
    LoginError,
    PublishError,
    TopicNotFoundError,
    UnavailableError,
)
from eventml.records import REPLY_TO, Record
from eventml.runtime import DeadLetterFilter, dead_letter_queues, replay_or_drop, reply_topic
from tests.brokers import without_broker
from tests.kafka.conftest import everything
from tests.kafka.secure import PASSWORD, USER, grant, permit, secure_broker, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from eventml.backends.kafka import KafkaBackend
    from tests.kafka.secure import Secure

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.kafka,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

LOGIN = f"{USER}:{quote(PASSWORD, safe='')}@"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    try:
        with secure_broker(tmp_path_factory.mktemp("certificates")) as broker:
            yield broker
    except NotInstalledError as exc:
        without_broker(str(exc))


@asynccontextmanager
async def opened(url: str, environ: dict[str, str] | None = None) -> AsyncIterator[KafkaBackend]:
    """As a bus opens it: the URL's query becomes settings."""
    settings = config.load(environ=environ or {}, overrides={"backend": {"url": url}}).backend
    assert isinstance(settings.options, kafka.Settings)
    async with kafka.open(settings.url, settings.options) as backend:
        yield backend


async def works(url: str, environ: dict[str, str] | None = None) -> bool:
    async with opened(url, environ) as backend:
        return await backend.missing_topics(["nowhere"]) == ["nowhere"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_logs_in(secure: Secure, mechanism: str) -> None:
    query = f"security=sasl_plaintext&sasl_mechanism={mechanism}"
    assert await works(f"kafka://{LOGIN}{secure.plain}?{query}")


async def test_scram_over_tls_is_what_a_user_in_the_url_means(secure: Secure) -> None:
    assert await works(f"kafka://{LOGIN}{secure.sasl_tls}?ca={secure.files / 'ca.pem'}")


async def test_a_password_comes_from_the_environment_or_a_file(secure: Secure, tmp_path: Path) -> None:
    query = f"security=sasl_ssl&ca={secure.files / 'ca.pem'}"
    assert await works(f"kafka://{USER}:${{PASSWORD}}@{secure.sasl_tls}?{query}", {"PASSWORD": PASSWORD})
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    assert await works(f"kafka://{USER}@{secure.sasl_tls}?{query}&password_file={secret}")


async def test_a_token_logs_in(secure: Secure, tmp_path: Path) -> None:
    """A token is read at each connection; one that is refused later is an error that may be repeated."""
    file = tmp_path / "token"
    file.write_text(token())
    query = f"security=sasl_ssl&ca={secure.files / 'ca.pem'}&token_file={file}"
    async with opened(f"kafka://{secure.sasl_tls}?{query}") as backend:
        file.write_text("not a token")
        with pytest.raises(BackendError, match="refused the login"):
            await backend.publish([Record("nowhere", b"1")])
        file.write_text(token())
        with pytest.raises(TopicNotFoundError):
            await backend.publish([Record("nowhere", b"1")])


async def test_the_certificate_of_a_client_is_checked(secure: Secure, tmp_path: Path) -> None:
    files = secure.files
    ca = f"ca={files / 'ca.pem'}"
    assert await works(f"kafka://{secure.tls}?{ca}&cert={files / 'client.pem'}")
    locked = f"cert={files / 'client.crt'}&key={files / 'locked.key'}"
    password = tmp_path / "key_password"
    password.write_text("sesame")
    assert await works(f"kafka://{secure.tls}?{ca}&{locked}&key_password_file={password}")
    password.write_text("wrong")
    with pytest.raises(ConfigError, match=r"backend\.cert"):
        await works(f"kafka://{secure.tls}?{ca}&{locked}&key_password_file={password}")
    with pytest.raises(UnavailableError):
        await works(f"kafka://{secure.tls}?security=ssl&{ca}&request_timeout=2")


async def test_a_broker_with_an_unknown_certificate_is_refused(secure: Secure) -> None:
    with pytest.raises(UnavailableError, match="certificate"):
        await works(f"kafka://{LOGIN}{secure.sasl_tls}")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_refused_login_is_reported_without_the_password(
    secure: Secure, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    query = f"security=sasl_plaintext&sasl_mechanism={mechanism}"
    with pytest.raises(LoginError, match="refused the login") as error:
        await works(f"kafka://{USER}:wrong-secret@{secure.plain}?{query}")
    shown = "".join([str(error.value), str(error.value.__cause__), caplog.text])
    assert "wrong-secret" not in shown


async def test_a_port_that_requires_tls_fails_in_time(secure: Secure) -> None:
    with pytest.raises(UnavailableError):
        await works(f"kafka://{secure.tls}?request_timeout=2&publish_timeout=4")


async def test_a_missing_permission_is_an_error_that_may_be_repeated(secure: Secure) -> None:
    """Publishing, completing and receiving work again once it is granted."""
    login = f"kafka://{LOGIN}{secure.plain}?security=sasl_plaintext&session_timeout=6&heartbeat_interval=0.5"
    topic, to = f"source-{token_hex(4)}", f"target-{token_hex(4)}"

    async def permit_user(name: str, *, allowed: bool) -> None:
        await asyncio.to_thread(permit, secure.admin, name, allowed=allowed)

    async with opened(f"kafka://{secure.admin}") as admin:
        await admin.create_topics([NewTopic(name=name, partitions=1) for name in (topic, to)])
        await admin.publish([Record(topic, b"1", None, "first")])
        async with (
            opened(login) as backend,
            backend.subscribe([topic], group=topic, start="earliest") as member,
        ):
            [first] = await member.receive(10)
            await permit_user(to, allowed=False)
            done = [Completion(first, (Record(to, b"2", None, "output"),))]
            with pytest.raises(BackendError, match="kafka-acls") as refused:
                await backend.publish([Record(to, b"0")])
            assert not isinstance(refused.value, PublishError)
            with pytest.raises(BackendError, match="kafka-acls"):
                await member.complete(done)
            await permit_user(to, allowed=True)
            await repeated(lambda: member.complete(done))
            await permit_user(topic, allowed=False)
            with pytest.raises(UnavailableError, match="kafka-acls"):
                async with asyncio.timeout(30):
                    await member.receive(10)
            await permit_user(topic, allowed=True)
            # Without a record it says that it can read again; the first one may come again, as the commit of
            # its completion was refused too.
            received = [one.record.id for one in await repeated(lambda: member.receive(1))]
            assert received in ([], ["first"])
            await admin.publish([Record(topic, b"3", None, "second")])
            while received != ["second"]:
                received = [one.record.id for one in await repeated(lambda: member.receive(1))]
        assert [d.record.id for d in await everything(admin, to, 1)] == ["output"]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_each_role_needs_no_more_rights_than_the_docs_say(secure: Secure, delivery: str) -> None:
    """A publisher, a worker with a request and a dead letter, and an operator who replays that."""
    query = f"security=sasl_plaintext&session_timeout=6&heartbeat_interval=0.5&delivery={delivery}"
    login = f"kafka://{LOGIN}{secure.plain}?{query}"
    name = f"rides-{token_hex(4)}"
    bus, topic, to = eventml.Bus(name), f"{name}.started", f"{name}.duration"

    @bus.predictor(topic, to=to, group=f"{name}.group", retries=0)
    def double(numbers: list[int]) -> list[dict[str, int]]:
        return [{"is": 18 // (9 - number)} for number in numbers]

    [queue] = dead_letter_queues(bus.handlers.values())
    letters, replies = queue.dead_letter_topic, reply_topic(topic)

    async def may(*rights: tuple[str, str, str]) -> None:
        await asyncio.to_thread(grant, secure.admin, name, *rights)

    async with opened(f"kafka://{secure.admin}") as admin, asyncio.timeout(120):
        await admin.create_topics([NewTopic(name=one, partitions=1) for one in (topic, to, letters, replies)])

        await may(("TOPIC", topic, "WRITE"))
        request = Record(topic, b"3", None, "request", {REPLY_TO: replies})
        async with opened(login) as backend:
            await repeated(lambda: backend.publish([request, Record(topic, b"9", None, "bad")]))
            await denied(lambda: backend.publish([Record(to, b"1")]))
            await denied(lambda: read_one(backend, topic))

        await may(
            ("TOPIC", topic, "READ"),
            *(("TOPIC", one, "WRITE") for one in (to, letters, replies)),
            ("GROUP", queue.group, "READ"),
            *([transactional(queue.group)] if delivery == "exactly_once" else []),
        )
        async with opened(login) as backend:
            await repeated(lambda: backend.lag(topic, group=queue.group))
            backend.name_members("worker-1")  # as in a worker that a supervisor has started
            async with bus.open(backend), bus.worker() as worker, asyncio.TaskGroup() as tasks:
                tasks.create_task(worker.run())
                while worker.stats["double"].completed < 2:
                    await asyncio.sleep(0.02)
                worker.stop()
            await denied(lambda: read_one(backend, to))
        for one in (to, letters, replies):
            assert len(await everything(admin, one, 1)) == 1

        await may(
            ("TOPIC", letters, "READ"),
            ("TOPIC", topic, "WRITE"),
            ("GROUP", queue.replay_group, "READ"),
            ("GROUP", queue.group, "DESCRIBE"),
            *([transactional(queue.replay_group)] if delivery == "exactly_once" else []),
        )
        async with opened(login) as backend:
            assert await repeated(lambda: backend.lag(topic, group=queue.group)) == {0: 0}
            await repeated(lambda: backend.lag(letters, group=queue.replay_group))
            async with backend.subscribe([letters], group=queue.replay_group, start="earliest") as member:
                chosen = DeadLetterFilter()
                report = await replay_or_drop(member, queue, chosen, "replay", acks_singly=False)
            assert report.chosen == {"ZeroDivisionError": 1}
            await denied(lambda: read_one(backend, to))
        assert [d.record.id for d in await everything(admin, topic, 2)] == ["request", "bad", "bad"]


def transactional(group: str) -> tuple[str, str, str]:
    """The right to the transactional ids of a group."""
    return "TRANSACTIONAL_ID", f"{group}.", "WRITE"


async def read_one(backend: KafkaBackend, topic: str) -> None:
    async with backend.subscribe([topic], group=None, start="earliest") as reader:
        await reader.receive(1)


async def denied(act: Callable[[], Awaitable[Any]]) -> None:
    """Repeat until the broker refuses, as it does once an earlier permission is withdrawn everywhere."""
    async with asyncio.timeout(60):
        while True:
            try:
                await act()
            except BackendError as exc:
                assert "kafka-acls" in str(exc)  # noqa: PT017 - a loop ends here
                return
            await asyncio.sleep(0.2)


async def repeated(act: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat while a permission that was granted has not reached the broker."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await act()
            except BackendError:
                await asyncio.sleep(0.2)
