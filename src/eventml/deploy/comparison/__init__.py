"""Comparing two models of a predictor: with a challenger, or by predicting past events again.

In reading order: `answers.py` (events and predictions read from topics, as columns of Arrow), `replaying.py`
(past events predicted again), `differences.py` (two sets of predictions compared), `report.py` (the result as
tables, and the pairs as a Parquet file). It needs pyarrow. It may import deploy/batch, bus, runtime and what
these import.
"""

from eventml.deploy.comparison.answers import Answers, read_answers, read_events
from eventml.deploy.comparison.differences import Comparison, compare
from eventml.deploy.comparison.replaying import replay, replay_file
from eventml.deploy.comparison.report import Report, report_of, write_pairs

__all__ = [
    "Answers",
    "Comparison",
    "Report",
    "compare",
    "read_answers",
    "read_events",
    "replay",
    "replay_file",
    "report_of",
    "write_pairs",
]
