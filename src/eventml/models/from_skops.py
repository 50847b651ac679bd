"""skops files: loaded without pickle, and only what is trusted by name."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import msgspec

from eventml.errors import MissingExtraError, ModelError, UntrustedModelError
from eventml.models.trusted import LOADERS, is_function
from eventml.models.versions import here, one_warning_a_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventml.models.artefact import Artefact


class Contents(msgspec.Struct, frozen=True):
    """What a file says it holds, read without making any of it.

    Attributes:
        misplaced: Reviewed names in a place for which they were not reviewed.
        saved_with: The versions of scikit-learn that it was saved with.
    """

    misplaced: frozenset[str]
    saved_with: frozenset[str]


def read(data: bytes, artefact: Artefact) -> Any:
    """The object in a skops file.

    Raises:
        UntrustedModelError: It holds types that neither eventml's list nor the artefact trusts.
        MissingExtraError: skops or scikit-learn is not installed.
        ModelError: It is broken, or is not what scikit-learn would have saved.
    """
    path = str(artefact.path)
    try:
        import skops.io as skops  # noqa: PLC0415 - the core works without it

        from eventml.models.soundness import faults  # noqa: PLC0415 - the same
    except ImportError as exc:
        raise MissingExtraError("sklearn", f"loading {path}") from exc

    try:
        contents = contents_of(data)
        named = skops.get_untrusted_types(data=data)
    except Exception as exc:  # a broken or hostile file can raise anything
        raise ModelError(f"{path} is not a whole skops file: {type(exc).__name__}: {exc}") from exc
    _refuse_untrusted(
        path, {name for name in named if name not in LOADERS} | contents.misplaced, artefact.trusted
    )

    with one_warning_a_model(path):
        try:
            model = skops.loads(data, trusted=named)
            fault = next(faults(model), None)
        except Exception as exc:
            saved = " and ".join(sorted(contents.saved_with - {here()}))
            why = f"; it was saved with scikit-learn {saved} and this is {here()}" if saved else ""
            raise ModelError(f"{path} cannot be loaded: {type(exc).__name__}: {exc}{why}") from exc
        if fault is not None:
            raise ModelError(f"{path} is broken, or made to do harm: {fault}")
    return model


def _refuse_untrusted(path: str, types: set[str], trusted: tuple[str, ...]) -> None:
    refused = tuple(sorted(types.difference(trusted)))
    if refused:
        raise UntrustedModelError(
            f"{path} holds what eventml does not trust: {', '.join(refused)}. "
            f"If you know who made the file and what these do, trust them by name: "
            f"Artefact({path!r}, trusted={(*trusted, *refused)!r})",
            types=refused,
        )


def contents_of(data: bytes) -> Contents:
    """Read the file's table of contents.

    Raises:
        Exception: Of any kind, if the file is not a skops file.
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
    return Contents(frozenset(misplaced), frozenset(saved_with))


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Everything in the schema that skops could take for a node, used or not."""
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
        # The first version of the format named a function inside its content.
        case {"__loader__": "FunctionNode", "content": {"module_path": module, "function": name}}:
            return f"{module}.{name}"
    return f"{node.get('__module__')}.{node.get('__class__')}"


def _calls_only_listed(node: dict[str, Any]) -> bool:
    if node["__loader__"] != "PartialNode":
        return True
    called = node["content"]["func"]
    return called["__loader__"] == "FunctionNode" and is_function(_name(called))
