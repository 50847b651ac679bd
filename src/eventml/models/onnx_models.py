"""ONNX models: loaded with ONNX Runtime, with one thread unless the artefact keeps its threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eventml.errors import ModelError

_DTYPES: Final = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(string)": "str",
}


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


def read_onnx(data: bytes, path: str, *, keep_threads: bool) -> OnnxModel:
    """Load an ONNX model on the CPU, with one thread unless it keeps its threads.

    Weights in separate files are not found: save the model as one file.

    Raises:
        ModelError: onnxruntime is not installed, or cannot load the file.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - optional
    except ImportError as exc:
        raise ModelError(
            f"loading {path} needs onnxruntime, which is not installed: pip install onnxruntime"
        ) from exc
    options = onnxruntime.SessionOptions()
    if not keep_threads:
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise ModelError(f"{path} is not a complete ONNX model: {type(exc).__name__}: {exc}") from exc
    return OnnxModel(session)
