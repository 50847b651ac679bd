"""PyTorch: weights with a factory, TorchScript, `torch.export`; and pipelines of Hugging Face in a folder."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from eventml.errors import ModelError
from eventml.models.formats import ModelFile, import_extra

if TYPE_CHECKING:
    from collections.abc import Callable


def read_safetensors(file: ModelFile, /, *, factory: Callable[[], Any], device: str = "cpu") -> Any:
    """Load weights, `.safetensors`, into the module that `factory` makes. The file holds numbers only."""
    weights = import_extra("safetensors.torch", "torch", f"loading {file.path}").load(file.data)
    module = factory()
    module.load_state_dict(weights)
    return _for_prediction(module.to(device))


def read_torchscript(file: ModelFile, /, *, device: str = "cpu") -> Any:
    """Load a TorchScript module, `.pt`, which is a program."""
    file.need_pin("a program of TorchScript")
    torch = import_extra("torch", "torch", f"loading {file.path}")
    return _for_prediction(torch.jit.load(io.BytesIO(file.data), map_location=device))


def read_exported(file: ModelFile, /, *, device: str = "cpu") -> Any:
    """Load the module of a program of `torch.export`, `.pt2`, which may contain pickles."""
    file.need_pin("a program of torch.export")
    torch = import_extra("torch.export", "torch", f"loading {file.path}")
    return torch.load(io.BytesIO(file.data)).module().to(device).requires_grad_(requires_grad=False)


def _for_prediction(module: Any) -> Any:
    return module.eval().requires_grad_(requires_grad=False)


def read_pipeline(file: ModelFile, /, *, task: str, device: str = "cpu") -> Any:
    """Load a pipeline of Hugging Face transformers from a folder, without the hub and without code in it.

    Its weights must be safetensors, because others are pickles.
    """
    transformers = import_extra("transformers", "transformers", f"loading {file.path}")
    if not file.path.is_dir():
        raise ModelError(f"{file.path} is not a folder, as save_pretrained writes it")
    return transformers.pipeline(
        task,
        model=str(file.path),
        device=device,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True, "local_files_only": True},
    )
