"""What this machine is, and which kernels say that they can run on it.

python -m scripts.gpu_check.environment --out results.jsonl
"""

import argparse
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
from samosa_kernels.attention import (
    IMPLEMENTATIONS,
    Problem,
    refusal,
    resolve_implementation,
    training_problem,
)
from samosa_kernels.device import current_device, peak_bandwidth, peak_flops

from samosa_jax.training.environment import device_memory_bytes, git_commit
from scripts.gpu_check.numerics import LARGE, SMALL, problem_of
from scripts.gpu_check.records import Records
from scripts.gpu_check.train_step import CASES, DTYPE

PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "numpy", "flax", "optax")


def versions() -> dict[str, str]:
    """Of Python and of the packages that are here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the plugin of the other CUDA, or of none
    return found


def driver() -> str | None:
    """NVIDIA's driver; None without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0]


def refusals(problems: list[Problem]) -> dict[str, str | None]:
    """By implementation: why it can do none of the problems, or None if it can do one."""
    found: dict[str, str | None] = {}
    for name in IMPLEMENTATIONS:
        reasons = [refusal(name, problem) for problem in problems]
        found[name] = None if None in reasons else reasons[0]
    return found


def training_choices(model: str) -> dict[str, Any]:
    """What "auto" stands for in a training step, and which implementations can do it."""
    config = CASES[model].model
    problem = training_problem(
        current_device(),
        dtype=DTYPE,
        head_dim=config.head_dim,
        group=config.num_heads // config.num_kv_heads,
        window=None,
    )
    return {
        "auto": resolve_implementation("auto", problem),
        "able": [name for name in IMPLEMENTATIONS if refusal(name, problem) is None],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a file to add one JSON line to")
    arguments = parser.parse_args()
    device = current_device()
    Records(arguments.out).add(
        device=device._asdict(),
        devices=jax.device_count(),
        driver=driver(),
        memory_limit_bytes=device_memory_bytes(),
        peak_flops=peak_flops(device, DTYPE),
        peak_bandwidth=peak_bandwidth(device),
        versions=versions(),
        git_commit=git_commit(Path(__file__).parent),
        attention=refusals([problem_of(shape) for shape in SMALL + LARGE]),
        training={model: training_choices(model) for model in CASES},
    )


if __name__ == "__main__":
    main()
