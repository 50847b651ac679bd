"""scikit-learn models: skops files, loaded by trusted types only, and pickles, on request."""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from eventml.errors import MissingExtraError, ModelError, UntrustedModelError
from eventml.models.formats import ModelFile
from eventml.models.trusted import ARRAY_CHECK, LOADERS, PLAIN_DICTIONARIES, REVIEWED_LOADERS, TUPLE_STATES

_MIB: Final = 1 << 20
_SCALAR: Final = 1024  # bytes of a member for one number, whose header takes 128
_VALUES: Final = 1_000_000  # of a table of contents; a word of a vocabulary takes about 10, and 0.2 ms
# The text of a value of JSON is JSON in a text, where each can be escaped.
_VALUE_MARKS: Final = rb", [ { \u002c \u002C \u005b \u005B \u007b \u007B".split()
_SEED: Final = frozenset({"entropy", "n_children_spawned", "pool_size", "spawn_key"})
_POOL: Final = 64  # numpy's default is 4; the time to make one grows with its square


def read_skops(file: ModelFile, /) -> Any:
    """Load the object in a skops file.

    A file that is not pinned by a sha256 may unpack to 64 MiB or 40 times its size, whichever is more, and
    its table of contents may have 1 million values or one for each byte of the file.

    Raises:
        UntrustedModelError: The file contains types that are neither on the reviewed list nor in `trusted`.
        MissingExtraError: skops or scikit-learn is not installed.
        ModelError: The file is damaged, too large unpacked, or scikit-learn could not have saved it.
    """
    data, path, trusted = file.data, str(file.path), file.artefact.trusted
    pinned = file.artefact.sha256 is not None
    try:
        import skops.io as skops  # noqa: PLC0415 - optional

        from eventml.models.soundness import faults  # noqa: PLC0415 - it imports scikit-learn
    except ImportError as exc:
        raise MissingExtraError("sklearn", f"loading {path}") from exc

    try:
        misplaced, saved_with = _contents(data, pinned=pinned)
        named = skops.get_untrusted_types(data=data)
    except _TooLargeError as exc:
        raise ModelError(
            f"{path} has {len(data)} bytes and needs far more memory: {exc}. It may be an attack on your "
            f"memory. If you know who made the file, give its sha256: Artefact({path!r}, sha256='...')"
        ) from exc
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
        fault = next(faults(model, trusted), None)
    except Exception as exc:
        now = sys.modules["sklearn"].__version__
        saved = " and ".join(sorted(saved_with - {now}))
        why = f"; it was saved with scikit-learn {saved} and this is {now}" if saved else ""
        raise ModelError(f"{path} cannot be loaded: {type(exc).__name__}: {exc}{why}") from exc
    if fault is not None:
        raise ModelError(f"{path} is damaged or malicious: {fault}")
    return model


class _TooLargeError(Exception):
    """The file takes far more memory than its size."""


def _unpacked_sizes(file: IO[bytes], limit: int) -> dict[str, int]:
    """The size of each member, including that of the archives in it (sparse matrices).

    The sizes that an archive claims can be forged, so it is unpacked, in small pieces.
    """
    sizes: dict[str, int] = {}
    left = limit
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is compressed by another method than deflate")
            member.file_size = sys.maxsize  # reading would stop at the claimed size
            before = left
            with archive.open(member) as content:
                piece = content.read(_MIB)
                if piece.startswith(b"\x93NUMPY"):
                    _check_width(io.BytesIO(piece))
                # numpy opens what starts like this as an archive.
                inner = io.BytesIO() if piece.startswith(b"PK") else None
                while piece:
                    left -= len(piece)
                    if left < 0:
                        raise _TooLargeError("unpacked it is more than 64 MiB and 40 times as large")
                    if inner is not None:
                        inner.write(piece)
                    piece = content.read(_MIB)
            if inner is not None:
                left -= sum(_unpacked_sizes(inner, left).values())
            sizes[member.filename] = before - left
    return sizes


def _check_width(file: IO[bytes]) -> None:
    """Raise ValueError for an array whose elements take no bytes: a header can claim any number of them."""
    from numpy.lib import format as npy  # noqa: PLC0415 - optional

    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.itemsize == 0 and math.prod(shape) > 1:
        raise ValueError("an array has elements of no size")


def _contents(data: bytes, *, pinned: bool) -> tuple[set[str], set[str]]:
    """The names that a file loads in another way than reviewed, and its versions of scikit-learn.

    Both come from the file's table of contents; no object is created.

    Raises:
        _TooLargeError: A file that is not pinned takes far more memory than its size.
        Exception: Any exception, if the file is damaged.
    """
    # An archive may begin behind other data: the file could be a program too.
    if not data.startswith(b"PK\x03\x04"):
        raise ValueError("it does not begin as a zip archive")
    # A text model's schema.json becomes 30 times as small when it is compressed.
    limit = max(64 * _MIB, 40 * len(data))
    sizes = {} if pinned else _unpacked_sizes(io.BytesIO(data), limit)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        table = archive.read("schema.json")
    # A value takes 100 bytes of memory, and 2 of text.
    if not pinned and sum(map(table.count, _VALUE_MARKS)) > max(_VALUES, len(data)):
        raise _TooLargeError("its schema.json has more than 1 million values, more than the file has bytes")
    schema = json.loads(table, object_hook=_parts_with_one_id_are_equal())
    misplaced: set[str] = set()
    saved_with: set[str] = set()
    members: set[tuple[Any, str]] = set()
    for node in _nodes(schema):
        name = _name(node)
        scalar = node["__loader__"] == "NdArrayNode" and name not in ("numpy.ndarray", "numpy.str_")
        if not _as_reviewed(node, name) or (scalar and sizes.get(node.get("file", ""), 0) > _SCALAR):
            misplaced.add(name)
        if "file" in node:
            # A member is read once for each object, and parts with one id are one object.
            members.add((node.get("__id__", id(node)), node["file"]))
        match node:
            case {"__loader__": "ObjectNode", "content": {"content": {"_sklearn_version": version}}}:
                said = json.loads(version["content"]) if version["__loader__"] == "JsonNode" else None
                if not re.fullmatch(r"[a-zA-Z0-9_.+-]{1,40}", str(said)):  # a warning writes it to stderr
                    raise ValueError("its version of scikit-learn is not a version")
                saved_with.add(str(said))
    if sum(sizes.get(member, 0) for _, member in members) > limit:
        raise _TooLargeError("its arrays are more than 64 MiB and 40 times as large")
    return misplaced, saved_with


