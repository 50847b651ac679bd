"""Walking what a model is made of."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from functools import partial
from typing import Any

import numpy as np
import pytest

from eventml.models.object_graph import reachable


class Part:
    """What is looked for."""

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def method(self) -> None: ...


class Proxy:
    """Raises when it is looked at, as a proxy does outside its context."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


Pair = namedtuple("Pair", "one two")  # noqa: PYI024 - scikit-learn's are made like this
HIDDEN = Part()
OBJECTS = np.empty((2, 1), dtype=object)
OBJECTS[1, 0] = HIDDEN


@pytest.mark.parametrize(
    "holder",
    [
        HIDDEN,
        Part(HIDDEN),
        [1, [HIDDEN]],
        ("a", HIDDEN),
        Pair(None, HIDDEN),
        {HIDDEN},
        {"a": HIDDEN},
        {HIDDEN: "a"},
        defaultdict(list, a=[HIDDEN]),
        OBJECTS,
        partial(print, HIDDEN),
        partial(print, file=HIDDEN),
        partial(HIDDEN.method),
        HIDDEN.method,
    ],
)
def test_a_part_is_found_wherever_it_sits(holder: Any) -> None:
    assert any(one is HIDDEN for one in reachable(holder))


def test_each_is_met_once_and_circles_end() -> None:
    part = Part()
    part.inner = [part, part]
    assert [one for one in reachable({"a": part, "b": part}) if one is part] == [part]


def test_nothing_of_a_proxy_is_run() -> None:
    assert len(list(reachable([Proxy()]))) == 2
