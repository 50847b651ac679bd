"""Makes untrusted text safe to print: escapes what controls a terminal, begins a line or is invisible.

Publishers choose ids, headers and field names, and parts of the messages of exceptions. Code that prints or
logs such text calls one of these functions. Unprintable are the Unicode categories

    Cc      control characters: ESC and U+009B begin commands to the terminal, a newline begins a forged line
    Cf      format characters: U+202E and its like reorder the text around them; others, the tags, are hidden
    Cs      lone surrogates, which cannot be encoded
    Co, Cn  private and unassigned characters: what is shown depends on the font
    Zl, Zp  U+2028 and U+2029: line ends to many programs

    and the others of which nothing is shown (Default_Ignorable_Code_Point): fillers, variation selectors

except the joiners U+200C, U+200D and the selectors U+FE0E, U+FE0F behind a character that is not ASCII: emoji
and many scripts need them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Final
from unicodedata import category

_JOINERS: Final = "\u200c\u200d"
_SELECTORS: Final = "\ufe0e\ufe0f"
_HIDDEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_INDENT: Final = "    "


def printable(text: str, keep: str = "") -> str:
    r"""Return text in one line, with unprintable characters as Python's escapes: `\n`, `\x1b`, `\u202e`.

    The characters in `keep` stay as they are. A backslash is not escaped, so an escape may have been in the
    text: where the exact text matters, print JSON.
    """
    return _escape(text, keep, lambda char: char.encode("unicode_escape").decode())


def printable_lines(text: str) -> str:
    """As `printable`, but keep tabs and newlines, and indent each line behind the first.

    So none of them can be taken for another error or log record, all of which begin at the margin.
    """
    return printable(text.rstrip("\n"), keep="\n\t").replace("\n", f"\n{_INDENT}")


def printable_json(encoded: bytes) -> bytes:
    r"""Return JSON of the same value, with unprintable characters as JSON's escapes: `\u001b`, `\u202e`.

    The JSON must have no line ends or tabs between its tokens.
    """
    text = encoded.decode()
    return _escape(text, "", lambda char: json.dumps(char)[1:-1]).encode()


def cut(text: str, limit: int = 100) -> str:
    """Return the first characters of a text, and "…" if there are more."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def valid_unicode(text: str) -> str:
    """Return text that JSON can hold: brokers may deliver headers that were not UTF-8, as lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


def _escape(text: str, keep: str, escape: Callable[[str], str]) -> str:
    if text.isprintable() and (text.isascii() or not _HIDDEN.search(text)):  # as nearly all text is
        return text
    triples = zip(f"  {text}", f" {text}", text, strict=False)
    return "".join(c if c in keep or _is_printable(c, before) else escape(c) for *before, c in triples)


def _is_printable(char: str, before: Sequence[str]) -> bool:
    if char in _JOINERS or char in _SELECTORS:
        base = before[0] if char in _JOINERS and before[1] in _SELECTORS else before[1]
        return not base.isascii() and base.isprintable() and not _HIDDEN.match(base)
    # `isprintable` counts U+00A0 and U+3000 out.
    return not _HIDDEN.match(char) and (char.isprintable() or category(char) == "Zs")
