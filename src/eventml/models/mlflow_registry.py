"""Models in MLflow's registry, `mlflow:models:/NAME@ALIAS` or `/VERSION`, and folders that MLflow has saved.

MLflow's own settings say where the registry is (`MLFLOW_TRACKING_URI`). Of a folder only the model's file is
loaded, with the checks of its format: MLflow itself would unpickle most of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from eventml.errors import ModelError
from eventml.models.formats import ModelFile, import_extra, read_model
from eventml.models.registries import Resolved

_REFERENCE: Final = re.compile(r"mlflow:models:/([^/@]+)(?:/(\d+)|@([^/@]+))")
_FILES: Final = {"xgboost": "ubj", "lightgbm": "txt", "catboost": "cbm", "onnx": "onnx", "sklearn": "pickle"}
"""Formats of models' files by MLflow's flavor."""


def _parts(reference: str) -> tuple[str, str | None, str]:
    if found := _REFERENCE.fullmatch(reference):
        return found[1], found[2], found[3]
    raise ModelError(f"{reference}: write mlflow:models:/NAME@ALIAS or mlflow:models:/NAME/VERSION")


def resolve(reference: str) -> Resolved:
    """Find the version that an alias names. For a version no server is asked."""
    name, version, alias = _parts(reference)
    if version is None:
        mlflow = import_extra("mlflow", "mlflow", f"loading {reference}")
        try:
            version = str(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version)
        except mlflow.exceptions.MlflowException as exc:
            if exc.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
                raise FileNotFoundError(str(exc)) from exc
            raise
    return Resolved(version, name)


def fetch(reference: str, revision: str, folder: Path) -> None:
    """Download the folder of a version."""
    artifacts = import_extra("mlflow.artifacts", "mlflow", f"loading {reference}")
    folder.mkdir()
    uri = f"models:/{_parts(reference)[0]}/{revision}"
    artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
    # It names the version, with which a model that is registered again would get another digest.
    (folder / "registered_model_meta").unlink(missing_ok=True)


def read_mlflow(file: ModelFile, /, **_: Any) -> Any:
    """Load the model's file in a folder that MLflow has saved. The options are those of the file's format."""
    models = import_extra("mlflow.models", "mlflow", f"loading {file.path}")
    flavors = models.Model.load(str(file.path)).flavors
    if not (flavor := next((flavor for flavor in _FILES if flavor in flavors), "")):
        raise ModelError(f"{file.path} has the flavors {', '.join(flavors)}; known are {', '.join(_FILES)}")
    fields = flavors[flavor]
    inner = file.path / fields["pickled_model" if flavor == "sklearn" else "data"]
    if not inner.resolve().is_relative_to(file.path.resolve()):
        raise ModelError(f"{file.path} names a file outside of it, which its digest does not cover: {inner}")
    name = "skops" if fields.get("serialization_format") == "skops" else _FILES[flavor]
    return read_model(structs.replace(file, path=inner, data=inner.read_bytes()), name)
