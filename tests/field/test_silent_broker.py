"""A broker accepted connections and answered nothing, and a Flask app waited in its producer for ever."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest

from eventml import Bus, UnavailableError
from eventml.errors import RequestTimeoutError

if TYPE_CHECKING:
    from tests.brokers import StartRedis


@pytest.mark.parametrize(("scheme", "limit"), [("redis", "timeout"), ("kafka", "publish_timeout")])
def test_opening_a_producer_ends(scheme: str, limit: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}?{limit}=1"
        with pytest.raises(UnavailableError), Bus("web", backend=url).producer():
            pass


def test_each_call_of_an_open_producer_ends(start_redis: StartRedis) -> None:
    server = start_redis()
    bus = Bus("web", backend=f"{server.url}?timeout=0.5&publish_timeout=1")
    with bus.producer() as producer:
        producer.publish("rides", {"id": 1})
        server.process.send(signal.SIGSTOP)
        try:
            with pytest.raises(UnavailableError):
                producer.publish("rides", {"id": 2})
            with pytest.raises(UnavailableError):
                producer.publish_many("rides", [{"id": 3}])
            with pytest.raises((UnavailableError, RequestTimeoutError)):
                producer.request("rides", {"id": 4}, timeout=2)
        finally:
            server.process.send(signal.SIGCONT)
