"""The folder of all files that the example writes, so that one command removes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = "CHURN_FOLDER"


def folder() -> Path:
    """`$CHURN_FOLDER`, or `build/churn` where the command is given. It need not exist."""
    return Path(os.environ.get(ENVIRONMENT) or "build/churn").expanduser()


def model_file() -> Path:
    """The trained model."""
    return folder() / "churn.skops"


def profile_file() -> Path:
    """What the training sample looked like."""
    return folder() / "profile.json"


def training_file() -> Path:
    """How the training went."""
    return folder() / "training.json"


def database_url() -> str:
    """The database that the example makes for itself."""
    return f"sqlite:///{folder() / 'churn.db'}"


def report_file(month: str) -> Path:
    """The month's report."""
    return folder() / "reports" / f"{month}.html"
