"""Models: load a model file safely, version it, and keep it to one thread.

Read `artefacts.py` first, then `loading.py`: `load` makes a `Model` of what a handler's `model=` names, and
`current_version` says whether it has changed. `formats.py` finds the format of a file, `registries.py`
what a reference such as `s3://...` names. Formats: `sklearn_models.py`, with `trusted.py` (the reviewed list
of types in skops files), `soundness.py` (structural checks of what was loaded) and `estimator_checks.py`
(where functions and names of methods may be); `onnx_models.py`, `boosting.py`, `torch_models.py`. Registries:
`mlflow_registry.py`, `remote_files.py`. `compiled.py` compiles what a format has loaded. `threads.py` limits
models to one thread, `object_graph.py` lists the objects inside a model, and `blocks.py` predicts in blocks
of one size. It may import `errors`, `entry_points` and `loopback`. A model's library is imported when a model
needs it.
"""

from eventml.models.artefacts import Artefact, Model, ModelSource
from eventml.models.blocks import in_blocks
from eventml.models.formats import ModelFile, ModelFormat, import_extra
from eventml.models.loading import (
    can_change,
    compiled_copy,
    current_version,
    load,
    path_of,
    replacement,
    state_of,
    with_compiler,
)
from eventml.models.registries import ModelRegistry, Resolved, cache_folder
from eventml.models.remote_files import open_store, resolve
from eventml.models.threads import single_threaded

__all__ = [
    "Artefact",
    "Model",
    "ModelFile",
    "ModelFormat",
    "ModelRegistry",
    "ModelSource",
    "Resolved",
    "cache_folder",
    "can_change",
    "compiled_copy",
    "current_version",
    "import_extra",
    "in_blocks",
    "load",
    "open_store",
    "path_of",
    "replacement",
    "resolve",
    "single_threaded",
    "state_of",
    "with_compiler",
]
