"""The predictor: one function for tables (`eventml score`), streams (`run`) and requests (`serve`)."""

from __future__ import annotations

import pandas as pd  # noqa: TC002 - the bus reads the annotations at run time
from sklearn.pipeline import Pipeline  # noqa: TC002 - the bus reads the annotations at run time

from eventml import Artefact, Bus, Model
from eventml.models import in_blocks, load
from examples.churn.events import LIKELY, ChurnPredicted, Customer
from examples.churn.folder import model_file
from examples.churn.training import FEATURES, read_training

bus = Bus("churn")
bus.topic("customers", event_type=Customer, id_field="id")


def trained() -> Model:
    """Load the model in the folder, with the version that its training recorded."""
    return load(Artefact(model_file(), version=read_training().version), name="churn")


@bus.predictor("customers", to="churn", model=trained, event_type=Customer, output_type=ChurnPredicted)
def churn(customers: pd.DataFrame, model: Pipeline) -> pd.DataFrame:
    probability = in_blocks(model.predict_proba, customers[FEATURES])[:, 1]
    return customers[["customer_id", "month"]].assign(probability=probability, likely=probability >= LIKELY)
