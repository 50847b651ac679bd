"""Predicting in blocks: a row's prediction does not depend on the other rows of its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def in_blocks(predict: Callable[[Any], Any], rows: Any, *, size: int = 256) -> Any:
    """Call `predict` with exactly `size` rows at a time, so that each row gets the same bits in any batch.

    The last block is filled up with copies of the last row.

    Matrix products of BLAS add up the terms of a row in an order that depends on the number of rows and on
    their memory layout: the same event predicted in a batch of 3 and of 300 may differ in the last bits.
    Calls of one shape give the same bits. This matters for models that multiply a dense matrix: linear and
    logistic regression, PCA, neural networks, distances. Trees, forests and boosting, and products of sparse
    rows, give the same bits in any batch and do not need it.

    Promised: a row's prediction is the same to the last bit in any batch and position, on one kind of
    processor with the same versions of numpy, its BLAS and the model's library. Not promised: across those.

    Args:
        predict: Takes rows and returns an array with one prediction for each. It must have no side effects,
            because it gets some rows more than once.
        rows: A numpy array, a sparse matrix, a pandas or polars frame, an Arrow table, or a list.
        size: Rows of a block. A linear model takes as long for 256 as for one row. Use less for a model that
            is slow per row. Predictions have the same bits only with the same size.

    Returns:
        A numpy array with one prediction for each row.

    Raises:
        ValueError: `size` is less than 1, or `predict` returns another number of predictions than rows.
    """
    import numpy as np  # noqa: PLC0415 - optional

    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    count = rows.shape[0] if hasattr(rows, "shape") else len(rows)
    if count == 0:
        return np.asarray(predict(rows))
    positions = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
    predictions = [np.asarray(predict(_take(rows, block))) for block in positions]
    for predicted in predictions:
        if predicted.shape[:1] != (size,):
            raise ValueError(f"predict got {size} rows and returned an array of shape {predicted.shape}")
    return np.concatenate(predictions)[:count]


def _take(rows: Any, positions: Any) -> Any:
    """The rows at these positions, copied, so that their memory layout is always the same."""
    if isinstance(rows, list | tuple):
        return [rows[position] for position in positions]
    if hasattr(rows, "iloc") or type(rows).__module__.startswith("pyarrow"):
        return rows.take(positions)
    if type(rows).__module__.startswith("numpy"):
        return rows.take(positions, axis=0)
    return rows[positions]
