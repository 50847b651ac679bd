"""Models: load a model file safely, version it, and keep it to one thread.

Read `artefact.py` first, then `loading.py`: `load` makes a `Model` of whatever a handler's `model=` names.
`sklearn_files.py` reads skops files and pickles, with `trusted.py` (the reviewed list of types that a skops
file may contain) and `soundness.py` (structural checks of what was loaded); `onnx_files.py` reads ONNX files.
`threads.py` limits models to one thread, `graph.py` walks the objects of a model, and `blocks.py` predicts in
blocks of one size. It may import errors only. scikit-learn, skops, numpy and onnxruntime are imported when
a model needs them.
"""

from eventml.models.artefact import Artefact, Model, ModelSource, keeps_threads
from eventml.models.blocks import in_blocks
from eventml.models.loading import load
from eventml.models.sklearn_files import ModelVersionWarning
from eventml.models.threads import single_threaded

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
