"""URLs: their parts, variables in them, and hiding their secrets."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.config import expand_url, load, redact
from eventml.config.urls import expand, split_url
from eventml.errors import ConfigError

HOST = "cache.example:6379/0"
USER = st.text().filter(lambda user: ":" not in user)


@given(USER, st.text())
def test_no_password_is_shown_whatever_it_is_made_of(user: str, password: str) -> None:
    assert redact(f"redis://{user}:{password}@{HOST}") == redact(f"redis://{user}:***@{HOST}")
    assert f":***@{HOST}" in redact(f"redis://{user}:{password}@{HOST}")


@given(st.text(st.characters(codec="ascii", categories=["L", "N"])), st.text())
def test_a_url_without_a_secret_is_shown_as_it_is(user: str, value: str) -> None:
    for url in (f"redis://{HOST}", f"redis://{user}@{HOST}", "unix:///run/redis.sock?db=1", "memory://", ""):
        assert redact(url) == url
    if "@" not in value and "=" not in value:
        assert (
            redact(f"redis://h?lease={quote(value, safe='')}&a=b")
            == f"redis://h?lease={quote(value, safe='')}&a=b"
        )


@pytest.mark.parametrize(
    "name", ["password", "sasl_password", "client-secret", "TOKEN", "ssl_passphrase", "api_key", "p%61ssword"]
)
@given(value=st.text())
def test_no_secret_parameter_is_shown(name: str, value: str) -> None:
    text = quote(value, safe="")
    assert redact(f"redis://h?a=1&{name}={text}&b=2") == f"redis://h?a=1&{name}=***&b=2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:pw@h", "redis://u:***@h"),
        ("redis://:pw@h", "redis://:***@h"),
        ("redis://h?password", "redis://h?password"),
        ("redis://u@example.com:pw@h", "redis://u@example.com:***@h"),
        ("kafka://u:pw@a:1,u:pw@b:2/x", "kafka://u:***@b:2/x"),
        ("u:pw@h", "u:***@h"),
        ("redis://h?proxy=http%3A%2F%2Fu%3Apw%40p", "redis://h?proxy=***"),
        ("redis://h?next=x%3Ftoken%3Dpw", "redis://h?next=***"),
        ("redis://h?" + "?a=" * 5000, "redis://h?" + "?a=" * 5000),
    ],
)
def test_odd_urls_are_shown_without_their_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown


@given(st.text(), st.text())
def test_a_password_from_a_variable_reaches_the_backend_escaped(password: str, value: str) -> None:
    environ = {"PW": password, "V": value}
    url = expand_url(
        "redis://${USER}:${PW}@${HOST}/0?name=${V}&b=c", environ | {"USER": "u", "HOST": "h:1,i:2"}
    )
    _, base, query = split_url(url)
    assert base == f"redis://u:{quote(password, safe='')}@h:1,i:2/0"
    assert query == [("name", value), ("b", "c")]


def test_a_variable_may_hold_the_whole_url_or_its_end() -> None:
    assert expand_url("${U}", {"U": "redis://u:p%40w@h?lease=1"}) == "redis://u:p%40w@h?lease=1"
    assert expand_url("kafka://${BROKERS}", {"BROKERS": "a:1,b:2"}) == "kafka://a:1,b:2"


@given(st.text())
def test_a_text_without_variables_stays(text: str) -> None:
    assert expand(text.replace("${", "$"), {}) == text.replace("${", "$")
    assert expand(text.replace("${", "$").replace("$", "") + "$${A}", {"A": "1"}).endswith("${A}")


def test_variables_are_expanded_in_the_backends_text_settings_only() -> None:
    environ = {"PW": "p@ss/${X}"}
    table = {"backend": {"url": "redis://h", "password": "${PW}"}, "consumer": {"a": {"group": "${PW}"}}}
    settings = load(environ=environ, overrides=table)
    assert settings.backend.options.password == "p@ss/${X}"  # type: ignore[attr-defined]  # noqa: S105 - no secret
    assert settings.consumer["a"]["group"] == "${PW}"
    environ["EVENTML_BACKEND"] = "redis://:${PW}@h?password=${PW}"
    settings = load(environ=environ)
    assert settings.backend.url == "redis://:p%40ss%2F%24%7BX%7D@h"
    assert settings.backend.options.password == "p@ss/${X}"  # type: ignore[attr-defined]  # noqa: S105 - no secret


@pytest.mark.parametrize("table", [{"url": "redis://:${PW}@h"}, {"url": "redis://h", "password": "${PW}"}])
def test_a_variable_that_is_not_set_is_named(table: dict[str, str]) -> None:
    where = "password" if "password" in table else "url"
    with pytest.raises(ConfigError, match=rf"^backend\.{where}: \$\{{PW\}} is not set in the environment"):
        load(environ={}, overrides={"backend": table})


def test_the_query_becomes_options_and_leaves_the_url() -> None:
    settings = load(
        environ={}, overrides={"backend": "redis://u:p@h:1/0?lease=2.5&tls=true&mode=fast&password=a+b%26"}
    )
    assert settings.backend.url == "redis://u:p@h:1/0"
    said = msgspec.structs.asdict(settings.backend.options)
    assert said == {
        "lease": 2.5,
        "tls": True,
        "mode": "fast",
        "password": "a+b&",
        "block": 100,
        "retention": 5,
        "hosts": [],
        "tokens": [],
    }


PASSWORD = "4207318"  # noqa: S105 - the point of the tests below


class TestSecrets:
    @pytest.mark.parametrize(
        "backend",
        [
            f"redis://u:{PASSWORD}@h?lease=x",
            f"redis://u:{PASSWORD}@h?leese=1",
            f"redis://u:{PASSWORD}@h/@",
            f"redis://u:{PASSWORD}?@h",
            f"redis://u:{PASSWORD}@h\u2100",
            f"rediz://u:{PASSWORD}@h",
            f"u:{PASSWORD}@h",
            f"needy://u:{PASSWORD}@h",
            f"redis://h?pasword={PASSWORD}",
            "${WHOLE}",
            "redis://h?mode=${PW}",
            {"url": f"redis://u:{PASSWORD}@h", "lease": 0},
            {"url": "redis://h", "password": {"is": PASSWORD}},
            {"url": "redis://h", "password": int(PASSWORD)},
            {"url": "redis://h", "tokens": [PASSWORD]},
            {"url": "redis://h", "lease": "${PW}"},
            {"url": "redis://h", "mode": f"http://u:{PASSWORD}@h"},
            {"url": [f"redis://u:{PASSWORD}@h"]},
        ],
    )
    def test_are_in_no_message_nor_in_its_causes(self, backend: object) -> None:
        environ = {"WHOLE": f"redis://h?mode={PASSWORD}", "PW": PASSWORD}
        with pytest.raises(ConfigError) as caught:
            load(environ=environ, overrides={"backend": backend})
        exc: BaseException | None = caught.value
        while exc is not None:
            assert PASSWORD not in str(exc)
            exc = exc.__cause__ or exc.__context__

    def test_are_not_in_the_message_of_a_variable(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"EVENTML_BACKEN": f"redis://:{PASSWORD}@h", "EVENTML_BACKEND_PASSWRD": PASSWORD})
        assert PASSWORD not in str(caught.value)

    def test_are_not_in_the_settings_repr(self) -> None:
        url = f"redis://u:{PASSWORD}@h?password={PASSWORD}"
        settings = load(environ={}, overrides={"backend": url})
        assert PASSWORD in settings.backend.url
        assert PASSWORD not in repr(settings)
        assert PASSWORD not in repr(settings.backend.__rich_repr__())
        assert "lease=30.0" in repr(settings)
