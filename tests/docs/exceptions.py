"""What README and docs print and these tests cannot run, each with its reason."""

from __future__ import annotations

from typing import Final

NOT_RUN: Final[dict[tuple[str, str], str]] = {
    ("docs/cli.md", "eventml demo"): "takes minutes; tests/cli runs it with few rides",
    (
        "docs/cli.md",
        "eventml init shop --with",
    ): "the other way to write a project that is there; tests/cli runs it",
    ("docs/console.md", "eventml doctor"): "tests/console shows what it writes",
    ("docs/console.md", "eventml ui"): "serves until it is stopped; tests/console runs it",
    (
        "docs/deployment/batch.md",
        "postgresql://",
    ): "tests/batch scores tables of PostgreSQL, on a server of its own",
    (
        "docs/examples.md",
        "examples.rides.app:",
    ): "the examples are not in the wheel; tests/examples runs them",
    (
        "docs/examples.md",
        "examples.monitoring",
    ): "the examples are not in the wheel; tests/examples runs them",
    ("docs/frames.md", "return pd.Series(in_blocks"): "the last line of a handler",
    (
        "docs/operations.md",
        "OTLPSpanExporter",
    ): "needs an exporter of OpenTelemetry, which the extras do not have",
    (
        "docs/backends/redis.md",
        "> XADD",
    ): "a session of redis-cli with its answers; tests/redis reads such entries",
    ("docs/writing-a-backend.md", "test_contract.py"): "a sketch; the contract suite runs in tests/contract",
}
"""Reason by page and by a part of the block or the command."""
