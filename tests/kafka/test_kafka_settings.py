"""From a URL and settings to the options of aiokafka's clients."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiokafka.errors import SaslAuthenticationFailed

from eventml.backends.kafka.connection import ClientFactory
from eventml.backends.kafka.settings import Settings, client_options, read_url
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def options(url: str, **settings: Any) -> dict[str, Any]:
    return client_options(read_url(url), Settings(**settings))


@pytest.mark.parametrize(
    ("url", "brokers"),
    [
        ("kafka://localhost", ("localhost:9092",)),
        ("kafka://one:1,two:2,three", ("one:1", "two:2", "three:9092")),
        ("kafka://user:pa%40ss@one:1,two:2", ("one:1", "two:2")),
        ("kafka://[::1]:9093,[::1]", ("[::1]:9093", "[::1]:9092")),
        ("kafka://one:1/", ("one:1",)),
    ],
)
def test_brokers_are_read(url: str, brokers: tuple[str, ...]) -> None:
    assert read_url(url).brokers == brokers


@pytest.mark.parametrize("url", ["kafka://", "kafka://one/topic", "kafka://one:port", "kafka://:9092"])
def test_a_url_without_brokers_or_with_more_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"backend\.url"):
        read_url(url)


@pytest.mark.parametrize("url", ["kafka://user:secret", "kafka://:secret", "kafka://h:1,user:secret"])
def test_a_url_without_its_host_does_not_show_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_url(url)
    assert "secret" not in str(caught.value)


def test_a_password_is_unescaped() -> None:
    address = read_url("kafka://al%2Fice:p%40ss%3Aword@one")
    assert (address.username, address.password) == ("al/ice", "p@ss:word")


@pytest.mark.parametrize(
    ("url", "settings", "security", "mechanism"),
    [
        ("kafka://localhost", {}, "PLAINTEXT", None),
        ("kafka://a:b@one", {}, "SASL_SSL", "SCRAM-SHA-512"),
        (
            "kafka://a:b@localhost",
            {"security": "sasl_plaintext", "sasl_mechanism": "PLAIN"},
            "SASL_PLAINTEXT",
            "PLAIN",
        ),
        ("kafka://one", {"security": "ssl"}, "SSL", None),
    ],
)
def test_the_default_is_the_safer_choice(
    url: str, settings: dict[str, Any], security: str, mechanism: str | None
) -> None:
    found = options(url, **settings)
    assert found["security_protocol"] == security
    assert found.get("sasl_mechanism") == mechanism
    assert ("ssl_context" in found) == security.endswith("SSL")


@pytest.mark.parametrize(
    ("url", "settings", "named"),
    [
        ("kafka://a:b@one", {"security": "plaintext"}, "security"),
        ("kafka://one", {"security": "sasl_ssl"}, "url"),
        ("kafka://a@one", {}, "password_file"),
        ("kafka://a:b@one", {"sasl_mechanism": "OAUTHBEARER"}, "token_file"),
        ("kafka://one", {"security": "plaintext", "ca": "/ca.pem"}, "security"),
        ("kafka://one", {"ca": "/nowhere/ca.pem"}, "ca"),
        ("kafka://one", {"security": "ssl", "cert": "/nowhere/cert.pem"}, "cert"),
        ("kafka://one", {"security": "ssl", "key": "/nowhere/key.pem"}, "cert"),
        ("kafka://a@one", {"password_file": "/nowhere/password"}, "password_file"),
        ("kafka://one", {"token_file": "/nowhere/token"}, "token_file"),
    ],
)
def test_an_error_names_the_setting_at_fault(url: str, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^backend\.{named}:"):
        options(url, **settings)


def test_a_token_file_implies_oauthbearer_over_tls(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a token")
    found = options("kafka://one", token_file=str(file))
    assert (found["security_protocol"], found["sasl_mechanism"]) == ("SASL_SSL", "OAUTHBEARER")


async def token_of(options: dict[str, Any]) -> str:
    return str(await options["sasl_oauth_token_provider"].token())


@pytest.mark.anyio
async def test_a_token_file_that_cannot_be_read_later_is_a_refused_login(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    found = options("kafka://one", token_file=str(file))
    file.unlink()
    with pytest.raises(SaslAuthenticationFailed, match="token_file"):
        await token_of(found)
    file.write_text("second")
    assert await token_of(found) == "second"


def test_an_empty_password_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        options("kafka://a@one", password_file=str(file))


@pytest.mark.parametrize(
    ("url", "settings", "warning"),
    [
        ("kafka://localhost,127.0.0.1:1,[::1]:2", {}, None),
        ("kafka://one:1", {"security": "ssl"}, None),
        ("kafka://localhost,one:1", {}, "events go to one:1 unencrypted"),
        ("kafka://a:b@one:1", {"security": "sasl_plaintext"}, "events go to one:1 unencrypted"),
        (
            "kafka://a:b@one:1",
            {"security": "sasl_plaintext", "sasl_mechanism": "PLAIN"},
            "events and the password go to one:1 unencrypted",
        ),
    ],
)
def test_plaintext_to_another_machine_is_logged_as_a_warning(
    url: str, settings: dict[str, Any], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "eventml"):
        options(url, **settings)
    if warning is None:
        assert caplog.text == ""
    else:
        assert warning in caplog.text


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"heartbeat_interval": 10.0}, "heartbeat_interval"),
        ({"drain": 29.0}, "drain"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Settings(**settings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, Settings)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("max_bytes", "partitions", "of_each"),
    [(8_000_000, 4, 1 << 20), (8_000_000, 20, 400_000), (8_000_000, 10_000, 1 << 16)],
)
async def test_fetches_are_bounded_by_max_bytes(max_bytes: int, partitions: int, of_each: int) -> None:
    consumer = ClientFactory("kafka://one", Settings(max_bytes=max_bytes)).consumer(None, partitions)
    assert consumer._fetch_max_bytes == max_bytes
    assert consumer._max_partition_fetch_bytes == of_each
    await consumer.stop()
