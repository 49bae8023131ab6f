"""What XLA is told before it first looks for GPUs, in one table by version of jaxlib.

XLA reads `XLA_FLAGS` once, when the first device is asked for, and aborts the process at a flag that it does
not know; flags come and go with its versions. So a flag stands here only with the versions it was tried with
(tests/test_gpu_settings.py), and a jaxlib that is not in the table runs with XLA's defaults.
"""

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

# By major and minor version of jaxlib; each is true or false.
XLA_FLAGS: Mapping[str, tuple[str, ...]] = {
    # Collectives run while kernels do, where the order of the program allows it; XLA's own default waits.
    "0.10": ("--xla_gpu_enable_latency_hiding_scheduler=true",),
    "0.11": ("--xla_gpu_enable_latency_hiding_scheduler=true",),
    "0.12": ("--xla_gpu_enable_latency_hiding_scheduler=true",),
}
# Of a device's memory. XLA's default of 0.75 leaves 60 of 80 GB; NCCL and CUDA take 1 to 2 GB beside it.
MEMORY_FRACTION = {"XLA_CLIENT_MEM_FRACTION": "0.92"}
_OLDER_NAME = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def compiler_options(*, jaxlib: str) -> dict[str, bool]:
    """The same flags for one program, as `jax.stages.Lowered.compile` takes them."""
    flags = (flag.removeprefix("--").partition("=") for flag in _flags_of(jaxlib))
    return {name: value == "true" for name, _, value in flags}


def step_options(matmul_dtype: str, *, platform: str) -> dict[str, bool]:
    """What a train step is compiled with beside these, as `jax.jit` takes it.

    Products of float8 go to cuBLAS without a choice: XLA's own kernels, in Triton, may convert such operands
    to float16 (docs/experiments.md).
    """
    return {"xla_gpu_enable_triton_gemm": False} if (matmul_dtype, platform) == ("float8", "gpu") else {}


def _flags_of(jaxlib: str) -> tuple[str, ...]:
    return XLA_FLAGS.get(".".join(jaxlib.split(".")[:2]), ())


def settings(environment: Mapping[str, str], *, jaxlib: str) -> dict[str, str]:
    """The variables to add to `environment` for a jaxlib of that version; what is set there already stays."""
    given = environment.get("XLA_FLAGS", "")
    named = {flag.partition("=")[0] for flag in given.split()}
    flags = [flag for flag in _flags_of(jaxlib) if flag.partition("=")[0] not in named]
    added = {"XLA_FLAGS": " ".join([*given.split(), *flags])} if flags else {}
    if not environment.keys() & {*MEMORY_FRACTION, _OLDER_NAME}:
        added |= MEMORY_FRACTION
    return added


def use_gpu_settings(*, driver: Path = Path("/dev/nvidiactl")) -> None:
    """Sets them for this process, where there is an NVIDIA GPU that JAX may use; call it before JAX does."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if driver.exists() and (not platforms or {"cuda", "gpu"} & set(platforms.split(","))):
        os.environ.update(settings(os.environ, jaxlib=importlib.metadata.version("jaxlib")))
