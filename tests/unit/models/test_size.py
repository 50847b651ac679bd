"""Files that would take far more memory than their size are refused before they are read as a whole."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skops.io
from scipy.sparse import csr_matrix, save_npz  # type: ignore[import-untyped]  # scipy has no types
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline

from eventml.errors import ModelError, UntrustedModelError
from eventml.models import Artefact, load, sklearn_models
from eventml.models.soundness import faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
ZEROS = bytes(100 * MIB)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def array(content: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, content)
    return file.getvalue()


def large_array(entries: dict[str, bytes], name: str) -> bytes:
    return packed({**entries, name: array(np.zeros(100 * MIB // 8))})


def large_table(entries: dict[str, bytes], name: str) -> bytes:
    return packed({**entries, "schema.json": b"[" + b"[]," * (4 * MIB) + b"1]"})


def not_even_named(entries: dict[str, bytes], name: str) -> bytes:
    return packed({**entries, "more": ZEROS})


def claims_less(entries: dict[str, bytes], name: str) -> bytes:
    """The directory claims a size of 10 bytes, and the checksum of the first 10."""
    data = bytearray(packed({**entries, "more": ZEROS}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 16 : at + 20] = zlib.crc32(ZEROS[:10]).to_bytes(4, "little")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    return bytes(data)


def archive_in_archive(entries: dict[str, bytes], name: str) -> bytes:
    """Numpy opens an archive in the place of an array, and scipy one for each sparse matrix."""
    return packed({**entries, name: packed({"data.npy": ZEROS})}, zipfile.ZIP_STORED)


def other_method(entries: dict[str, bytes], name: str) -> bytes:
    return packed({**entries, name: ZEROS}, zipfile.ZIP_BZIP2)


def read_often(entries: dict[str, bytes], name: str) -> bytes:
    """Many parts that read one member of a legal size."""
    schema = json.loads(entries["schema.json"])
    parts = schema["content"]["content"]
    part = {key: value for key, value in parts["coef_"].items() if key != "__id__"}
    parts["more"] = {
        "__class__": "list",
        "__module__": "builtins",
        "__loader__": "ListNode",
        "content": [part] * 20,
    }
    large = array(np.zeros(5 * MIB // 8))
    return packed({**entries, name: large, "schema.json": json.dumps(schema).encode()})


def one_id(entries: dict[str, bytes], name: str) -> bytes:
    """Lists of ten times the list before it, by its id: 10 ** 12 elements for whatever flattens them."""
    node: dict[str, Any] = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode"}
    inner: dict[str, Any] = {**node, "content": [], "__id__": 1}
    for level in range(12):
        again = {**node, "content": [], "__id__": inner["__id__"]}
        inner = {**node, "content": [inner, *[again] * 9], "__id__": 2 + level}
    schema = json.loads(entries["schema.json"])
    schema["content"]["content"]["more"] = inner
    return packed({**entries, "schema.json": json.dumps(schema).encode()})


def no_id(entries: dict[str, bytes], name: str) -> bytes:
    """Parts that read one member, with an id by which skops does not find them again."""
    schema = json.loads(entries["schema.json"])
    parts = schema["content"]["content"]
    node: dict[str, Any] = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode"}
    parts["more"] = {**node, "content": [{**parts["coef_"], "__id__": None}] * 20}
    large = array(np.zeros(5 * MIB // 8))
    return packed({**entries, name: large, "schema.json": json.dumps(schema).encode()})


BOMBS = {
    large_array: "unpacked it is more than 64 MiB",
    large_table: "schema.json has more than 1 million values",
    not_even_named: "unpacked it is more than 64 MiB",
    claims_less: "unpacked it is more than 64 MiB",
    archive_in_archive: "unpacked it is more than 64 MiB",
    other_method: "another method than deflate",
    read_often: "its arrays are more than 64 MiB",
    no_id: "the id of a part is None",
    one_id: "two different parts have the id",
}


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_a_small_file_never_takes_much_memory(
    bomb: Callable[..., bytes], save: Callable[..., Path], line: LinearRegression
) -> None:
    path = save(line)
    entries = members(path)
    path.write_bytes(bomb(entries, next(name for name in entries if name.endswith(".npy"))))
    assert path.stat().st_size < MIB

    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=BOMBS[bomb]):
            load(path, name="x")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 40 * MIB


def test_a_pinned_file_may_be_of_any_size(save: Callable[..., Path]) -> None:
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    model.more_ = np.zeros(100 * MIB // 8)
    path = save(model)
    path.write_bytes(packed(members(path)))
    with pytest.raises(ModelError, match=r"unpacked it is more than 64 MiB.*sha256="):
        load(path, name="x")

    pinned = Artefact(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    assert load(pinned, name="x").object.more_.size == 100 * MIB // 8


def test_an_uncompressed_file_may_be_of_any_size(save: Callable[..., Path]) -> None:
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    model.more_ = np.zeros(100 * MIB // 8)
    assert load(save(model), name="x").object.more_.size == 100 * MIB // 8


def test_an_array_may_hold_the_mark_of_an_archive(save: Callable[..., Path]) -> None:
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    model.more_ = np.frombuffer(b"PK" * (2 * MIB), dtype=np.uint8)  # where pieces begin, too
    assert load(save(model), name="x").object.more_.size == 4 * MIB


def test_sparse_matrices_are_archives_of_their_own(save: Callable[..., Path], line: LinearRegression) -> None:
    line.coef_ = csr_matrix(np.eye(1))
    file = io.BytesIO()
    save_npz(file, line.coef_)
    assert file.getvalue().startswith(b"PK")
    assert load(save(line), name="x").object.coef_.nnz == 1


def test_an_archive_in_the_place_of_an_array_is_refused(
    save: Callable[..., Path], line: LinearRegression
) -> None:
    path = save(line)
    entries = members(path)
    name = next(name for name in entries if name.endswith(".npy"))
    path.write_bytes(packed({**entries, name: packed({"data.npy": array(np.zeros(1))})}))

    with pytest.raises(ModelError, match="an archive in the place of an array"):
        load(path, name="x")


def test_a_compressed_model_of_texts_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sklearn_models, "_MIB", MIB // 64
    )  # so that a small vocabulary is beyond the least limit
    monkeypatch.setattr(sklearn_models, "_VALUES", MIB // 64)
    words = [f"{number:x}word" for number in np.random.default_rng(0).integers(1 << 40, size=4000)]
    model = make_pipeline(TfidfVectorizer(), Ridge()).fit(words, np.arange(4000.0))
    path = tmp_path / "texts.skops"
    skops.io.dump(model, path, compression=zipfile.ZIP_DEFLATED)
    table = len(members(path)["schema.json"])
    assert table > max(MIB, 8 * path.stat().st_size)

    assert load(path, name="x").object.predict(words[:1]) == pytest.approx(model.predict(words[:1]))


def test_compressed_models_load(save: Callable[..., Path], line: LinearRegression, tmp_path: Path) -> None:
    path = tmp_path / "small.skops"
    skops.io.dump(line, path, compression=zipfile.ZIP_DEFLATED)
    assert load(path, name="x").object.predict([[4.0]]) == pytest.approx([8.0])


def npy(kind: str, shape: tuple[int, ...], content: bytes = b"") -> bytes:
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def with_array(path: Path, member: bytes, kind: str = "ndarray") -> Path:
    """Replace the coefficients in a file by an array, or by what a type of numpy makes of it."""
    entries = members(path)
    schema = json.loads(entries["schema.json"])
    part = schema["content"]["content"]["coef_"]
    part["__class__"] = kind
    schema = json.dumps(schema).encode()
    path.write_bytes(packed({**entries, part["file"]: member, "schema.json": schema}))
    return path


@pytest.mark.parametrize(
    ("kind", "member"),
    [
        ("bytes_", npy("<i8", (), MIB.to_bytes(8, "little"))),
        ("void", npy("<i8", (), MIB.to_bytes(8, "little"))),
        ("clongdouble", npy("|i1", (MIB,), bytes(MIB))),
    ],
)
def test_a_scalar_is_not_larger_than_what_is_stored(
    kind: str, member: bytes, save: Callable[..., Path], line: LinearRegression
) -> None:
    with pytest.raises(UntrustedModelError, match=rf"numpy\.{kind}"):
        load(with_array(save(line), member, kind), name="x")


def test_scalars_of_numpy_load(save: Callable[..., Path], line: LinearRegression) -> None:
    line.more = [np.float64(1), np.longlong(2), np.str_(""), np.str_("x" * 999), np.datetime64(1, "D")]
    assert load(save(line), name="x").object.more == line.more


@pytest.mark.parametrize("kind", ["<U0", "|S0", "|V0", [], [("a", "<f8", (0,))]])
def test_elements_take_room(kind: Any, save: Callable[..., Path], line: LinearRegression) -> None:
    """A header of some bytes could claim any number of elements that take none."""
    path = with_array(save(line), npy(kind, (1 << 12,)))
    with pytest.raises(ModelError, match="elements of no size"):
        load(path, name="x")


def test_no_elements_need_no_room(save: Callable[..., Path], line: LinearRegression) -> None:
    line.more = [np.dtype("U"), np.ndarray(0, "U"), np.zeros((0, 4))]
    assert load(save(line), name="x").object.more[0] == np.dtype("U")


@pytest.mark.parametrize("escape", [r"\u007b", r"\u007B", "{"])
def test_escaped_values_count_too(
    escape: str, save: Callable[..., Path], line: LinearRegression, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sklearn_models, "_VALUES", 2000)
    line.more = "here"
    path = save(line)
    entries = members(path)
    inner = ":".join([f'{escape}\\"\\"'] * 2000)  # objects in objects need no commas
    entries["schema.json"] = entries["schema.json"].replace(b'\\"here\\"', inner.encode())
    path.write_bytes(packed(entries))
    assert path.stat().st_size < 2000
    with pytest.raises(ModelError, match="values, more than the file has bytes"):
        load(path, name="x")


@pytest.mark.parametrize(("name", "width"), [("feature_names_in_", 1), ("steps", 2)])
def test_arrays_of_small_numbers_become_no_lists(name: str, width: int, line: LinearRegression) -> None:
    setattr(line, name, np.ones((MIB, width), dtype=np.int8))
    tracemalloc.start()
    try:
        assert any(name in fault for fault in faults(line))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB
