"""The backend that a URL's scheme chooses."""

from __future__ import annotations

import sys
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from eventml.config import find_backend, load
from eventml.errors import ConfigError, MissingExtraError, UnknownBackendError

if TYPE_CHECKING:
    from pathlib import Path


def register(registry: list[metadata.EntryPoint], scheme: str, value: str) -> None:
    registry.append(metadata.EntryPoint(scheme, value, "eventml.backends"))


def test_the_scheme_chooses_the_module() -> None:
    assert find_backend("rediss") is sys.modules["fake_stream"]
    assert find_backend("memory") is sys.modules["fake_memory"]


def test_our_own_memory_backend_is_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()  # the real entry points again
    monkeypatch.chdir(tmp_path)
    settings = load(environ={}, overrides={"backend": "memory://?partitions=16"})
    assert "partitions=16" in repr(settings.backend)
    assert find_backend(settings.backend.scheme) is sys.modules["eventml.backends.memory"]


def test_the_schemes_case_does_not_matter() -> None:
    backend = load(environ={"EVENTML_BACKEND": "REDIS://h"}).backend
    assert (backend.url, backend.scheme) == ("REDIS://h", "redis")


def test_only_the_chosen_module_is_imported(registry: list[metadata.EntryPoint]) -> None:
    register(registry, "broken", "no_such_module")
    assert load(environ={}).backend.url == "memory://"


def test_an_unknown_scheme_lists_what_there_is() -> None:
    with pytest.raises(UnknownBackendError) as caught:
        load(environ={"EVENTML_BACKEND": "reddis://h"})
    assert str(caught.value) == (
        "backend.url: no backend is registered for reddis://, did you mean redis? "
        "(registered: memory, needy, redis, rediss) (from EVENTML_BACKEND)"
    )


def test_a_missing_extra_passes_through(
    registry: list[metadata.EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise MissingExtraError("kafka", "kafka://")

    monkeypatch.setitem(sys.modules, "fake_kafka", Lazy("fake_kafka"))
    register(registry, "kafka", "fake_kafka:backend")
    with pytest.raises(MissingExtraError, match=r"pip install 'eventml\[kafka\]'"):
        load(environ={}, overrides={"backend": "kafka://h"})


def test_a_module_that_cannot_be_imported_names_its_entry_point(registry: list[metadata.EntryPoint]) -> None:
    register(registry, "broken", "no_such_module")
    with pytest.raises(
        ConfigError, match=r"entry point broken = no_such_module in eventml\.backends cannot"
    ) as caught:
        find_backend("broken")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_renamed_setting_goes_by_its_new_name() -> None:
    environ = {"EVENTML_BACKEND": "needy://h?api-key=k", "EVENTML_BACKEND_MAX_SIZE": "3"}
    assert "NeedySettings(api_key=***, max_size=3)" in repr(load(environ=environ).backend)


@pytest.mark.parametrize("lacking", ["Settings", "open"])
def test_a_module_that_is_not_a_backend_is_refused(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["fake_memory"], lacking)
    with pytest.raises(
        ConfigError, match=rf"entry point memory = fake_memory .* is not a backend: it has no {lacking}"
    ):
        load(environ={})


def test_two_packages_under_one_scheme_are_refused(registry: list[metadata.EntryPoint]) -> None:
    register(registry, "redis", "fake_stream")  # the same once more, as an editable install may show it
    assert find_backend("redis") is sys.modules["fake_stream"]
    register(registry, "redis", "another.package")
    with pytest.raises(
        ConfigError,
        match=r"twice in eventml\.backends, as another\.package and fake_stream",
    ):
        find_backend("redis")
