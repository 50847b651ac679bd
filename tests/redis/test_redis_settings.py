"""URLs and settings, the errors for wrong ones, and the exceptions for error replies."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from eventml.backends import redis
from eventml.backends.redis.cluster import Cluster, _server_for, check_version, same_slot_names
from eventml.backends.redis.errors import DeniedError, ErrorReply, NoGroupError, NoMemoryError, error_for
from eventml.backends.redis.settings import Address, parse_url
from eventml.errors import BackendError, ConfigError, UnavailableError, UnsupportedError


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address((("localhost", 6379),))),
        ("redis://host", Address((("host", 6379),))),
        ("redis://host:1/2", Address((("host", 1),), db=2)),
        ("rediss://u:p%40%2F@host:1", Address((("host", 1),), username="u", password="p@/", tls=True)),  # noqa: S106 - no secret
        ("redis://:secret@host", Address((("host", 6379),), password="secret")),  # noqa: S106 - the same
        ("redis://[::1]:7000", Address((("::1", 7000),))),
        ("redis://a:1,b,[::2]:3/0", Address((("a", 1), ("b", 6379), ("::2", 3)))),
        ("unix:///run/redis%20a.sock", Address((), path="/run/redis a.sock")),
        ("unix://u:p@/run/r.sock", Address((), path="/run/r.sock", username="u", password="p")),  # noqa: S106 - the same
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse_url(url) == address
    assert "secret" not in str(address)


def test_settings_complete_the_url() -> None:
    assert parse_url("unix:///r.sock", db=3).db == 3
    assert parse_url("redis://h", db=3).db == 3
    assert parse_url("redis://h/4", db=3).db == 4
    assert parse_url("redis://h,i:5", sentinel=True).hosts == (("h", 26379), ("i", 5))


@pytest.mark.parametrize(
    "url",
    ["redis://host:port", "redis://host/name", "redis://a,,b", "unix://host/path", "unix://", "redis:host"],
)
def test_wrong_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"backend\.url"):
        parse_url(url)


@pytest.mark.parametrize(
    "url", ["redis://:secret", "redis://user:secret", "redis://h,u:secret", "redis://h/secret"]
)
def test_a_url_without_its_host_does_not_show_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.anyio
async def test_a_server_that_does_not_know_the_login_does_not_make_it_visible() -> None:
    secret = "zQ8kXw4vTn" * 20

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"SETNAME")
        shown = f"`2`, `AUTH`, `user`, `{secret}`"[:128]  # a server shows so many bytes
        writer.write(f"-ERR unknown command `HELLO`, with args beginning with: {shown}\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match="unknown command `HELLO`") as caught:
            async with redis.open(f"redis://user:{secret}@127.0.0.1:{port}", redis.Settings()):
                pass
    assert secret[:5] not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "settings", "why"),
    [
        ("redis://a,b", redis.Settings(), r"several hosts"),
        ("unix:///a", redis.Settings(cluster=True), r"backend\.cluster"),
        ("redis://a/1", redis.Settings(cluster=True), r"backend\.cluster"),
        ("redis://a", redis.Settings(cluster=True, sentinel="m"), r"backend\.sentinel"),
    ],
)
async def test_settings_that_exclude_each_other(url: str, settings: redis.Settings, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        async with redis.open(url, settings):
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="asyncio"):
        async with redis.open("redis://localhost", redis.Settings()):
            pass


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", NoMemoryError),
        ("ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed", NoMemoryError),
        ("ERR Error running script (call to f_1): @user_script:3: -READONLY You can't", UnavailableError),
        ("READONLY You can't write against a read only replica.", UnavailableError),
        ("LOADING Redis is loading the dataset in memory", UnavailableError),
        ("CLUSTERDOWN Hash slot not served", UnavailableError),
        ("EXECABORT Transaction discarded because of: OOM command not allowed", NoMemoryError),
        ("NOGROUP No such key 'a' or consumer group 'b'", NoGroupError),
        ("UNBLOCKED the stream key no longer exists", NoGroupError),
        ("NOPERM User x has no permissions", DeniedError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", BackendError),
        ("ERR unknown command", BackendError),
    ],
)
def test_the_exception_for_each_error_reply(text: str, kind: type[Exception]) -> None:
    error = error_for(ErrorReply(text), "trying")
    assert type(error) is kind
    assert "trying" in str(error)


@pytest.mark.parametrize(
    ("topics", "names"),
    [
        (("rides.started", "rides.duration"), ("{rides}.started", "{rides}.duration")),
        (("rides", "tips"), ("{rides}", "{rides}.tips")),
        (("{a}.x", "b.y"), ("{a}.x", "{a}.b.y")),
        (("rides.started", "rides.started.group.dlq"), ("{rides}.started", "{rides}.started.group.dlq")),
    ],
)
def test_names_that_put_two_topics_into_one_slot(topics: tuple[str, str], names: tuple[str, str]) -> None:
    assert same_slot_names(*topics) == names


@given(st.text(alphabet="ab{}.ü", max_size=12))
def test_slots_are_those_of_redis_py(topic: str) -> None:
    cluster = Cluster(parse_url("redis://"), redis.Settings())
    assert cluster.slot(topic) == key_slot(topic.encode())


@pytest.mark.anyio
async def test_a_certificate_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(ConfigError, match=r"backend\.ca_file"):
        async with redis.open("rediss://localhost", redis.Settings(ca_file="/missing.pem")):
            pass


def test_a_server_that_is_too_old_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Redis 6\.0\.16.*6\.2"):
        check_version({"server": b"redis", "version": b"6.0.16"})
    for server, version in [(b"redis", b"6.2.0"), (b"redis", b"255.255.255"), (b"valkey", b"1.0")]:
        check_version({"server": server, "version": version})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "settings", "warnings"),
    [
        ("redis://:secret@localhost", redis.Settings(), []),
        ("redis://:secret@127.0.0.2:1,[::1]:2", redis.Settings(cluster=True), []),
        ("rediss://:secret@one", redis.Settings(), []),
        ("unix://:secret@/one", redis.Settings(), []),
        ("redis://one", redis.Settings(), ["data go to one:6379 unencrypted; use rediss://"]),
        (
            "redis://:secret@one:1",
            redis.Settings(),
            ["data and the password go to one:1 unencrypted; use rediss://"],
        ),
        (
            "redis://:secret@one:1,localhost,two:2",
            redis.Settings(cluster=True),
            [f"data and the password go to {n} unencrypted; use rediss://" for n in ("one:1", "two:2")],
        ),
        (
            "redis://:secret@one",
            redis.Settings(sentinel="main", sentinel_password="secret"),  # noqa: S106 - no secret
            ["data and the password go to one:26379 unencrypted; use rediss://"],
        ),
    ],
)
async def test_plaintext_to_another_machine_is_logged_as_a_warning_once(
    url: str,
    settings: redis.Settings,
    warnings: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also to each node of a cluster, and to Sentinels."""

    async def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("no network in this test")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", refuse)
    server = _server_for(url, settings)
    with caplog.at_level(logging.WARNING, "eventml"):
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await server.connect(0)
    assert [record.getMessage() for record in caplog.records] == warnings
