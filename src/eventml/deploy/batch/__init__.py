"""The batch job: scores the rows of a table or a file, and writes the predictions to another one.

Read `job.py` first (the three stages of a run), then in the order of the stages:
- reading: `locations.py` (what `--from` and `--to` name), `chunks.py` (what passes between the stages),
  `datasets.py` (Parquet), `file_source.py` with `csv_reader.py`, `sql_source.py`; `stores.py` opens files;
- scoring: `row_decoding.py` (rows to events), `row_filters.py`, `scoring.py` (calling the predictor),
  `output_columns.py`;
- writing: `file_target.py` (with the checkpoints of a file) in its `work_folder.py`, after `replaceable.py`;
  `sql_target.py` with `sql_tables.py` (its tables, and opening a database) and `sql_rows.py`. `csv_reader.py`
  also reads for `eventml publish`, and `row_decoding.py` decodes for it;
- on other engines: `arrow_scorer.py`, the scoring alone; `prediction_tables.py` has the tables of both.

It may import bus, runtime and what lies below them. Modules that need SQLAlchemy or
pyarrow, which come with the extra `batch`, are imported by `job.py` when a source or target needs them.
"""

from eventml.deploy.batch.arrow_scorer import ArrowScorer
from eventml.deploy.batch.csv_reader import BadRow, CsvReader, TextLines
from eventml.deploy.batch.job import (
    DEFAULT_CHECKPOINT,
    DEFAULT_CHUNK,
    ScorePlan,
    ScoreSummary,
    open_source,
    score,
)
from eventml.deploy.batch.locations import FileLocation, parse_location
from eventml.deploy.batch.row_decoding import RowDecoder
from eventml.deploy.batch.scoring import Scorer

__all__ = [
    "DEFAULT_CHECKPOINT",
    "DEFAULT_CHUNK",
    "ArrowScorer",
    "BadRow",
    "CsvReader",
    "FileLocation",
    "RowDecoder",
    "ScorePlan",
    "ScoreSummary",
    "Scorer",
    "TextLines",
    "open_source",
    "parse_location",
    "score",
]
