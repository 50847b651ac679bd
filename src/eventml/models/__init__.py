"""Models: load a model file safely, version it, and keep it to one thread.

Read `loading.py` first: `load` makes a `Model` of whatever a handler's `model=` names. `sklearn_models.py`
reads skops files and pickles, with `trusted.py` (the reviewed list of types that a skops file may contain),
`soundness.py` (structural checks of what was loaded) and `estimator_checks.py` (where functions and names of
methods may be); `onnx_models.py` reads ONNX files. `threads.py`
limits models to one thread, `object_graph.py` lists the objects inside a model, and `blocks.py` predicts in
blocks of one size. It may import errors only. scikit-learn, skops, numpy and onnxruntime are imported when a
model needs them.
"""

from eventml.models.blocks import in_blocks
from eventml.models.loading import (
    Artefact,
    Model,
    ModelSource,
    can_change,
    current_version,
    load,
    replacement,
)
from eventml.models.threads import single_threaded

__all__ = [
    "Artefact",
    "Model",
    "ModelSource",
    "can_change",
    "current_version",
    "in_blocks",
    "load",
    "replacement",
    "single_threaded",
]
