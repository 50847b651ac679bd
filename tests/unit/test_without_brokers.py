"""A test that cannot have its broker or program is skipped, or fails where brokers are required."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests import brokers

if TYPE_CHECKING:
    from backends.redis.server import RedisServer

OUTCOMES = pytest.mark.parametrize(
    ("required", "outcome"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)]
)


@OUTCOMES
def test_a_program_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, required: bool, outcome: Any
) -> None:
    monkeypatch.setattr(brokers, "REQUIRED", required)
    with pytest.raises(outcome, match=r"no-such-program is not installed \(Debian: its-package\)"):
        brokers.program("no-such-program", "no-such-other", package="its-package")


@OUTCOMES
def test_a_redis_that_is_too_old_is_named_with_the_least_version(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, required: bool, outcome: Any
) -> None:
    brokers.needs_redis(redis_server, "6.2", "everything")
    monkeypatch.setattr(brokers, "REQUIRED", required)
    with pytest.raises(outcome, match=r"time travel needs Redis 999\.1 or newer, and .* is \d+\.\d+"):
        brokers.needs_redis(redis_server, "999.1", "time travel")
