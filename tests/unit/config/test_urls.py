"""URLs: their parts, variables in them, and hiding their secrets."""

from __future__ import annotations

from urllib.parse import quote, unquote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventml.config import expand_url, load, redact, split_url, without_secrets
from eventml.config.urls import expand
from eventml.errors import ConfigError

SECRET = "zQ8kXw4vTn"  # noqa: S105 - what must not be shown
WEIRD = st.text(st.sampled_from("a1/?#@:;&=%+ []\\'\"\n") | st.characters(codec="utf-8"), max_size=8)
SCHEMES = st.sampled_from(
    ["redis", "kafka", "unix", "postgresql", "mssql+pyodbc", "oracle+cx_oracle", "jdbc:sqlserver", ""]
)
HOSTS = st.sampled_from(["h", "", "h:1,i:2", "[::1]:6379", "h/db", "h:1433;a=b"])
NAMES = st.sampled_from(
    ["pwd", "passcode", "access_key", "sig", "key", "PWD", "password", "token", "options", "odbc_connect"]
) | st.text(max_size=8).filter(lambda name: "&" not in name)


@st.composite
def urls_with_a_secret(draw: st.DrawFn) -> str:
    """A URL or connection string with `SECRET` in a part that is not shown, between any other characters."""
    secret = draw(WEIRD) + SECRET + draw(WEIRD)
    if draw(st.booleans()):
        secret = quote(secret, safe="")
    scheme, host = (
        draw(SCHEMES),
        draw(st.sampled_from(["h", "", "h:1,i:2", "[::1]:6379", "h/db", "h:1433;a=b"])),
    )
    name = draw(NAMES)
    return draw(
        st.sampled_from(
            [
                f"{scheme}://u:{secret}@{host}",
                f"{scheme}://:{secret}@{host}?timeout=5",
                f"{scheme}://{secret}@{host}" if ":" not in secret else "",
                f"{scheme}://u:1/{secret}@{host}",
                f"{scheme}://u:1?timeout={secret}@{host}",
                f"{scheme}://u:1#{secret}@{host}",
                f"{scheme}://a:1,u:{secret}@{host},v:{secret}@i",
                f"{scheme}://{host}?{name}={secret}",
                f"{scheme}://{host}?timeout=5&{name}={secret}&{secret}",
                f"{scheme}://{host}?timeout=5%3B{name}%3D{secret}",
                f"{scheme}://{host}#{secret}",
                f"{scheme}://{host}/;{name}={secret}",
                f"{scheme}://{host}/%3F{name}%3D{secret}",
                f"u:{secret}@{host}",
                f"DRIVER={{x}};UID=u;PWD={secret}",
                f"host=h password={secret}",
            ]
        )
    )


@given(urls_with_a_secret())
@settings(max_examples=300)
def test_a_secret_is_never_shown_wherever_it_is(url: str) -> None:
    assert SECRET not in redact(url)
    assert SECRET not in without_secrets(f'invalid option "{url}" or {unquote(url)}', url)


@given(
    name=st.sampled_from(["pwd", "passcode", "access_key", "sig", "key", "PWD", "p%77d", "Timeout"]),
    value=st.text(),
)
def test_the_value_of_an_unknown_parameter_is_not_shown(name: str, value: str) -> None:
    text = quote(value, safe="")
    assert redact(f"redis://h?timeout=1&{name}={text}&mode=b") == "redis://h?timeout=1&mode=b&***"


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache.example:6379/0",
        "unix:///run/redis.sock",
        "memory://",
        "kafka://a:9092,b:9092",
        "rediss://[2001:db8::1]:6379",
        "sqlite:////data/rides 2024.db?timeout=5&mode=ro",
        "postgresql://h/db?sslmode=verify-full&application_name=a%20b",
        "mssql+pyodbc://h/db?driver=ODBC+Driver+17+for+SQL+Server",
        "rides.csv",
        "",
    ],
)
def test_a_url_without_a_secret_is_shown_as_it_is(url: str) -> None:
    assert redact(url) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:pw@h", "redis://u:***@h"),
        ("redis://:pw@h", "redis://:***@h"),
        ("redis://pw@h", "redis://***@h"),
        ("redis://token:@h", "redis://***@h"),
        ("redis://?=:@host", "redis://***"),
        ("redis://u:p%23w@h:1/0", "redis://u:***@h:1/0"),
        ("postgresql://u:p#word@h/db", "postgresql://***"),
        ("redis://u:p/w@h", "redis://***"),
        ("redis://u:p@ss@h", "redis://***"),
        ("redis://user:password", "redis://***"),
        ("redis://u%40example.com:pw@h", "redis://***@h"),
        ("kafka://u:pw@a:1,u:pw@b:2", "kafka://***"),
        ("u:pw@h", "***"),
        ("jdbc:sqlserver://h;user=u;password=pw", "***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dpw", "mssql+pyodbc:///?***"),
        ("mssql+pyodbc://h?driver=x%3BPWD%3Dpw", "mssql+pyodbc://h?***"),
        ("redis://h?proxy=http%3A%2F%2Fu%3Apw%40p", "redis://h?***"),
        ("redis://h?pw", "redis://h?***"),
        ("redis://h?" + "?a=" * 5000, "redis://h?***"),
    ],
)
def test_what_may_be_a_secret_is_hidden(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_a_drivers_message_keeps_what_is_no_secret() -> None:
    url = "postgresql://scorer:swordfish@127.0.0.1:5432/rides?options=-csearch_path%3Dabc&x=5"
    message = 'connection to "127.0.0.1", port 5432 failed for scorer (swordfish, -csearch_path=abc, x, "5")'
    assert without_secrets(message, url) == (
        'connection to "127.0.0.1", port 5432 failed for scorer (***, ***=***, ***, "***")'
    )
    assert without_secrets(message, "sqlite:///x.db") == message


@pytest.mark.parametrize("shown", [r"sword!\fish", "sword%21%5Cfish", r"sword!\\fish"])
def test_a_drivers_message_shows_no_other_form_of_a_secret(shown: str) -> None:
    assert without_secrets(f"no {shown} at h", r"redis://u:sword!\fish@h") == "no *** at h"


@given(st.text(), st.text())
def test_a_password_from_a_variable_reaches_the_backend_escaped(password: str, value: str) -> None:
    environ = {"PW": password, "V": value}
    url = expand_url(
        "redis://${USER}:${PW}@${HOST}/0?name=${V}&b=c", environ | {"USER": "u", "HOST": "h:1,i:2"}
    )
    _, base, query = split_url(url)
    password, value = password.rstrip("\r\n"), value.rstrip("\r\n")
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
            {"url": "redis://h", "hosts": PASSWORD},
            f"needy://{PASSWORD}@h",
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

    def test_are_not_in_the_repr_of_an_option_whatever_its_name(self) -> None:
        table = {"url": "redis://h", "hosts": [PASSWORD], "mode": "fast"}
        shown = repr(load(environ={}, overrides={"backend": table}).backend)
        assert PASSWORD not in shown
        assert "hosts=***" in shown
        assert "mode='fast'" in shown
