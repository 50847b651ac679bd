"""What a predictor returned, checked as the stream checks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventml.deploy.batch.schema import VALUE, Field, Schema
from eventml.runtime import OutputChecks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.deploy.batch.chunks import Column
    from eventml.handlers import Handler


class Outcomes:
    """The checks of one handler's outputs.

    Args:
        handler: Whose.
    """

    def __init__(self, handler: Handler) -> None:
        self._checks = OutputChecks(handler)
        self._of_frames = handler.frame is not None

    def checked(self, outputs: Any, inputs: int) -> Column:
        """The outputs of a call that went well: an array of finite numbers as it is, all else as a list.

        Raises:
            OutputError: they do not fit.
        """
        if _is_series(outputs) and (len(outputs) == 0 or _kept_index(outputs) or not self._of_frames):
            outputs = outputs.to_numpy()
        if _is_vector(outputs):
            self._checks.check_length(outputs, inputs)
            if outputs.dtype.kind != "f" or bool(_isfinite(outputs)):
                return outputs.astype("f8" if outputs.dtype.kind == "f" else "i8", copy=False)
        return list(self.listed(outputs, inputs))

    def listed(self, outputs: Any, inputs: int) -> Sequence[Any]:
        """The outputs as a list.

        Raises:
            OutputError: they do not fit.
        """
        return self._checks.check(outputs, inputs).values

    def each(self, outputs: Sequence[Any]) -> Sequence[Any]:
        """Outputs that came one by one, with `Failed` in the place of each that does not fit."""
        return self._checks.check_each(outputs)

    def schema_of(self, outputs: Column) -> Schema | None:
        """The one column of an array; None for a list."""
        kind = getattr(getattr(outputs, "dtype", None), "kind", None)
        return None if kind is None else Schema((Field(VALUE, "", "float" if kind == "f" else "int"),))


def _is_series(outputs: Any) -> bool:
    """Whether it is a Series of pandas whose numbers are numpy's."""
    kind = type(outputs)
    numbers = type(getattr(outputs, "dtype", None)).__module__.startswith("numpy")
    return kind.__name__ == "Series" and kind.__module__.startswith("pandas") and numbers


def _kept_index(series: Any) -> bool:
    index = series.index
    return type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1


def _is_vector(outputs: Any) -> bool:
    """Whether it is numpy's, one number a row, that a column of 64 bits holds unchanged."""
    dtype = getattr(outputs, "dtype", None)
    return (
        type(outputs).__name__ == "ndarray"
        and outputs.ndim == 1
        and dtype is not None
        and (dtype.kind in "fi" or (dtype.kind == "u" and dtype.itemsize < 8))  # noqa: PLR2004 - bytes
        and dtype.itemsize <= 8  # noqa: PLR2004 - bytes
    )


def _isfinite(array: Any) -> Any:
    import numpy as np  # noqa: PLC0415 - whoever has an array of numpy's has numpy

    return np.isfinite(array).all()
