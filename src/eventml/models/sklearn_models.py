"""scikit-learn models: skops files, loaded by trusted types only, and pickles, on request."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventml.errors import MissingExtraError, ModelError, UntrustedModelError
from eventml.models.trusted import FUNCTIONS, LOADERS

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_skops(data: bytes, path: str, trusted: tuple[str, ...]) -> Any:
    """Load the object in a skops file.

    Raises:
        UntrustedModelError: The file contains types that are neither on the reviewed list nor in `trusted`.
        MissingExtraError: skops or scikit-learn is not installed.
        ModelError: The file is damaged, or scikit-learn could not have saved it.
    """
    try:
        import skops.io as skops  # noqa: PLC0415 - optional

        from eventml.models.soundness import faults  # noqa: PLC0415 - it imports scikit-learn
    except ImportError as exc:
        raise MissingExtraError("sklearn", f"loading {path}") from exc

    try:
        misplaced, saved_with = _contents(data)
        named = skops.get_untrusted_types(data=data)
    except Exception as exc:  # a damaged or malicious file can raise anything
        raise ModelError(f"{path} is not a complete skops file: {type(exc).__name__}: {exc}") from exc
    untrusted = {name for name in named if name not in LOADERS} | misplaced
    if refused := tuple(sorted(untrusted.difference(trusted))):
        raise UntrustedModelError(
            f"{path} contains untrusted types: {', '.join(refused)}. "
            f"If you know who made the file and what these types do, trust them by name: "
            f"Artefact({path!r}, trusted={(*trusted, *refused)!r})",
            types=refused,
        )

    try:
        model = skops.loads(data, trusted=named)
        fault = next(faults(model), None)
    except Exception as exc:
        now = sys.modules["sklearn"].__version__
        saved = " and ".join(sorted(saved_with - {now}))
        why = f"; it was saved with scikit-learn {saved} and this is {now}" if saved else ""
        raise ModelError(f"{path} cannot be loaded: {type(exc).__name__}: {exc}{why}") from exc
    if fault is not None:
        raise ModelError(f"{path} is damaged or malicious: {fault}")
    return model


def _contents(data: bytes) -> tuple[set[str], set[str]]:
    """The reviewed names that a file loads in another way than reviewed, and its versions of scikit-learn.

    Both come from the file's table of contents; no object is created.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = json.loads(archive.read("schema.json"))
    misplaced: set[str] = set()
    saved_with: set[str] = set()
    for node in _nodes(schema):
        name = _name(node)
        if name in LOADERS and (node["__loader__"] not in LOADERS[name] or not _calls_only_listed(node)):
            misplaced.add(name)
        match node.get("content"):
            case {"_sklearn_version": {"content": str(text)}}:
                saved_with.add(str(json.loads(text)))
    return misplaced, saved_with


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of the schema that skops could read as a node, used or not."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "__loader__" in one:
                yield one
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _name(node: dict[str, Any]) -> str:
    match node:
        # The first version of the format has a function's name in its content.
        case {"__loader__": "FunctionNode", "content": {"module_path": module, "function": name}}:
            return f"{module}.{name}"
    return f"{node.get('__module__')}.{node.get('__class__')}"


def _calls_only_listed(node: dict[str, Any]) -> bool:
    if node["__loader__"] != "PartialNode":
        return True
    called = node["content"]["func"]
    return called["__loader__"] == "FunctionNode" and _name(called) in FUNCTIONS


def read_pickle(data: bytes, path: str, *, allowed: bool) -> Any:
    """Load the object in a pickle, plain or joblib's, whose sha256 has been checked. It runs the code in it.

    Raises:
        UntrustedModelError: It is not `allowed`: the artefact lacks `pickle=True` or a `sha256`.
        MissingExtraError: The file is a `.joblib` file, and joblib is not installed.
        ModelError: The pickle cannot be loaded in this environment.
    """
    if not allowed:
        raise UntrustedModelError(
            f"{path} is a pickle, and loading a pickle runs any code in it. "
            "Save the model with skops. Or, if you know who made this file and noted its sha256 then, "
            f"give both: Artefact({path!r}, pickle=True, sha256='<its 64 hex digits>')"
        )
    try:
        # joblib also reads plain pickles, and many .pkl files are written by joblib.
        from joblib import load as load_pickle  # noqa: PLC0415 - optional for a plain pickle
    except ImportError as exc:
        if Path(path).suffix.lower() == ".joblib":
            raise MissingExtraError("sklearn", f"loading {path}") from exc
        load_pickle = pickle.load
    try:
        return load_pickle(io.BytesIO(data))
    except Exception as exc:
        raise ModelError(f"{path} cannot be loaded: {type(exc).__name__}: {exc}") from exc
