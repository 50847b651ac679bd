"""What all tests share: real brokers where they can run, and the event loop to run under."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for backends/, examples/ and tests.brokers, which are not installed

pytest_plugins = ["tests.brokers"]


@pytest.fixture
def anyio_backend() -> str:
    """asyncio, unless a test asks for more: `parametrize("anyio_backend", ["asyncio", "trio"])`."""
    return "asyncio"
