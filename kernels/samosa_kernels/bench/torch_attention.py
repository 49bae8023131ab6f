"""PyTorch's scaled_dot_product_attention beside ours, where PyTorch is installed."""

import contextlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from samosa_kernels.bench.measure import CannotRunError, Prepared

if TYPE_CHECKING:
    from samosa_kernels.bench.attention import AttentionCase

# By the name of the backend in torch.nn.attention.SDPBackend; None: PyTorch chooses.
BACKENDS: dict[str, str | None] = {
    "torch": None,
    "torch_flash": "FLASH_ATTENTION",
    "torch_efficient": "EFFICIENT_ATTENTION",
    "torch_cudnn": "CUDNN_ATTENTION",
}


def is_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def prepare(impl: str, case: "AttentionCase", inputs: Callable[[], tuple[Any, ...]]) -> Prepared:
    """The same numbers as ours get, on the GPU if PyTorch sees one. CannotRunError where it has no kernel."""
    torch = importlib.import_module("torch")
    backends = importlib.import_module("torch.nn.attention")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = BACKENDS[impl]
    if device == "cpu" and backend in ("EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
        raise CannotRunError("PyTorch has it for GPUs only")
    *arrays, ranges = inputs()
    q, k, v, dout = (
        torch.from_numpy(np.array(array, np.float32)).to(device, getattr(torch, case.dtype)).transpose(1, 2)
        for array in arrays
    )
    seen = None
    if case.mask.kind != "causal":
        if backend == "FLASH_ATTENTION" and device == "cuda":
            raise CannotRunError("it takes no mask but the causal one")
        key = np.arange(case.length)
        lo, hi = (np.asarray(bound)[:, None, :, None] for bound in ranges)
        seen = torch.from_numpy((key >= lo) & (key < hi)).to(device)

    def attend():
        chosen = getattr(backends.SDPBackend, backend) if backend else None
        with backends.sdpa_kernel(chosen) if chosen is not None else contextlib.nullcontext():
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, is_causal=seen is None, enable_gqa=True
            )

    backward = case.direction != "forward"
    for tensor in (q, k, v):
        tensor.requires_grad_(backward)

    def run(calls: int) -> None:
        for _ in range(calls):
            out = attend()
            if backward:
                torch.autograd.grad(out, (q, k, v), dout)
        if device == "cuda":
            torch.cuda.synchronize()

    temp_bytes = None
    try:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(1)
            temp_bytes = torch.cuda.max_memory_allocated() - before
        else:
            run(1)
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        raise CannotRunError("PyTorch has no such kernel for this problem on this device") from error
    return Prepared(run=run, temp_bytes=temp_bytes)
