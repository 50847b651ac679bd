"""Models in MLflow's registry, `mlflow:models:/NAME@ALIAS` or `/VERSION`, and folders that MLflow has saved.

MLflow's own settings say where the registry is (`MLFLOW_TRACKING_URI`). Of a folder only the model's file is
loaded, with the format's own checks: MLflow itself would unpickle most of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventml.errors import ModelError
from eventml.models.formats import ModelFile, import_extra, read_model
from eventml.models.registries import Resolved

if TYPE_CHECKING:
    from pathlib import Path

_FLAVORS: Final = {
    "xgboost": ("data", "ubj"),
    "lightgbm": ("data", "txt"),
    "catboost": ("data", "cbm"),
    "onnx": ("data", "onnx"),
    "sklearn": ("pickled_model", "pickle"),
}
"""By flavor: the field that names the model's file, and the format of the file."""


def _name_and_version(reference: str) -> tuple[str, str, str]:
    """Split a reference into name, alias and version, of which one is empty."""
    uri = reference.removeprefix("mlflow:models:/")
    if uri != reference:
        name, _, alias = uri.partition("@")
        if alias:
            return name, alias, ""
        name, _, version = uri.rpartition("/")
        if name and version.isdecimal():
            return name, "", version
    raise ModelError(f"{reference}: write mlflow:models:/NAME@ALIAS or mlflow:models:/NAME/VERSION")


def resolve(reference: str) -> Resolved:
    """Find the version that an alias names. A version is its own, and no server is asked."""
    name, alias, version = _name_and_version(reference)
    if version:
        return Resolved(version, name)
    mlflow = import_extra("mlflow", "mlflow", f"loading {reference}")
    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except mlflow.exceptions.MlflowException as exc:
        if exc.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
            raise FileNotFoundError(str(exc)) from exc
        raise
    return Resolved(str(found.version), name)


def fetch(reference: str, revision: str, folder: Path) -> None:
    """Download the folder of a version."""
    name, *_ = _name_and_version(reference)
    artifacts = import_extra("mlflow.artifacts", "mlflow", f"loading {reference}")
    folder.mkdir()
    artifacts.download_artifacts(artifact_uri=f"models:/{name}/{revision}", dst_path=str(folder))
    # It names the version, so that the same model registered twice would have two digests.
    (folder / "registered_model_meta").unlink(missing_ok=True)


def read_mlflow(file: ModelFile, /, **options: Any) -> Any:
    """Load the model's file in a folder that MLflow has saved; `options` are those of the file's format."""
    models = import_extra("mlflow.models", "mlflow", f"loading {file.path}")
    flavors = models.Model.load(str(file.path)).flavors
    flavor = next((flavor for flavor in _FLAVORS if flavor in flavors), None)
    if flavor is None:
        raise ModelError(f"{file.path} has the flavors {', '.join(flavors)}; known are {', '.join(_FLAVORS)}")
    field, name = _FLAVORS[flavor]
    inner = file.path / flavors[flavor][field]
    if not inner.resolve().is_relative_to(file.path.resolve()):
        raise ModelError(f"{file.path} names a file outside of it, which its digest does not cover: {inner}")
    if flavors[flavor].get("serialization_format") == "skops":
        name = "skops"
    return read_model(
        ModelFile(
            path=inner, data=inner.read_bytes(), artefact=file.artefact, may_unpickle=file.may_unpickle
        ),
        name,
    )
