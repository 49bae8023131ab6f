"""Reads and writes PyTorch's `.pt` files, whose pickles could otherwise run any code.

Only tensors and plain containers are read (`torch.load(weights_only=True)`); a file that asks for anything
else is refused by the name of what it asks for.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samosa_jax.errors import UserError

if TYPE_CHECKING:
    import torch

_PREFIXES = ("_orig_mod.", "module.")  # of torch.compile and of DistributedDataParallel
_CALLS = re.compile(r"(?:GLOBAL|Unsupported global:|Unsupported class) ([\w.]+)")


class TorchTensors(Mapping[str, np.ndarray]):
    """A state dict as numpy arrays; numbers that are no integers become float32."""

    def __init__(self, tensors: Mapping[str, "torch.Tensor"]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name].detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises KeyError if there is no tensor of that name."""
        return tuple(self._tensors[name].shape)


def read_pt(path: Path) -> Any:
    """What a .pt file holds; its tensors are read from disk when they are used.

    Raises:
        UserError: torch is missing, or the file is damaged or asks for code to be run.
    """
    torch = import_torch("reading .pt files")
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a .pt file")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # a file of the format before PyTorch 1.6 cannot be mapped
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        called = _CALLS.search(str(error))
        if called is None:
            raise UserError(f"{path} is no PyTorch checkpoint, or damaged; fetch it again") from error
        raise UserError(
            f"{path} asks for {called.group(1)} to be called when it is read; only tensors and plain "
            "containers are read, so that no checkpoint can run code"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        line = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} is no PyTorch checkpoint, or damaged ({line[:120]}); fetch it again"
        ) from error


def read_state_dict(path: Path) -> tuple[TorchTensors, Mapping[str, Any]]:
    """The tensors of a model, and what else the file holds.

    A file is the state dict itself, or a dict with one under `model`, `model_state_dict` or `state_dict`.
    What torch.compile and DistributedDataParallel put before names is taken off.

    Raises:
        UserError: see `read_pt`; or there is no state dict.
    """
    content = read_pt(path)
    torch = import_torch("reading .pt files")
    others: dict[str, Any] = {}
    if isinstance(content, Mapping):
        for key in ("model", "model_state_dict", "state_dict"):
            if isinstance(content.get(key), Mapping):
                others = {name: value for name, value in content.items() if name != key}
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds {type(content).__name__}; expected the state dict of a model")
    tensors: dict[str, Any] = {}
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path}: {name} is {type(tensor).__name__}; expected a tensor")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise UserError(
                f"{path}: {name} is sparse, quantized, complex or without numbers; save it as a plain tensor"
            )
        tensors[_plain(str(name))] = tensor
    if len(tensors) != len(content):
        raise UserError(f"{path} holds tensors that differ in their prefix alone; save one of them")
    return TorchTensors(tensors), others


def import_torch(purpose: str) -> Any:
    """The module. Raises UserError if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{purpose} needs torch: pip install 'samosa-jax[torch]'") from error
    return torch


def _plain(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name
