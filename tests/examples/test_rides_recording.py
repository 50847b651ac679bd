"""Recordings of a terminal: what a command showed, as an SVG that plays and loads nothing."""

from __future__ import annotations

import os
import sys
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("pyte")

from examples.rides.recording import record, render, text

SVG = "{http://www.w3.org/2000/svg}"
COMMAND = r"""
import sys, time
print("\x1b[1;31mred <&>\x1b[0m plain", flush=True)
sys.stdin.readline()
"""


def test_a_recording_has_what_the_terminal_showed() -> None:
    frames = record(
        [sys.executable, "-c", COMMAND],
        os.environ,
        size=(40, 5),
        over=lambda frames: len(frames) == 3,
        interval=0.05,
    )
    assert [text(frame).split("\n")[0] for frame in frames] == ["red <&> plain"] * 3
    assert frames[0][0] == (("red <&>", ("red", True)), (" plain", ("default", False)))
    picture = ET.fromstring(render(frames, 40, "a title"))  # noqa: S314 - our own
    groups = [group for group in picture.iter(f"{SVG}g") if group.get("class") == "f"]
    assert len(groups) == 3
    assert [one.text for one in picture.iter(f"{SVG}text")] == ["red <&>", " plain"]  # once for three frames
    assert all(use.get("href", "").startswith("#") for use in picture.iter(f"{SVG}use"))
