"""One month, from customers to report and alarm: `python -m examples.churn.month --help`.

Running a month again, after a failure or to be sure, writes no prediction twice.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventml.errors import EventMLError
from examples.churn.customers import read
from examples.churn.folder import database_url, report_file
from examples.churn.generator import SIZE, customers
from examples.churn.report import examine
from examples.churn.store import Store
from examples.churn.train import read_training
from examples.monitoring.alarms import call_alarm, find_alarm
from examples.monitoring.report import write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.monitoring.alarms import Alarm


class ScoringError(EventMLError):
    """`eventml score` did not finish; it has said why on stderr."""


def run(options: argparse.Namespace, alarm: Alarm) -> Path:
    """Generate or read the customers, score them, write the report, and call the alarm if need be.

    Returns:
        The report.

    Raises:
        EventMLError: A step failed. The next run of the month begins anew, and repeats what is not done.
    """
    read_training()  # without a model there is no point in beginning
    before = month_before(options.month)
    store = Store(options.database)
    try:
        store.put_customers(options.month, _customers(options))
        if options.outcomes:
            store.put_outcomes(before, read(options.outcomes, truth=True))
        elif not options.customers:
            store.put_outcomes(before, customers(before, size=options.size, seed=options.seed))
        score(options.database, options.month)
        report = examine(store, options.month, before)
    finally:
        store.close()
    file = write(report, report_file(options.month))
    print(f"{report.title}: {'; '.join(f'{name} {fact}' for name, fact in report.facts.items())}")
    print(f"report: {file}")
    call_alarm(alarm, report.crossings)
    return file


def score(database: str, month: str) -> None:
    """Predict for a month's customers, from table to table. Rows that cannot be read are set aside.

    Raises:
        ScoringError: It failed.
    """
    query = f"SELECT * FROM customers WHERE month = '{month}'"  # noqa: S608 - `_month` lets digits through
    command = [sys.executable, "-m", "eventml", "score", "examples.churn.app:churn"]
    command += ["--from", database, "--query", query, "--to", f"{database}#predictions", "--allow-rejects"]
    sys.stdout.flush()  # what has been said so far stands above what the command says
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - ours
        raise ScoringError(f"scoring the customers of {month} failed: see above")


def month_before(month: str) -> str:
    """The month before, both as `2024-06`."""
    return (date.fromisoformat(f"{month}-01") - timedelta(days=1)).isoformat()[:7]


def _customers(options: argparse.Namespace) -> Any:
    if options.customers:
        return read(options.customers)
    return customers(options.month, size=options.size, seed=options.seed, price_rise=options.price_rise)


def _month(text: str) -> str:
    try:
        return date.fromisoformat(f"{text}-01").isoformat()[:7]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no month such as 2024-06") from exc


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m examples.churn.month", description=__doc__)
    parser.add_argument("month", type=_month, help="such as 2024-06")
    parser.add_argument(
        "--customers", type=Path, metavar="FILE", help="CSV of the month's customers; generated if not said"
    )
    parser.add_argument(
        "--outcomes", type=Path, metavar="FILE", help="CSV of the month before's, with `churned`"
    )
    parser.add_argument(
        "--database", default=database_url(), metavar="URL", help="SQLAlchemy's (%(default)s)"
    )
    parser.add_argument(
        "--alarm",
        default="examples.monitoring.alarms:print_alarm",
        metavar="MODULE:FUNCTION",
        help="whom to tell",
    )
    parser.add_argument("--size", type=int, default=SIZE, help="generated customers (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated customers")
    parser.add_argument("--price-rise", action="store_true", help="generate a month in which charges went up")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """The command: 0 when the month is done, alarm or not; 2 when it is not."""
    options = _options(args)
    try:
        run(options, find_alarm(options.alarm))
    except EventMLError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
