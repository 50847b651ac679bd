"""ONNX models whose weights are in other files: ONNX Runtime would read them from the working directory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.errors import ModelError
from eventml.models import Artefact, load
from eventml.models.onnx_models import _MESSAGES, _special_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("onnxruntime")
onnx: Any = pytest.importorskip("onnx")
helper: Any = onnx.helper

WEIGHTS = np.arange(4, dtype=np.float32)


def tensor(name: str = "w") -> Any:
    return onnx.numpy_helper.from_array(WEIGHTS, name)


def external(name: str = "w") -> Any:
    outside = tensor(name)
    onnx.external_data_helper.set_external_data(outside, location="weights.bin")
    outside.ClearField("raw_data")
    return outside


def value(name: str) -> Any:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 4])


def model(*nodes: Any, initializers: tuple[Any, ...] = (), **more: Any) -> Any:
    last = helper.make_node("Identity", ["x"], ["y"]) if not nodes else None
    graph = helper.make_graph(
        [*nodes, *([last] if last else [])], "g", [value("x")], [value("y")], list(initializers)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, **more)


def add(weights: Any) -> Any:
    return model(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(weights,))


def branch(weights: Any) -> Any:
    nodes = [
        helper.make_node("Constant", [], ["b"], value=weights),
        helper.make_node("Add", ["x", "b"], ["z"]),
    ]
    return helper.make_graph(nodes, "branch", [], [value("z")])


def in_a_branch(weights: Any) -> Any:
    yes = helper.make_node(
        "Constant", [], ["yes"], value=helper.make_tensor("t", onnx.TensorProto.BOOL, [], [True])
    )
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=branch(tensor()), else_branch=branch(weights))
    return model(yes, choice)


def in_a_function(weights: Any) -> Any:
    nodes = [
        helper.make_node("Constant", [], ["b"], value=weights),
        helper.make_node("Add", ["a", "b"], ["c"]),
    ]
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("own", "F", ["a"], ["c"], nodes, [opset])
    made = model(helper.make_node("F", ["x"], ["y"], domain="own"), functions=[function])
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made


def sparse(weights: Any) -> Any:
    made = model()
    indices = helper.make_tensor("i", onnx.TensorProto.INT64, [4], [0, 1, 2, 3])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(weights, indices, [4]))
    return made


def in_a_list(weights: Any) -> Any:
    made = model()
    attribute = made.graph.node[0].attribute.add()
    attribute.name, attribute.type = "more", onnx.AttributeProto.TENSORS
    attribute.tensors.append(weights)
    return made


def for_training(weights: Any) -> Any:
    made = model()
    made.training_info.add().algorithm.initializer.append(weights)
    return made


def located(weights: Any) -> Any:
    """Says only that it is outside, without saying where."""
    weights.ClearField("external_data")
    return add(weights)


def in_memory(weights: Any) -> Any:
    """ONNX Runtime's own mark for an address in memory."""
    weights.external_data[0].value = "*/_ORT_MEM_ADDR_/*"
    return add(weights)


WHERE = [add, in_a_branch, in_a_function, sparse, in_a_list, for_training, located, in_memory]


@pytest.mark.parametrize("place", WHERE, ids=lambda place: place.__name__)
def test_weights_in_another_file_are_refused(
    place: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    path = tmp_path / "model.onnx"
    path.write_bytes(place(external()).SerializeToString())

    with pytest.raises(ModelError, match="weights in separate files, which its sha256 does not cover"):
        load(path, name="x")


@pytest.mark.parametrize("place", [add, in_a_branch, in_a_function])
def test_weights_in_the_file_are_not(place: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(place(tensor()).SerializeToString())
    assert load(path, name="x").object.predict(np.ones((2, 4))).tolist() == [[1, 2, 3, 4]] * 2


def test_the_advice_works(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    path.write_bytes(add(external()).SerializeToString())

    onnx.save(onnx.load(path), tmp_path / "one.onnx")

    assert load(tmp_path / "one.onnx", name="x").object.predict(np.ones((1, 4))).tolist() == [[1, 2, 3, 4]]


def test_every_field_of_the_format_that_leads_to_a_tensor_is_walked() -> None:
    """Of onnx: a later version of the format may add one."""
    kinds = {"ModelProto": onnx.ModelProto.DESCRIPTOR}
    waiting = list(kinds.values())
    while waiting:
        for field in waiting.pop().fields:
            if field.message_type is not None and field.message_type.name not in kinds:
                kinds[field.message_type.name] = field.message_type
                waiting.append(field.message_type)
    fields = {
        name: {f.number: f.message_type.name for f in kind.fields if f.message_type}
        for name, kind in kinds.items()
    }
    leads = {"TensorProto"}
    while more := {name for name, inner in fields.items() if leads & set(inner.values())} - leads:
        leads |= more

    wanted = {
        name: {
            number: inner
            for number, inner in fields[name].items()
            if inner in leads and name != "TensorProto"
        }
        for name in leads
    }

    assert wanted == {name: dict(inner) for name, inner in _MESSAGES.items()}


@given(st.binary(max_size=60))
def test_any_bytes_are_walked_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError):
        assert _special_tensors(data) <= {"external", *_MESSAGES}


def test_a_model_in_another_format_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime would read its own format by its mark, unchecked."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x0a\x02ORTMORTM")
    with pytest.raises(ModelError, match="not a complete ONNX model"):
        load(path, name="x")


def sparse_attribute(weights: Any) -> Any:
    indices = helper.make_tensor("i", onnx.TensorProto.INT64, [4], [0, 1, 2, 3])
    values = helper.make_sparse_tensor(weights, indices, [4])
    return model(
        helper.make_node("Constant", [], ["w"], sparse_value=values),
        helper.make_node("Add", ["x", "w"], ["y"]),
    )


@pytest.mark.parametrize("place", [sparse, sparse_attribute])
def test_sparse_weights_need_a_pin(place: Callable[[Any], Any], tmp_path: Path) -> None:
    """ONNX Runtime makes them dense while it loads them: a few bytes can become gigabytes."""
    path = tmp_path / "model.onnx"
    path.write_bytes(place(tensor()).SerializeToString())
    with pytest.raises(ModelError, match=r"sparse tensors.*sha256="):
        load(path, name="x")

    pinned = Artefact(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert load(pinned, name="x").object.predict(np.ones((1, 4))).shape == (1, 4)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
def test_nothing_is_computed_while_loading(tmp_path: Path) -> None:
    """A node that makes a large constant of a number takes its memory when it is used, not at the start."""
    made = model(
        helper.make_node("Constant", [], ["n"], value_ints=[2_000_000, 4]),  # 32 MB
        helper.make_node("ConstantOfShape", ["n"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(add(tensor()).SerializeToString())
    load(path, name="x")
    path.write_bytes(made.SerializeToString())
    before = resident()
    loaded = load(path, name="x")
    assert resident() - before < 16_000_000
    assert loaded.object.session.get_inputs()[0].name == "x"


def test_names_in_the_file_are_not_written_to_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model(initializers=(tensor("unused\x1b[31m"),)).SerializeToString())
    load(path, name="x").object.predict(np.ones((1, 4)))
    assert capfd.readouterr().err == ""
