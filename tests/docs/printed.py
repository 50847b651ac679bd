"""What README and the pages of docs/ print: their blocks, and how each is run as it is printed.

A block of Python whose first line is `# name.py` is that file (`# name.py, continued` is more of it); the
other blocks of Python on a page are one session. A block of shell is a list of commands. TOML and JSON are
parsed. A block without a language is shell if its first word is a program, and otherwise a picture or output.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
CONTEXTS: Final = Path(__file__).with_name("context")
PAGES: Final = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], key=lambda page: page.relative_to(ROOT).as_posix()
)

NOT_HERE: Final = {
    "docker": "needs a Docker daemon and images from a registry",
    "journalctl": "needs systemd",
    "kubectl": "needs a Kubernetes cluster",
    "make": "builds the whole environment again; .ci/run runs what these targets run",
    "pip": "the wheel is installed already, with its extras",
    "systemctl": "needs systemd",
}
"""Programs that these tests do not run, and why."""
PROGRAMS: Final = {"cat", "cd", "curl", "echo", "eventml", "kcat", "python", "redis-cli", "tail", *NOT_HERE}
"""Programs that a block without a language may begin with."""

_FENCE: Final = re.compile(r"^( *)```([\w-]*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILE: Final = re.compile(r"# ([\w./-]+\.(?:py|toml))(, continued)?\b.*\n")


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        place: Page and line, for messages.
        kind: `python`, `shell`, `toml`, `json` or `text`.
        text: What is printed.
        file: Name of the file that it is, if it says so.
        continued: Whether it is more of that file.
        alone: Whether it has a title, and so is an example by itself, which the page's own test runs.
    """

    place: str
    kind: str
    text: str
    file: str | None
    continued: bool
    alone: bool


def name_of(page: Path) -> str:
    """Path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    source = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(source):
        indent, language, options, text = match.groups()
        text = re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        place = f"{name_of(page)}:{source.count(chr(10), 0, match.start()) + 1}"
        named = _FILE.match(text)
        file, continued = (named[1], bool(named[2])) if named else (None, False)
        found.append(Block(place, _kind(language, text), text, file, continued, "title=" in options))
    return found


def _kind(language: str, text: str) -> str:
    if language in ("sh", "bash", "shell", "console"):
        return "shell"
    if language == "":
        return "shell" if program_of(text) in PROGRAMS else "text"
    return {"py": "python"}.get(language, language)


def commands_of(block: Block) -> list[str]:
    """The commands of a block of shell, one a line; a line that ends with a backslash goes on."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def program_of(command: str) -> str:
    """The program that a command starts, without variables before it."""
    words = re.sub(r"^(?:\w+=\S* +)*", "", command).split()
    return words[0] if words else ""


def runs_on(command: str) -> bool:
    """Whether a command runs until it is stopped."""
    command = command.partition(" #")[0]
    if re.search(r"\btail -f\b|--cron\b|\beventml top\b", command):
        return True
    if re.search(r"\beventml (run|serve)\b", command):
        return "--until-idle" not in command
    return bool(re.search(r"\beventml tail\b", command)) and not re.search(r" -n\b|--until", command)
