"""What README and docs print and these tests cannot run, each with its reason."""

from __future__ import annotations

from typing import Final

NOT_RUN: Final[dict[tuple[str, str], str]] = {}
"""Reason by page and by a part of the block or the command."""
