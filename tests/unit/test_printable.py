"""Text of strangers, made printable: nothing that acts on a terminal, forges a line or hides comes out."""

from __future__ import annotations

import json
import re
from unicodedata import category, name

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.printable import printable, printable_json, printable_lines, valid_unicode

HARMFUL = {
    *map(chr, range(0x20)),  # C0: ESC begins a command, CR and BS overwrite the line
    *map(chr, range(0x7F, 0xA0)),  # DEL and C1: U+009B is an ESC [ in one character
    *"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",  # reorder text
    *"\u2028\u2029",  # line ends to many programs
    *"\xad\u200b\u2060\ufeff\U000e0001\U000e0041\U000e007f",  # nothing is shown
    *"\u034f\u115f\u1160\u17b4\u180b\u180f\u3164\ufe00\ufe0d\uffa0\U000e0100\U000e01ef",  # default ignorable
    *"\ud800\udc9b\udfff",  # cannot be encoded
    *"\ue000\U0010fffd\u0378\ufdd0\uffff",  # private, unassigned and never assigned
}
JOINERS = "\u200c\u200d"
SELECTORS = "\ufe0e\ufe0f"
READABLE = [
    "plain ASCII, [red]markup[/red] and C:\\new\\table",
    "čeština, ελληνικά, русский, עברית, العربية, ไทย, 日本語、漢字\u3000한국어",
    "می\u200cخواهم क्\u200dष",  # noqa: RUF001 - Persian
    "👩\u200d🚀 👨\u200d👩\u200d👧 ❤\ufe0f 🇩🇪 1\xa0000\u202f€",
    "e\u0301 and Z\u0361a",
    "",
]
TEXT = st.text(
    st.characters() | st.sampled_from(sorted(HARMFUL)) | st.sampled_from([*JOINERS, *SELECTORS, "a", "é"])
)


def hides(char: str) -> bool:
    """Whether nothing is shown of a character, by its name."""
    return bool(
        re.search("VARIATION SELECTOR|HANGUL.* FILLER|GRAPHEME JOINER|VOWEL INHERENT", name(char, ""))
    )


def harmful(text: str, keep: str = "") -> set[str]:
    """The unprintable characters of a text, by a rule that is not that of the code."""
    bad = {c for c in text if category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} or hides(c)}
    shown = rf"[^\x00-\x7f{JOINERS}{SELECTORS}]"
    hidden = set(
        re.findall(rf"(?<!{shown})[{SELECTORS}]|(?<!{shown})(?<!{shown}[{SELECTORS}])[{JOINERS}]", text)
    )
    bad -= {*JOINERS, *SELECTORS}
    return (bad | hidden) - set(keep)


@given(TEXT)
def test_nothing_unprintable_comes_out(text: str) -> None:
    shown = printable(text)
    assert not harmful(shown)
    shown.encode()
    assert printable(shown) == shown
    assert not harmful(printable(text, keep="\n\t"), keep="\n\t")


@given(TEXT)
def test_text_that_is_printable_is_unchanged_and_no_other_is(text: str) -> None:
    assert (printable(text) == text) == (not harmful(text))


@given(TEXT)
def test_no_line_behind_the_first_begins_at_the_margin(text: str) -> None:
    first, *others = printable_lines(text).split("\n")
    assert not harmful(first, keep="\t")
    assert all(line.startswith("    ") and not harmful(line, keep="\t") for line in others)


@given(st.recursive(TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5))
def test_json_keeps_its_value(value: object) -> None:
    valid = msgspec.json.decode(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    encoded = printable_json(msgspec.json.encode(valid))
    assert not harmful(encoded.decode())
    assert json.loads(encoded) == msgspec.json.decode(encoded) == valid


@pytest.mark.parametrize("char", sorted(HARMFUL), ids=lambda char: name(char, f"U+{ord(char):04X}"))
def test_each_harmful_character_is_escaped(char: str) -> None:
    assert printable(f"a{char}b") == "a" + char.encode("unicode_escape").decode() + "b"
    text = valid_unicode(f"a{char}b")
    assert json.loads(printable_json(msgspec.json.encode(text))) == text


@pytest.mark.parametrize("text", READABLE)
def test_text_of_all_scripts_and_emoji_stays_readable(text: str) -> None:
    assert printable(text) == printable_lines(text) == text
    assert printable_json(msgspec.json.encode(text)) == msgspec.json.encode(text)


def test_a_joiner_that_joins_nothing_is_shown() -> None:
    assert printable("pay\u200dment") == r"pay\u200dment"
    assert printable("é\u200d\u200dé") == "é\u200d\\u200dé"


def test_a_selector_stays_behind_a_character_that_it_can_select() -> None:
    assert printable("❤\ufe0f\u200d🔥") == "❤\ufe0f\u200d🔥"
    assert printable("pay\ufe0fment ❤\ufe0f\ufe0f") == "pay\\ufe0fment ❤\ufe0f\\ufe0f"
    assert printable("\u3164\ufe0f") == r"\u3164\ufe0f"
