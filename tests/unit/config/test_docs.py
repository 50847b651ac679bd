"""`docs/configuration.md` is true: its tables list every setting, and its examples load."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from eventml.config import WebSettings, load
from eventml.config.settings import SECTIONS, expected
from eventml.config.sources import NOT_SETTINGS
from eventml.handler_options import HandlerOptions

PAGE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text("utf-8")
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .+ \|$", PAGE, re.MULTILINE)}
WEB = {
    row[0]: row[1:] for row in re.findall(r"^\| `web\.(\w+)` \| (.+?) \| (.+?) \| .+ \|$", PAGE, re.MULTILINE)
}


def test_the_tables_list_every_setting_with_its_type() -> None:
    fields = {**SECTIONS["consumer"], **SECTIONS["topic"]}
    types = {name: expected(kind) for name, kind in fields.items()}
    assert {name: row[0] for name, row in ROWS.items()} == types | {
        "drain": "float >= 0",
        "tracing": "true or false",
    }


def test_the_web_services_table_has_every_setting_with_its_type_and_default() -> None:
    defaults = msgspec.structs.asdict(WebSettings())
    assert {
        name: (expected(kind), msgspec.json.encode(defaults[name]).decode())
        for name, kind in SECTIONS["web"].items()
    } == WEB


def test_the_defaults_are_the_codes() -> None:
    defaults = msgspec.structs.asdict(HandlerOptions(group="g"))
    for name in ("retries", "backoff", "max_backoff", "bisect_for", "max_deliveries"):
        assert ROWS[name][1] == str(defaults[name])
    for name in ("start", "when_stale"):
        assert ROWS[name][1] == f'"{defaults[name]}"'
    assert ROWS["drain"][1] == str(load(environ={}).drain)


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_load(example: str, tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text(example.replace("kafka://", "redis://"))
    load(environ={"REDIS_PASSWORD": "p@ss", "EVENTML_PROFILE": "prod" if "[profile.prod]" in example else ""})
    load(environ={"REDIS_PASSWORD": "p@ss"}, bus="audit")


def test_the_messages_are_as_shown(tmp_path: Path) -> None:
    shown = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)
    (tmp_path / "eventml.toml").write_text("[consumer.duration]\nmax_bacth = 1")
    with pytest.raises(Exception, match=r"max_bacth") as caught:
        load(environ={"EVENTML_CONSUMER_DURATION_TIMEOUT": "0"})
    assert str(caught.value) == shown[0]
    (tmp_path / "eventml.toml").write_text("[profile.prod]")
    with pytest.raises(Exception, match="no profile") as caught:
        load(environ={"EVENTML_PROFILE": "prd"})
    assert [str(caught.value)] == shown[1:]


def test_the_buses_of_the_example_have_the_backends_that_the_page_says(tmp_path: Path) -> None:
    [example] = [toml for toml in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[bus.audit]" in toml]
    (tmp_path / "eventml.toml").write_text(example.replace("kafka://", "rediss://"))
    for environ, backends in (
        ({}, ["redis", "rediss"]),
        ({"EVENTML_BACKEND": "memory://"}, ["memory", "rediss"]),
    ):
        found = [load(environ=environ, bus=bus).backend.scheme for bus in ("rides", "audit")]
        assert found == backends


def test_the_variables_that_are_no_settings_are_listed() -> None:
    assert all(f"`{name}`" in PAGE for name in NOT_SETTINGS)
