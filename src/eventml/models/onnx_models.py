"""ONNX models: loaded with ONNX Runtime, with one thread unless the artefact keeps its threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from eventml.errors import ModelError
from eventml.models.formats import ModelFile, import_extra

_DTYPES: Final = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(string)": "str",
}


# Where the messages of ONNX's protobuf format hold tensors: fields by number, with the messages in them.
_MESSAGES: Final[Mapping[str, Mapping[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": dict.fromkeys((1, 2), "GraphProto"),
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **dict.fromkeys((5, 10), "TensorProto"),
        **dict.fromkeys((6, 11), "GraphProto"),
        **dict.fromkeys((22, 23), "SparseTensorProto"),
    },
    "SparseTensorProto": dict.fromkeys((1, 2), "TensorProto"),
    "TensorProto": {},
}
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14  # 0 is the default: in the file
_BYTES_OF: Final = {1: 8, 5: 4}  # wire types of fixed size
_LENGTH_DELIMITED: Final = 2


class OnnxModel:
    """An ONNX model with the `predict` of a scikit-learn estimator.

    Attributes:
        session: The `onnxruntime.InferenceSession`, for other outputs than that of `predict`, such as
            probabilities.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self._inputs = {one.name: _DTYPES.get(one.type) for one in session.get_inputs()}
        self._output = session.get_outputs()[0].name

    def predict(self, X: Any) -> Any:  # noqa: N803 - the name in scikit-learn
        """The model's first output for a batch: an array with one prediction for each row.

        Args:
            X: For a model with one input, a matrix with a row for each event. For a model with several
                inputs, columns by name: a dictionary of sequences or a data frame. Numbers are converted to
                the input's type.

        Raises:
            Exception: Any exception of ONNX Runtime, if the input does not fit.
        """
        import numpy as np  # noqa: PLC0415 - optional; onnxruntime has imported it

        one = len(self._inputs) == 1 and not isinstance(X, Mapping)
        feed = {
            name: np.asarray(X, dtype=dtype) if one else np.asarray(X[name], dtype).reshape(len(X[name]), -1)
            for name, dtype in self._inputs.items()
        }
        predicted = np.asarray(self.session.run([self._output], feed)[0])
        # A regressor returns a matrix with one column, where scikit-learn returns a vector.
        return predicted.reshape(-1) if predicted.shape[1:] == (1,) else predicted


def read_onnx(file: ModelFile, /, *, providers: Sequence[str] = ("CPUExecutionProvider",)) -> OnnxModel:
    """Load an ONNX model, with one thread unless it keeps its threads.

    `providers` are ONNX Runtime's execution providers, the preferred first.

    A model with weights in separate files is refused: ONNX Runtime would read them from the working
    directory, and the model's sha256 does not cover them. Of a file that is not pinned by a sha256, sparse
    tensors are refused and nothing is computed while loading: both make gigabytes of a few bytes.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: It cannot load the file, or must not, or lacks a provider.
    """
    data, path, pinned = file.data, file.path, file.artefact.sha256 is not None
    onnxruntime = import_extra("onnxruntime", "onnx", f"loading {path}")
    if absent := set(providers).difference(available := onnxruntime.get_available_providers()):
        raise ModelError(
            f"{path}: this build of ONNX Runtime lacks {', '.join(sorted(absent))} (it has "
            f"{', '.join(available)}); install the build for your hardware, such as onnxruntime-gpu"
        )
    options = onnxruntime.SessionOptions()
    # By default the bytes decide the format, and in ONNX Runtime's own format nothing would be checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if not file.artefact.keep_threads:
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
    if not pinned:
        options.log_severity_level = 4  # it writes the file's names to stderr as they are; errors are raised
    try:
        special = _special_tensors(data)
    except (ValueError, IndexError) as exc:
        raise ModelError(f"{path} is not a complete ONNX model: {exc}") from exc
    if "external" in special:
        raise ModelError(
            f"{path} has weights in separate files, which its sha256 does not cover. "
            "Save the model as one file: onnx.save(onnx.load('model.onnx'), 'one.onnx')"
        )
    if "SparseTensorProto" in special and not pinned:
        raise ModelError(
            f"{path} has sparse tensors, which may fill the memory. Pin it: Artefact(..., sha256=)"
        )
    try:
        off = [] if pinned else ["ConstantFolding"]
        session = onnxruntime.InferenceSession(data, options, list(providers), disabled_optimizers=off)
    except Exception as exc:
        raise ModelError(f"{path} is not a complete ONNX model: {type(exc).__name__}: {exc}") from exc
    return OnnxModel(session)


def _special_tensors(data: bytes) -> set[str]:
    """The messages in an ONNX model, and "external" if a tensor says that its data is outside of the file.

    It walks the protobuf format itself, so that the package onnx is not needed.

    Raises:
        ValueError: The data is not a protobuf message.
        IndexError: It ends in the middle of one.
    """
    found: set[str] = set()
    waiting: list[tuple[str, memoryview]] = [("ModelProto", memoryview(data))]
    while waiting:
        kind, message = waiting.pop()
        fields = _MESSAGES[kind]
        found.add(kind)
        for number, value in _fields(message):
            if kind == "TensorProto" and (
                number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
            ):
                found.add("external")
            if number in fields and isinstance(value, memoryview):
                waiting.append((fields[number], value))
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: number, and an int or the bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag >> 32:
            raise ValueError("a field has no valid number")
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire_type == _LENGTH_DELIMITED:
            size, at = _varint(message, at)
        else:
            size = _BYTES_OF.get(wire_type, -1)
        if size < 0 or at + size > len(message):
            raise ValueError(f"field {number} is damaged")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the highest bit says that another byte follows
            return value, at
    raise ValueError("a number is too long")
