"""Reads customers from a CSV file with the columns of a `Customer`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import pandas as pd

from eventml.errors import EventMLError

log = logging.getLogger(__name__)

NUMBERS: Final = ("tenure_months", "monthly_charge", "support_calls", "usage_hours")
COLUMNS: Final = ("customer_id", "plan", "payment", *NUMBERS)
_YES_AND_NO: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class CustomersError(EventMLError):
    """Customers cannot be read. The message names the file and the column."""


def read(path: Path, *, truth: bool = False) -> Any:
    """Read the customers of a CSV file, with pandas.

    A cell that is no number where one belongs counts as empty, which is said in one warning a column:
    scoring then sets that one row aside.

    Args:
        path: The file.
        truth: Whether each must say if it `churned`: true, false, yes, no, 1 or 0. Otherwise the column
            is left out.

    Raises:
        CustomersError: It is missing, empty or no CSV; a column or a truth is missing; an id stands twice.
    """
    try:
        table = pd.read_csv(path, dtype={"customer_id": str, "churned": str})
    except FileNotFoundError as exc:
        raise CustomersError(f"{path}: there is no such file") from exc
    except (OSError, ValueError) as exc:
        raise CustomersError(f"{path} cannot be read as CSV: {exc}") from exc
    wanted = [*COLUMNS, *(["churned"] if truth else [])]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise CustomersError(f"{path} has no column {missing[0]}; it needs {', '.join(wanted)}")
    table = table[wanted]
    twice = table["customer_id"][table["customer_id"].duplicated()]
    if len(twice) or table["customer_id"].isna().any():
        what = f"{twice.iloc[0]} stands there twice" if len(twice) else "one is empty"
        raise CustomersError(f"{path}: a customer_id names one customer, and {what}")
    table = table.assign(**{name: _numbers(path, table[name]) for name in NUMBERS})
    return table.assign(churned=_truth(path, table["churned"])) if truth else table


def _numbers(path: Path, column: Any) -> Any:
    numbers = pd.to_numeric(column, errors="coerce")
    lost = column[numbers.isna() & column.notna()]
    if len(lost):
        message = "%s: %d cells of column %s are no numbers and count as empty, the first is %r"
        log.warning(message, path.name, len(lost), column.name, lost.iloc[0])
    return numbers


def _truth(path: Path, column: Any) -> Any:
    truth = column.str.strip().str.lower().map(_YES_AND_NO)
    if truth.isna().any():
        odd = column[truth.isna()].iloc[0]
        raise CustomersError(f"{path}: churned is true or false in every row, and not {odd!r}")
    return truth.astype(bool)
