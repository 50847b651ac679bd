"""Authentication: with a token, its senders are answered; without, this machine only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventml.deploy.web import Authenticator
from eventml.errors import ConfigError
from tests.deploy.test_operations import LOOPBACK_NAMES, OTHER_NAMES
from tests.web.conftest import TOKEN, client_of
from tests.web.test_predict import event

if TYPE_CHECKING:
    from eventml import Bus

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer \xe9", 401),
        ("Bearer ", 401),
        ("", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN[1:]}", 401),
        (f"Bearer {TOKEN.upper()}", 401),
        (f"Bearer {TOKEN}\xa0", 401),
        (f"Bearer {TOKEN} {TOKEN}", 401),
        (f"Bearer {TOKEN}, Bearer {TOKEN}", 401),
        (f"Bearer Bearer {TOKEN}", 401),
        (f"Bearer\t{TOKEN}", 401),
        (f'Bearer "{TOKEN}"', 401),
        (None, 401),
    ],
)
async def test_requests_need_the_token(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, header: str | None, status: int
) -> None:
    monkeypatch.setenv("EVENTML_TOKEN", TOKEN)
    application = bus.asgi()
    headers: Any = {} if header is None else {"authorization": header.encode("latin-1")}
    async with application.lifespan(), client_of(application, "http://1.2.3.4:8000") as client:
        answers = [
            await client.post("/predict/double", json=event(), headers=headers),
            await client.get("/openapi.json", headers=headers),
            await client.get("/asyncapi.json", headers=headers),
            await client.get("/metrics", headers=headers),
        ]
        assert {answer.status_code for answer in answers} == {status}
        assert TOKEN not in "".join(answer.text for answer in answers)
        if status == 401:
            assert answers[0].headers["www-authenticate"].startswith("Bearer")
            assert (await client.post("/events/numbers", json=event(), headers=headers)).status_code == 401
        for path in ("/livez", "/readyz", "/docs"):
            assert (await client.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize("tokens", [("wrong", TOKEN), (TOKEN, "wrong"), (TOKEN, TOKEN)])
async def test_several_tokens_are_refused(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, tokens: tuple[str, str]
) -> None:
    """A proxy in front may have checked another one of them."""
    monkeypatch.setenv("EVENTML_TOKEN", TOKEN)
    application = bus.asgi()
    headers: Any = [("authorization", f"Bearer {token}") for token in tokens]
    async with application.lifespan(), client_of(application) as client:
        assert (await client.post("/predict/double", json=event(), headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("url", "host", "status"),
    [
        ("http://127.0.0.1:8000", None, 200),
        ("http://[::1]:8000", None, 200),
        ("http://localhost:8000", None, 200),
        ("http://192.168.0.7:8000", None, 403),
        *(("http://127.0.0.1:8000", name, 200) for name in LOOPBACK_NAMES),
        *(("http://127.0.0.1:8000", name, 403) for name in OTHER_NAMES),
        *(("http://192.168.0.7:8000", name, 403) for name in LOOPBACK_NAMES),
    ],
)
async def test_without_a_token_only_this_machine_is_answered(
    bus: Bus, url: str, host: str | None, status: int
) -> None:
    application = bus.asgi()
    async with application.lifespan(), client_of(application, url) as client:
        answer = await client.post(
            "/predict/double", json=event(), headers={} if host is None else {"host": host}
        )
        assert answer.status_code == status
        if status == 403:
            assert "EVENTML_TOKEN" in answer.json()["detail"]


async def test_authentication_can_be_left_to_the_app_around(bus: Bus) -> None:
    application = bus.asgi(authenticate=False)
    async with application.lifespan(), client_of(application, "http://1.2.3.4") as client:
        assert (await client.post("/predict/double", json=event())).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.com"])  # noqa: S104 - it is refused
def test_listening_on_other_addresses_without_a_token_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"web\.host: .*EVENTML_TOKEN"):
        Authenticator(None, without_token=False).check_host(host)
    Authenticator(TOKEN, without_token=False).check_host(host)
    Authenticator(None, without_token=True).check_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_listening_on_loopback_needs_no_token(host: str) -> None:
    Authenticator(None, without_token=False).check_host(host)
