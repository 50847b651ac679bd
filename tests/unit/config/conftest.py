"""Three backends of these tests, and an empty working directory."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import pytest

from eventml import entry_points

if TYPE_CHECKING:
    from pathlib import Path


class StreamSettings(msgspec.Struct, frozen=True):
    lease: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    block: int = 100
    tls: bool = False
    password: str | None = None
    mode: Literal["fast", "safe"] = "safe"
    retention: int = 5
    hosts: list[str] = []
    tokens: list[Literal["a", "b"]] = []


class MemorySettings(msgspec.Struct, frozen=True):
    partitions: Annotated[int, msgspec.Meta(ge=1)] = 8
    retention: int = 100_000

    def __post_init__(self) -> None:
        if self.retention < self.partitions:
            raise ValueError("retention leaves no room for the partitions")


class NeedySettings(msgspec.Struct, frozen=True, rename="kebab"):
    api_key: str
    max_size: int = 1


def backend(name: str, settings: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(
        Settings=settings, open=lambda url, settings: (url, settings), capabilities=lambda settings: None
    )
    return module


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> list[metadata.EntryPoint]:
    """The entry points that eventml finds; a test may add to them."""
    for name, settings in (("memory", MemorySettings), ("stream", StreamSettings), ("needy", NeedySettings)):
        monkeypatch.setitem(sys.modules, f"fake_{name}", backend(f"fake_{name}", settings))
    points = [
        metadata.EntryPoint(scheme, f"fake_{module}", "eventml.backends")
        for scheme, module in (
            ("memory", "memory"),
            ("redis", "stream"),
            ("rediss", "stream"),
            ("needy", "needy"),
        )
    ]
    monkeypatch.setattr(entry_points, "_installed", lambda _: metadata.EntryPoints(points))
    return points


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("EVENTML_"):
            monkeypatch.delenv(name)
