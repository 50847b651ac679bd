"""Lines of a stream that comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.cli import lines as lines_module
from eventml.cli.reporting import Refusal
from eventml.deploy.batch import TextLines


class Pieces:
    """A pipe whose reads return these pieces, one after the other, and then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def read1(self, _size: int, /) -> bytes:
        return next(self._pieces, b"")


def pieces_of(*alphabet: bytes) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.lists(st.sampled_from(alphabet), min_size=1).map(b"".join))


@given(pieces_of(b"a", b"\r", b"\n", b"\n\n"))
def test_lines_are_the_same_however_the_stream_is_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = whole.removesuffix(b"\n").split(b"\n") if whole else []
    lines = TextLines(Pieces(pieces))
    assert list(lines) == expected
    assert lines.number == len(expected)
    assert lines.bytes_read == len(whole)


@given(pieces_of(b"a", b"\n"))
def test_peeking_takes_nothing(pieces: list[bytes]) -> None:
    lines = TextLines(Pieces(pieces))
    while (first := lines.peek()) is not None:
        before = lines.number
        assert next(lines) == first
        assert lines.number == before + 1
    assert list(lines) == []


def test_a_line_is_at_hand_only_if_it_is_whole() -> None:
    lines = TextLines(Pieces([b"one\ntwo\nthr", b"ee\n"]))
    assert not lines.at_hand
    assert next(lines) == b"one"
    assert lines.at_hand
    assert next(lines) == b"two"
    assert not lines.at_hand  # half of the third is there, and waiting for the rest may take for ever
    assert next(lines) == b"three"


def test_what_never_ends_a_line_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines_module, "LONGEST", 100)
    zeros = Pieces([b"{}\n", *[b"\0" * 64] * 1_000])
    lines = TextLines(zeros)
    assert next(lines) == b"{}"
    with pytest.raises(Refusal, match="line 2 is longer"):
        next(lines)
    assert zeros.read1(1)  # it has not read to the end to find out
