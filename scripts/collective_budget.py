"""What every preset for GPUs sends and needs on eight H100s, by compiling its train step.

    python -m scripts.collective_budget [PRESET ...] [--write]
    python -m scripts.collective_budget --table

Needs the packages of the `aot` extra and no GPU; a preset takes half a minute to three minutes of two cores.
`--write` puts what was found into tests/golden/collective_budget.json, which tests/test_collective_budget.py
holds against the limits below; `--table` prints that file as docs/parallelism.md shows it.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from samosa_kernels.device import Device, link_bandwidth, peak_flops

from samosa_jax.command_line import parse_config
from samosa_jax.compiled_step import compile_step
from samosa_jax.config import Config, to_dict
from samosa_jax.parallel.collectives import by_kind, read_collectives, total_bytes
from samosa_jax.parallel.scaling import predict_scaling, zero1_bytes
from samosa_jax.sizes import flops_per_token, parameter_counts
from samosa_jax.training.resume import flatten

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "collective_budget.json"
FOR_A_CPU = ("bench_cpu", "quickstart", "wikinews")
DEVICE, NUM_DEVICES = "h100", 8
# Of 80 GB; the rest is for NCCL, CUDA and what the compiler's plan does not know.
PEAK_LIMIT = 72 * 2**30
MFU = 0.5  # that a step is predicted with
TRAFFIC_LIMIT = 1.15  # times `zero1_bytes`, Muon's traffic and all scalars included

Budget = dict[str, Any]


def presets() -> list[str]:
    """Names of the configurations meant for GPUs."""
    return sorted({path.stem for path in (ROOT / "configs").glob("*.yaml")} - set(FOR_A_CPU))


def read_preset(name: str, *overrides: str) -> Config:
    """The preset on eight devices: as configured, or with as many rows as its batch leaves each of them."""
    config = parse_config([f"--config={ROOT / 'configs' / f'{name}.yaml'}", *overrides]).config
    rows = math.gcd(config.batch_rows // NUM_DEVICES, config.train.device_rows)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, device_batch_size=rows))


def measure(config: Config) -> Budget:
    """Compiles the step and reads what it sends.

    Raises:
        RuntimeError: the compiler is not here; the text says what installs it.
    """
    step = compile_step(config, device=DEVICE, num_devices=NUM_DEVICES)
    program = step.executable.as_text()
    if program is None:
        raise RuntimeError("the compiler gave no text of the program")
    collectives = read_collectives(program)
    num_params = parameter_counts(config.model).total
    minimum = zero1_bytes(num_params, replicas=NUM_DEVICES)
    return {
        "made_of": fingerprint(config),
        "jax": jax.__version__,
        "device": f"{NUM_DEVICES} x {DEVICE}",
        "mesh": dict(step.mesh.shape),
        "num_params": num_params,
        "rows_per_device": config.train.device_rows,
        "context_len": config.model.context_len,
        "remat": config.model.remat,
        "peak_bytes": step.peak_bytes,
        "sent_bytes": total_bytes(collectives),
        "zero1_bytes": minimum,
        "collectives": {kind: traffic._asdict() for kind, traffic in by_kind(collectives).items()},
    }


def fingerprint(config: Config) -> str:
    """Of all that the compiled step follows from but the code: what is not as every configuration has it."""
    values, defaults = flatten(to_dict(config)), flatten(to_dict(Config()))
    sections = ("model.", "optimizer.", "schedule.", "loss.", "mesh.", "train.")
    own = {key: value for key, value in values.items() if key.startswith(sections) and value != defaults[key]}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def complaints(name: str, budget: Budget) -> list[str]:
    """What breaks a limit; empty where all is well."""
    found = []
    ratio = budget["sent_bytes"] / budget["zero1_bytes"]
    if ratio > TRAFFIC_LIMIT:
        found.append(f"{name} sends {ratio:.3f} times the minimum, the limit is {TRAFFIC_LIMIT}")
    if budget["peak_bytes"] > PEAK_LIMIT:
        found.append(f"{name} needs {budget['peak_bytes'] / 2**30:.1f} GiB of {PEAK_LIMIT / 2**30:.0f}")
    found += [
        f"{name} has {traffic['in_loop']} {kind} inside a loop"
        for kind, traffic in budget["collectives"].items()
        if traffic["in_loop"]
    ]
    return found


def read_golden() -> dict[str, Budget]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def table(budgets: dict[str, Budget]) -> list[str]:
    """The lines of a Markdown table; efficiency is `predict_scaling` at `MFU` and the rate of NVLink."""
    described = Device(platform="gpu", kind=DEVICE.upper())
    rate, peak = link_bandwidth(described), peak_flops(described, "bfloat16")
    assert rate is not None
    assert peak is not None
    lines = [
        "| preset | parameters | rows of tokens | peak memory | sent per step | of it Muon | of the minimum "
        "| on the links | step | efficiency |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, budget in budgets.items():
        config = read_preset(name)
        scaling = predict_scaling(
            sent_bytes=budget["sent_bytes"],
            link_bandwidth=rate,
            tokens_per_step=config.train.batch_tokens,
            flops_per_token=flops_per_token(config.model),
            num_devices=NUM_DEVICES,
            peak_flops=peak,
            mfu=MFU,
        )
        exchanged = budget["collectives"].get("all-to-all", {"wire_bytes": 0})["wire_bytes"]
        cells = (
            f"`{name}`",
            f"{budget['num_params'] / 1e6:,.0f} M",
            f"{budget['rows_per_device']} x {budget['context_len']:,}",
            f"{budget['peak_bytes'] / 2**30:.1f} GiB",
            f"{budget['sent_bytes'] / 1e6:,.0f} MB",
            f"{exchanged / 1e6:,.0f} MB",
            f"{budget['sent_bytes'] / budget['zero1_bytes']:.3f}",
            f"{1e3 * scaling.link_seconds:.1f} ms",
            f"{1e3 * (scaling.compute_seconds + scaling.link_seconds):,.0f} ms",
            f"{scaling.efficiency:.1%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(names: Iterable[str], *, write: bool) -> None:
    found = read_golden() if write and GOLDEN.exists() else {}
    for name in names:
        begun = time.perf_counter()
        budget = measure(read_preset(name))
        print(
            f"{name}: {budget['peak_bytes'] / 2**30:.1f} GiB at {budget['rows_per_device']} x "
            f"{budget['context_len']}, sends {budget['sent_bytes'] / 1e6:,.1f} MB, "
            f"{budget['sent_bytes'] / budget['zero1_bytes']:.3f} of the minimum; "
            f"compiled in {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
        for complaint in complaints(name, budget):
            print(f"  {complaint}", flush=True)
        found[name] = budget
        if write:
            kept = {name: found[name] for name in presets() if name in found}
            GOLDEN.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("presets", nargs="*", default=[], help="names in configs/, by default all for GPUs")
    parser.add_argument("--write", action="store_true", help="put the numbers into the golden file")
    parser.add_argument("--table", action="store_true", help="print the golden file as a table")
    given = parser.parse_args()
    if given.table:
        print("\n".join(table(read_golden())))
        raise SystemExit
    main(given.presets or presets(), write=given.write)
