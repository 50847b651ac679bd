"""The folder of all files that the example writes, so that one command removes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = "CHURN_FOLDER"


def folder() -> Path:
    """Return `$CHURN_FOLDER`, or else `build/churn` in the current directory. It may not exist yet."""
    return Path(os.environ.get(ENVIRONMENT) or "build/churn").expanduser()


def model_file() -> Path:
    """Return the path of the trained model."""
    return folder() / "churn.skops"


def profile_file() -> Path:
    """Return the path of the training sample's profile."""
    return folder() / "profile.json"


def training_file() -> Path:
    """Return the path of the training's report."""
    return folder() / "training.json"


def database_url() -> str:
    """Return the URL of the database that the example creates."""
    return f"sqlite:///{folder() / 'churn.db'}"


def report_file(month: str) -> Path:
    """Return the path of a month's report."""
    return folder() / "reports" / f"{month}.html"
