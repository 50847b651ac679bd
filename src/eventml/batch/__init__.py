"""Scoring tables on engines for more than one machine: Ray Data, Spark, Dask, DuckDB, polars, any other one.

`scorer` makes a function that an engine calls with parts of a table, in as many processes as it likes. The
engine reads, distributes, retries and writes. For a job on one machine there is `eventml score`.
"""

from __future__ import annotations

from typing import Any

from eventml.deploy.batch import ArrowScorer

__all__ = ["ArrowScorer", "scorer"]


def scorer(predictor: str, *, id_column: str | None = None, output: Any = None) -> ArrowScorer:
    """Return a predictor as a function of tables, which gives what `eventml score` would write.

    Ids, versions, checks, retries and rejected rows are those of `eventml score`, with two differences. A row
    with the id of an earlier row is scored as well: only the engine sees all rows. And ids are integers where
    the event declares them as `int`, else text. While a service that the predictor needs is down, a call does
    not return.

    Args:
        predictor: `MODULE:PREDICTOR`. The processes of the engine import it too.
        id_column: The column of the rows' ids; by default the `id_field` of the predictor's topic.
        output: The type of an output, such as `float`, where the predictor's annotation does not tell.

    Raises:
        AppNotFoundError: There is no such predictor.
        ConfigError: It does not return one output for each row, or the column of the ids is not known.
        OutputError: Its columns are not known, or one of them is named `rejected`.
        MissingExtraError: The extra `batch` is not installed.
    """
    return ArrowScorer(predictor, id_column, output)
