"""Nothing is on the reviewed list that no popular model needs. Other tests show that nothing is missing."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import skops.io
from sklearn.base import clone

from eventml.models.sklearn_models import _name, _nodes
from eventml.models.trusted import LOADERS, REVIEWED_LOADERS
from tests.unit.models.test_skops_compositions import SPECIAL
from tests.unit.models.test_skops_estimators import fitted
from tests.unit.models.test_skops_frames import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

# Public estimators with types that the compositions do not have.
MORE = (
    "BisectingKMeans",
    "CalibratedClassifierCV",
    "FeatureAgglomeration",
    "GaussianProcessClassifier",
    "MLPClassifier",
    "OutputCodeClassifier",
    "SparseRandomProjection",
    "TunedThresholdClassifierCV",
    "TweedieRegressor",
)
FOR_OLDER_VERSIONS = {
    # The columns of a ColumnTransformer's remainder, in scikit-learn 1.5 and 1.6.
    ("sklearn.compose._column_transformer._RemainderColsList", "ObjectNode"),
}
# By these skops loads nothing that it trusts itself.
FOR_NAMES_OF_USERS = {"ConstructorFromReduceNode", "MethodNode", "OperatorFuncNode"}


def models() -> Iterator[Any]:
    for unfitted, inputs, target in [*SPECIAL.values(), *CASES.values()]:
        yield clone(unfitted).fit(inputs, target)
    for name in MORE:
        yield fitted(name)[0]


@pytest.mark.slow
def test_every_name_on_the_list_is_in_a_popular_model() -> None:
    used = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few iterations, and the like: not what is tested
        for model in models():
            with zipfile.ZipFile(io.BytesIO(skops.io.dumps(model))) as archive:
                schema = json.loads(archive.read("schema.json"))
            used |= {(_name(node), node["__loader__"]) for node in _nodes(schema)}

    listed = {(name, loader) for name, loaders in LOADERS.items() for loader in loaders}
    assert listed - used == FOR_OLDER_VERSIONS
    assert REVIEWED_LOADERS - {loader for _, loader in used} == FOR_NAMES_OF_USERS
