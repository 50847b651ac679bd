"""Comparing two models of a predictor: with a challenger, or by predicting past events again.

In reading order: `answers.py` reads the events and the predictions of a topic, or predicts events again;
`differences.py` compares two sets of predictions; `report.py` shows the result as HTML, and writes the pairs
to a Parquet file. It may import bus, runtime and what these import.
"""

from eventml.deploy.comparison.answers import (
    Answers,
    Events,
    check_single_output,
    latencies,
    predict_again,
    read_answers,
    read_events,
)
from eventml.deploy.comparison.differences import Comparison, compare
from eventml.deploy.comparison.report import html_report, write_pairs

__all__ = [
    "Answers",
    "Comparison",
    "Events",
    "check_single_output",
    "compare",
    "html_report",
    "latencies",
    "predict_again",
    "read_answers",
    "read_events",
    "write_pairs",
]
