"""The first hour of a stranger ends well: see `tests/first_hour.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import first_hour

if TYPE_CHECKING:
    from backends.redis.server import RedisServer


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_step_succeeds(redis_server: RedisServer) -> None:  # to be skipped or to fail without Redis
    names = [name for name, _ in first_hour.main(beside=True)]
    assert "README: the first prediction, in memory" in names
    assert "a stream on Redis" in names
