"""Model artefacts: load a model safely, say which version it is, keep it to one thread.

`load` turns what a predictor was given (a path, an `Artefact`, a `Model` or a function that makes
one) into a `Model`. Nothing here imports scikit-learn, skops or numpy before a model needs them.
"""

from eventml.models.artefact import Artefact, Model, ModelSource, keeps_threads
from eventml.models.blocks import in_blocks
from eventml.models.loading import load
from eventml.models.threads import single_threaded
from eventml.models.versions import ModelVersionWarning

__all__ = [
    "Artefact",
    "Model",
    "ModelSource",
    "ModelVersionWarning",
    "in_blocks",
    "keeps_threads",
    "load",
    "single_threaded",
]