class _Part(dict[str, Any]):
    """An object of the schema, and a digest of it without ids and names of members."""

    __slots__ = ("digest",)

    digest: int


def _parts_with_one_id_are_equal() -> Callable[[dict[str, Any]], _Part]:
    """A hook for `json.loads` that raises ValueError if different parts have one id.

    skops takes the first part with an id in the place of the others. It writes equal parts; in a forged
    file the others could be empty, and a few kilobytes become an object of any size.
    """
    digests: dict[Any, int] = {}

    def check(plain: dict[str, Any]) -> _Part:
        part = _Part(plain)
        part.digest = hash(
            tuple((key, _digest(value)) for key, value in part.items() if key not in ("__id__", "file"))
        )
        if "__id__" in part and not (type(part["__id__"]) is int and part["__id__"] > 0):
            # skops reads a part whose id is 0 or null again each time it is met.
            raise ValueError(f"the id of a part is {part['__id__']!r}")
        if "__id__" in part and digests.setdefault(part["__id__"], part.digest) != part.digest:
            raise ValueError(f"two different parts have the id {part['__id__']}")
        return part

    return check


def _digest(value: Any) -> int:
    if isinstance(value, _Part):
        return value.digest
    return hash(tuple(map(_digest, value)) if isinstance(value, list) else value)


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


def _as_reviewed(node: dict[str, Any], name: str) -> bool:
    loader = node["__loader__"]
    if loader not in LOADERS.get(name, REVIEWED_LOADERS) or name in ("numpy.bytes_", "numpy.void"):
        return False  # of a number n these two make n bytes
    match node:
        case {"__loader__": "PartialNode", "content": {"func": called, "namespace": own}}:
            plain = called["__loader__"] == "FunctionNode" and own["content"] in ("null", {})
            return plain and _name(called) == ARRAY_CHECK
        case {"__loader__": "DictNode", "key_types": keys} if not _are_plain(keys):
            kinds = ", ".join(sorted({_name(key) for key in keys["content"]}))
            raise ValueError(f"it calls other types than text and numbers for keys of a dictionary: {kinds}")
    match node:
        case {"__loader__": "ObjectNode", "content": state}:
            return _is_state(state, name)
        case {"__loader__": "DictNode", "content": items} if name not in PLAIN_DICTIONARIES:
            _refuse_special(items)
        case {"__loader__": "RandomGeneratorNode", "content": {"seed_seq": seed}}:
            _check_seed(seed)
    return True


def _is_state(state: dict[str, Any], name: str) -> bool:
    """Whether an object's state is what its type makes of it: attributes by name, or a compiled type's tuple.

    Python types would take attributes from a value of JSON too, and from pairs.
    """
    match state:
        case {"__loader__": "DictNode", "content": attributes}:
            _refuse_special(attributes)
            return True
        case {"__loader__": "TupleNode"}:
            return name.startswith(TUPLE_STATES)
        case {"__loader__": "JsonNode", "content": "null"}:
            return True
    return False


def _refuse_special(attributes: dict[str, Any]) -> None:
    # Python and numpy read memory at the address in an attribute `__array_interface__`, for example.
    if found := [name for name in attributes if name.startswith("__")]:
        raise ValueError(f"an object has an attribute with a special name: {', '.join(found)}")


def _check_seed(seed: dict[str, Any]) -> None:
    parts = seed["content"]
    size = parts.get("pool_size", {"__loader__": "JsonNode", "content": "4"})
    known = seed["__loader__"] == "DictNode" and parts.keys() <= _SEED and size["__loader__"] == "JsonNode"
    if not known or not 0 < int(size["content"]) <= _POOL:
        raise ValueError("the seed of a random generator is not one that numpy makes")


def _are_plain(keys: dict[str, Any]) -> bool:
    """Whether the types of a dictionary's keys are types of Python or numpy; skops calls them."""
    return keys["__loader__"] == "ListNode" and all(
        key["__loader__"] == "TypeNode" and key["__module__"] in ("builtins", "numpy")
        for key in keys["content"]
    )


def read_pickle(file: ModelFile, /) -> Any:
    """Load the object in a pickle, plain or joblib's, whose sha256 has been checked. It runs the code in it.

    Raises:
        UntrustedModelError: The artefact lacks `pickle=True`, or the file has no pin.
        MissingExtraError: The file is a `.joblib` file, and joblib is not installed.
        ModelError: The pickle cannot be loaded in this environment.
    """
    data, path = file.data, str(file.path)
    if not file.may_unpickle:
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
