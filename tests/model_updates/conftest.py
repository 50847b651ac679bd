"""A predictor whose model file is replaced: each version adds a number of its own."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

if TYPE_CHECKING:
    from pathlib import Path


class ModelFile:
    """A model file, and the number that each version of it adds, by version.

    Attributes:
        adds: The number that a version adds, by version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adds: dict[str, float] = {}

    def replace(self, adds: float) -> str:
        """Replace the file at once by a model that predicts its input plus a number. Returns its version."""
        model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
        model.coef_, model.intercept_ = model.coef_ * 0 + 1.0, np.float64(adds)
        new = self.path.with_suffix(".new")
        skops.io.dump(model, new)
        return self.replace_by(new.read_bytes(), adds)

    def replace_by(self, data: bytes, adds: float) -> str:
        """Replace the file at once by these bytes."""
        version = hashlib.sha256(data).hexdigest()[:12]
        self.adds[version] = adds
        new = self.path.with_suffix(".new")
        new.write_bytes(data)
        os.replace(new, self.path)  # noqa: PTH105 - atomic on all systems
        return version


@pytest.fixture
def model_file(tmp_path: Path) -> ModelFile:
    file = ModelFile(tmp_path / "adding.skops")
    file.replace(1.0)
    return file
