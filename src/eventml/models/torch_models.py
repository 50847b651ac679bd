"""PyTorch: weights with a factory, TorchScript and `torch.export`; and pipelines of Hugging Face."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from eventml.errors import UntrustedModelError
from eventml.models.formats import ModelFile, import_extra


def read_safetensors(file: ModelFile, /, *, factory: Callable[[], Any], device: str = "cpu") -> Any:
    """Load weights, which are numbers only, into the module that `factory` makes."""
    weights = import_extra("safetensors.torch", "torch", f"loading {file.path}").load(file.data)
    module = factory()
    module.load_state_dict(weights)
    return _frozen(module.to(_device(device)).eval())


def read_torchscript(file: ModelFile, /, *, device: str = "cpu") -> Any:
    """Load a module of TorchScript, a program that may call any of PyTorch's operations."""
    torch = _torch_for_programs(file)
    return _frozen(torch.jit.load(io.BytesIO(file.data), _device(device)).eval())


def read_exported(file: ModelFile, /, *, device: str = "cpu") -> Any:
    """Load the module in a program of `torch.export`, which may contain pickles."""
    torch = _torch_for_programs(file)
    return _frozen(torch.export.load(io.BytesIO(file.data)).module().to(_device(device)))


def _device(name: str) -> str:
    """The device of a name; of "auto" CUDA if this machine has it, else the CPU."""
    if name != "auto":
        return name
    return "cuda" if import_extra("torch", "torch", "device='auto'").cuda.is_available() else "cpu"


def _frozen(module: Any) -> Any:
    for weights in module.parameters():
        weights.requires_grad_(requires_grad=False)  # calls then record nothing for training
    return module


def _torch_for_programs(file: ModelFile) -> Any:
    if file.artefact.sha256 is None:
        raise UntrustedModelError(
            f"{file.path} is a program of PyTorch, and loading it runs code in it. If you know who made it "
            f"and noted its sha256, give it: Artefact({str(file.path)!r}, sha256='<its 64 hex digits>')"
        )
    return import_extra("torch", "torch", f"loading {file.path}")


def read_pipeline(file: ModelFile, /, *, task: str, device: str = "cpu") -> Any:
    """Load a pipeline from a folder, without the hub. Code in it, and weights in pickles, are refused."""
    transformers = import_extra("transformers", "transformers", f"loading {file.path}")
    safe = {"trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
    return transformers.pipeline(task, model=str(file.path), device=_device(device), **safe)
