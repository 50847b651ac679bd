"""Calling a model so that a row's answer does not depend on the rows that come with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK: Final = 256
"""Rows of a block: of a linear model as dear as one row, and a batch of 1,024 takes four calls."""


def in_blocks(predict: Callable[[Any], Any], rows: Any, *, size: int = BLOCK) -> Any:
    """Call `predict` with exactly `size` rows at a time, the last block filled up with its last row.

    Matrix products of BLAS add up a row's terms in an order that depends on how many rows there are, and on
    how they lie in memory: the same event predicted in a batch of 3 and of 300 may differ in the last bits.
    In calls of one shape they come out the same. That is for models that multiply a dense matrix: linear and
    logistic regression, PCA, neural networks, distances. Trees, forests and boosting, and products of sparse
    rows, are the same in any batch and gain nothing by this.

    Promised: a row's answer is the same to the last bit in any batch and place, on one kind of processor
    with the same versions of numpy, its BLAS and the model's library. Not promised: across those.

    Args:
        predict: Takes rows and returns an array with an answer for each. It must have no effect of its own:
            it sees some rows more than once.
        rows: A numpy array, a sparse matrix, a pandas or polars frame, an Arrow table, or a list.
        size: Rows of a block. A model that is slow by the row wants fewer. Answers are the same only
            where the size is.

    Returns:
        A numpy array, with an answer for each row.

    Raises:
        ValueError: `size` is less than 1, or `predict` returns another number of answers.
    """
    import numpy as np  # noqa: PLC0415 - the core works without it

    if size < 1:
        raise ValueError(f"size: at least 1, not {size}")
    count = rows.shape[0] if hasattr(rows, "shape") else len(rows)
    if count == 0:
        return np.asarray(predict(rows))
    places = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
    answers = [np.asarray(predict(_taken(rows, block))) for block in places]
    for answer in answers:
        if answer.shape[:1] != (size,):
            raise ValueError(f"{size} rows were given, and answers of shape {answer.shape} came back")
    return np.concatenate(answers)[:count]


def _taken(rows: Any, places: Any) -> Any:
    """The rows at these places, copied, and so laid out in one way wherever they came from."""
    if isinstance(rows, list | tuple):
        return [rows[place] for place in places]
    if hasattr(rows, "iloc") or type(rows).__module__.startswith("pyarrow"):
        return rows.take(places)
    if type(rows).__module__.startswith("numpy"):
        return rows.take(places, axis=0)
    return rows[places]
