"""The core works where nothing but the core is installed, and says what a model would need."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        gone = {"numpy", "scipy", "sklearn", "skops", "joblib", "threadpoolctl", "onnxruntime"}
        if name.partition(".")[0] in gone:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import hashlib, pathlib, pickle, tempfile
from eventml.errors import MissingExtraError, ModelError
from eventml.models import Artefact, load, single_threaded

folder = pathlib.Path(tempfile.mkdtemp())
def file(name, content=b"x"):
    path = folder / name
    path.write_bytes(content)
    return path
def pickled(path):
    return Artefact(path, pickle=True, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
def refused(source):
    try:
        load(source, name="x")
    except (MissingExtraError, ModelError) as exc:
        return f"{type(exc).__name__}: {exc}"
"""

CASES = {
    "skops": "print(refused(file('tip.skops')))",
    "joblib": "print(refused(pickled(file('tip.joblib'))))",
    "onnx": "print(refused(file('tip.onnx')))",
    "pickle": "print(load(pickled(file('tip.pkl', pickle.dumps([1]))), name='x').object)",
    "factory": "print(load(lambda: {'a': 1}, name='x').version == load(lambda: {'a': 1}, name='x').version)",
    "threads": "print(single_threaded())",
}
SAID = {
    "skops": "MissingExtraError: loading .*tip.skops needs .*pip install 'eventml\\[sklearn\\]'",
    "joblib": "MissingExtraError: loading .*tip.joblib needs .*pip install 'eventml\\[sklearn\\]'",
    "onnx": r"MissingExtraError: loading .*tip.onnx needs .*pip install 'eventml\[onnx\]'",
    "pickle": r"\[1\]",
    "factory": "True",
    "threads": "None",
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_needs_an_extra_asks_for_it(case: str) -> None:
    done = subprocess.run(  # noqa: S603 - this Python, and the text above
        [sys.executable, "-W", "error", "-c", BLOCKED + CASES[case]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert __import__("re").search(SAID[case], done.stdout)


def test_importing_models_imports_none_of_it() -> None:
    check = (
        "import sys, eventml.models; print(sorted({'numpy','sklearn','skops','joblib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)  # noqa: S603 - this Python
    assert done.stdout.strip() == "[]"
