"""The page of each backend names its settings, with their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from eventml import config

PAGES = Path(__file__).parents[2] / "docs" / "backends"


def shown(default: object) -> str:
    if default is None:
        return "none"
    return f"{default:,}" if isinstance(default, int | float) else f"`{default}`"


@pytest.mark.parametrize("scheme", ["memory", "redis", "kafka"])
def test_each_default_on_the_page_is_that_of_the_setting(scheme: str) -> None:
    page = (PAGES / f"{scheme}.md").read_text()
    fields = {field.name: field for field in structs.fields(config.find_backend(scheme).Settings)}
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| .*\|$", page, re.MULTILINE)
    found = {name: default for name, default in rows if name in fields}
    assert found
    assert found == {name: shown(fields[name].default) for name in found}
    assert [name for name in fields if f"`{name}`" not in page and f"{name}=" not in page] == []
