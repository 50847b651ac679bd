"""URLs, and what is said of those that make no sense."""

from __future__ import annotations

import pytest

from eventml.backends import redis
from eventml.backends.redis.errors import DeniedError, ErrorReply, NoGroupError, error_for
from eventml.backends.redis.servers import same_slot_names
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


def test_the_settings_say_what_the_url_does_not() -> None:
    assert parse_url("unix:///r.sock", db=3).db == 3
    assert parse_url("redis://h", db=3).db == 3
    assert parse_url("redis://h/4", db=3).db == 4
    assert parse_url("redis://h,i:5", sentinel=True).hosts == (("h", 26379), ("i", 5))


@pytest.mark.parametrize(
    "url",
    ["redis://host:port", "redis://host/name", "redis://a,,b", "unix://host/path", "unix://", "redis:host"],
)
def test_urls_that_make_no_sense(url: str) -> None:
    with pytest.raises(ConfigError, match=r"backend\.url"):
        parse_url(url)


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
async def test_settings_that_do_not_go_together(url: str, settings: redis.Settings, why: str) -> None:
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
        ("OOM command not allowed when used memory > 'maxmemory'.", UnavailableError),
        (
            "ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed",
            UnavailableError,
        ),
        ("ERR Error running script (call to f_1): @user_script:3: -READONLY You can't", UnavailableError),
        ("READONLY You can't write against a read only replica.", UnavailableError),
        ("LOADING Redis is loading the dataset in memory", UnavailableError),
        ("CLUSTERDOWN Hash slot not served", UnavailableError),
        ("EXECABORT Transaction discarded because of: OOM command not allowed", UnavailableError),
        ("NOGROUP No such key 'a' or consumer group 'b'", NoGroupError),
        ("UNBLOCKED the stream key no longer exists", NoGroupError),
        ("NOPERM User x has no permissions", DeniedError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", BackendError),
        ("ERR unknown command", BackendError),
    ],
)
def test_what_refusals_mean(text: str, kind: type[Exception]) -> None:
    error = error_for(ErrorReply(text), "doing a thing")
    assert type(error) is kind
    assert "doing a thing" in str(error)


@pytest.mark.parametrize(
    ("topics", "names"),
    [
        (("rides.started", "rides.duration"), ("{rides}.started", "{rides}.duration")),
        (("rides", "tips"), ("{rides}", "{rides}.tips")),
        (("{a}.x", "b.y"), ("{a}.x", "{a}.b.y")),
        (("rides.started", "rides.started.group.dlq"), ("{rides}.started", "{rides}.started.group.dlq")),
    ],
)
def test_the_remedy_for_topics_that_live_apart(topics: tuple[str, str], names: tuple[str, str]) -> None:
    assert same_slot_names(*topics) == names
