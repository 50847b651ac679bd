"""A token came from a file with a line end, and the service refused everybody who sent the right one."""

from __future__ import annotations

import anyio
import httpx
import pytest

from eventml import Bus, ConfigError, config


def status_for(sent: str) -> int:
    """The status of the answer to a request with a token."""

    async def ask() -> int:
        bus = Bus("app")

        @bus.predictor("rides", to="durations")
        def duration(ride: dict[str, int]) -> float:
            return 1.0

        application = bus.asgi()
        transport = httpx.ASGITransport(application)
        async with (
            application.lifespan(),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            headers = {"authorization": f"Bearer {sent}"}
            return (await client.post("/predict/duration", json={}, headers=headers)).status_code

    return anyio.run(ask)


@pytest.mark.parametrize("text", ["s3cret\n", "s3cret\r\n", " s3cret "])
def test_space_around_a_token_is_left_out(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTML_TOKEN", text)
    assert status_for("s3cret") == 200
    assert status_for("other") == 401


@pytest.mark.parametrize("text", ["one\ntwo", "tab\there", "gehe\udcff", "\ufeffs3cret"])
def test_a_token_that_no_client_can_send_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTML_TOKEN", text)
    with pytest.raises(ConfigError, match="EVENTML_TOKEN: a token is one line") as caught:
        Bus("app").asgi()
    assert text.strip() not in str(caught.value)


def test_line_ends_behind_passwords_and_settings_are_left_out() -> None:
    environ = {
        "EVENTML_BACKEND": "redis://:${PASSWORD}@localhost:6379\n",
        "PASSWORD": "p ss\r\n",
        "EVENTML_DRAIN": "7\n",
    }
    settings = config.load(environ=environ)
    assert settings.backend.url == "redis://:p%20ss@localhost:6379"
    assert settings.drain == 7
