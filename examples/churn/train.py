"""Trains the churn model on customers of past months: `python -m examples.churn.train --help`."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from eventml.errors import EventMLError, ModelError
from examples.churn.customers import NUMBERS, read
from examples.churn.events import LIKELY
from examples.churn.folder import folder, model_file, profile_file, training_file
from examples.churn.generator import customers
from examples.churn.training import FEATURES, NAMES, Training
from examples.monitoring import profiles

if TYPE_CHECKING:
    from collections.abc import Sequence

MONTHS: Final = ("2024-01", "2024-02", "2024-03", "2024-04", "2024-05")
"""The generated months that are learnt from."""

_FEWEST: Final = 100


def train(table: Any, trained_on: str) -> Training:
    """Train on a table of customers with `churned`, and save the model and the sample's profile.

    Raises:
        ModelError: There are too few customers, all have the same outcome, or the folder is not writable.
    """
    churned = table["churned"].astype(bool).to_numpy()
    if len(table) < _FEWEST or min(churned.sum(), (~churned).sum()) < _FEWEST // 10:
        raise ModelError(
            f"cannot learn from {len(table)} customers of whom {churned.sum()} left: at least {_FEWEST} are "
            f"needed, and {_FEWEST // 10} of either kind"
        )
    rows = table[FEATURES]
    unseen = cross_val_predict(_pipeline(), rows, churned, cv=5, method="predict_proba")[:, 1]
    model = _pipeline().fit(rows, churned)
    training = Training(
        trained_on=trained_on,
        customers=len(table),
        churned=float(churned.mean()),
        auc=float(roc_auc_score(churned, unseen)),
        brier=float(brier_score_loss(churned, unseen)),
        baseline_brier=float(churned.mean() * (1 - churned.mean())),
        likely=int((unseen >= LIKELY).sum()),
        version=_digest(model),
    )
    try:
        folder().mkdir(parents=True, exist_ok=True)
        skops.io.dump(model, model_file())
        profile_file().write_bytes(profiles.encoded(profiles.profile(_columns(table), unseen)))
        training_file().write_bytes(msgspec.json.format(msgspec.json.encode(training)) + b"\n")
    except OSError as exc:
        raise ModelError(
            f"cannot write to {folder()}: {exc.strerror}; name another in $CHURN_FOLDER"
        ) from exc
    return training


def generated() -> Any:
    """Generate the customers of the months to train on."""
    return pd.concat([pd.DataFrame(customers(month)) for month in MONTHS], ignore_index=True)


def _pipeline() -> Pipeline:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), NAMES), (numbers, list(NUMBERS))
    )
    return make_pipeline(columns, LogisticRegression(max_iter=1_000))


def _digest(model: Pipeline) -> str:
    """Return a digest of all numbers that a prediction depends on; the coefficients imply the categories."""
    [[_, names, _], [_, numbers, _]] = model[0].transformers_
    learnt = np.concatenate(
        [
            numbers[0].statistics_,
            numbers[1].mean_,
            numbers[1].scale_,
            model[1].coef_.ravel(),
            model[1].intercept_,
        ]
    )
    digest = hashlib.sha256(learnt.astype("<f8").tobytes())
    digest.update(repr([values.tolist() for values in names.categories_]).encode())
    return digest.hexdigest()[:12]


def _columns(table: Any) -> dict[str, Any]:
    return {name: table[name] for name in FEATURES}


def say(training: Training) -> None:
    """Print a summary of the training."""
    print(
        f"trained on {training.trained_on}: AUC {training.auc:.3f}, Brier score {training.brier:.4f} "
        f"(always saying {training.churned:.1%}: {training.baseline_brier:.4f}); version {training.version}"
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if the model was saved, 2 if not."""
    parser = argparse.ArgumentParser("python -m examples.churn.train", description=__doc__)
    parser.add_argument("--customers", type=Path, metavar="FILE", help="CSV with a column `churned`")
    options = parser.parse_args(args)
    try:
        if options.customers is None:
            table, words = generated(), f"generated customers of {MONTHS[0]} to {MONTHS[-1]}"
        else:
            table, words = read(options.customers, truth=True), options.customers.name
        say(train(table, words))
    except EventMLError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
