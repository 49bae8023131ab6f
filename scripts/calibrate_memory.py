"""Compiles train steps for GPUs that are not here, for the closed model of memory to be held against.

    python -m scripts.calibrate_memory            # prints what the model makes of the golden numbers
    python -m scripts.calibrate_memory --write    # compiles every case again: 15 minutes on two cores

`--write` puts what the compiler says into tests/golden/step_memory.json, which tests/test_plan.py reads;
it needs the `aot` extra.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from samosa_jax.command_line import parse_config
from samosa_jax.compiled_step import compile_step
from samosa_jax.config import Config
from samosa_jax.planning.memory import MemoryModel, StepMemory

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "step_memory.json"
GIB = 2**30

# What a step is made of: the preset, the devices, and what is set beside it. The policies of remat, rows and
# microbatches that a plan chooses among, on shapes that differ.
CASES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("nanolm_10m", 1, ()),
    ("nanolm_10m", 1, ("--model.remat=full",)),
    ("matilda_114m", 8, ()),
    ("matilda_114m", 8, ("--model.remat=full",)),
    ("matilda_114m", 8, ("--model.remat=attention", "--train.device_batch_size=8")),
    ("novamind_256m", 8, ()),
    ("novamind_256m", 8, ("--model.remat=mlp",)),
    ("llm_d20_561m", 8, ("--train.device_batch_size=8", "--model.num_layers=6")),
    ("samosa_d24", 8, ()),
)


def read_case(preset: str, settings: tuple[str, ...]) -> Config:
    return parse_config([f"--config={ROOT / 'configs' / f'{preset}.yaml'}", *settings]).config


def predicted(config: Config, num_devices: int) -> StepMemory:
    """What the closed model says of a step in bfloat16."""
    model = MemoryModel(config, num_devices=num_devices, compute_dtype="bfloat16")
    return model.at(device_rows=config.train.device_rows, remat=config.model.remat)


def read_golden() -> list[dict[str, Any]]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="compile every case and write the golden file")
    if parser.parse_args().write:
        found = []
        for preset, num_devices, settings in CASES:
            step = compile_step(read_case(preset, settings), device="h100", num_devices=num_devices)
            found.append(
                {
                    "preset": preset,
                    "devices": num_devices,
                    "settings": list(settings),
                    "peak_bytes": step.peak_bytes,
                }
            )
            GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"compiled {preset} {' '.join(settings)}", flush=True)
    for case in read_golden():
        config = read_case(case["preset"], tuple(case["settings"]))
        peak = predicted(config, case["devices"]).peak
        print(
            f"{case['preset']:<14} x {case['devices']}  {' '.join(case['settings']):<56} "
            f"compiler {case['peak_bytes'] / GIB:6.2f} GiB  model {peak / GIB:6.2f} GiB  "
            f"{peak / case['peak_bytes'] - 1:+.1%}"
        )


if __name__ == "__main__":
    main()
