"""The predictor: one function, for a table (`eventml score`), a stream (`run`) or requests (`serve`)."""

from __future__ import annotations

import msgspec
import pandas as pd
from sklearn.pipeline import Pipeline  # noqa: TC002 - the bus reads the annotations at run time

from eventml import Artefact, Bus, Model
from eventml.models import load
from examples.churn.events import LIKELY, ChurnPredicted, Customer
from examples.churn.folder import model_file
from examples.churn.train import FEATURES, read_training

bus = Bus("churn")
bus.topic("customers", event_type=Customer, id_field="id")


def trained() -> Model:
    """The model in the folder, with the version that its training gave it."""
    return load(Artefact(model_file(), version=read_training().version), name="churn")


@bus.predictor("customers", to="churn", model=trained)
def churn(customers: list[Customer], model: Pipeline) -> list[ChurnPredicted]:
    table = pd.DataFrame(map(msgspec.structs.asdict, customers))
    probabilities = model.predict_proba(table[FEATURES])[:, 1].tolist()
    return [
        ChurnPredicted(customer.customer_id, customer.month, probability, probability >= LIKELY)
        for customer, probability in zip(customers, probabilities, strict=True)
    ]
