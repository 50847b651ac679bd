"""The same handlers on every backend."""

from tests.failures.conftest import backend_url, scenario

__all__ = ["backend_url", "scenario"]
