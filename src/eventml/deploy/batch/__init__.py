"""The batch job: scores the rows of a table or a file, and writes the predictions to another one.

Read `job.py` first (the three stages of a run), then in the order of the stages:
- reading: `locations.py` (what `--from` and `--to` name), `chunks.py` (what passes between the stages),
  `file_source.py` with `csv_reader.py`, `sql_source.py` with `sql.py`;
- scoring: `rows.py` (rows to events), `scoring.py` (calling the predictor), `schema.py` (columns of outputs);
- writing: `file_target.py` with `resume.py` (its checkpoints), `sql_target.py`.
`schedule.py` repeats a job. `csv_reader.py` also reads for `eventml publish`.

It may import bus, runtime and what lies below them, and `deploy.workers`. Modules that need SQLAlchemy or
pyarrow, which come with the extra `batch`, are imported by `job.py` when a source or target needs them.
"""

from eventml.deploy.batch.csv_reader import BadRow, ByteStream, CsvReader, TextLines, value_of_cell
from eventml.deploy.batch.job import (
    DEFAULT_CHECKPOINT,
    DEFAULT_CHUNK,
    ScorePlan,
    ScoreProgress,
    ScoreSummary,
    score,
)
from eventml.deploy.batch.locations import parse_location
from eventml.deploy.batch.schedule import Cron, Every, Schedule, repeat

__all__ = [
    "DEFAULT_CHECKPOINT",
    "DEFAULT_CHUNK",
    "BadRow",
    "ByteStream",
    "Cron",
    "CsvReader",
    "Every",
    "Schedule",
    "ScorePlan",
    "ScoreProgress",
    "ScoreSummary",
    "TextLines",
    "parse_location",
    "repeat",
    "score",
    "value_of_cell",
]
