"""The files for those who contribute: workflows and forms fit GitHub's schemas, and what is named exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FILES = {
    "vendor.github-workflows": [*GITHUB.glob("workflows/*.yml")],
    "custom.github-workflows-require-timeout": [*GITHUB.glob("workflows/*.yml")],
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.github-issue-forms": [GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug", "idea")],
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
}


@pytest.mark.parametrize("schema", FILES)
def test_files_fit_the_schemas_of_github(schema: str) -> None:
    files = map(str, FILES[schema])
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stdout


def test_commands_of_workflows_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for workflow in GITHUB.glob("workflows/*.yml"):
        for job in yaml.safe_load(workflow.read_text("utf-8"))["jobs"].values():
            for command in filter(None, (step.get("run") for step in job["steps"])):
                program, *words = command.split()
                names = {word for word in words if "=" not in word}
                assert names <= targets if program == "make" else (ROOT / program).exists(), command


def test_what_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    examples = {"deploy/workers/metrics.py"}  # below src/eventml, which the same line names
    for path in set(
        re.findall(r"`((?:src|docs|tests|deploy|backends|benchmarks|\.ci|\.github)/[\w./-]*)`", text)
    ):
        assert (ROOT / path).exists() or path in examples, path
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets


def test_pre_commit_runs_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for hook in hooks:
        words = [
            word
            for word in hook["entry"].split()
            if word not in {"--force-exclude", "-p", "no:cacheprovider"}
        ]
        command = " ".join(words).replace(".venv/bin/", "$(BIN)/")
        assert command.removesuffix(" check").removesuffix(" format") in makefile, hook["id"]
