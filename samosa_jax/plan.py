"""Says what a run will take before it begins: memory, time, money, disk and data. Needs no GPU.

    samosa plan --config=configs/samosa_d24.yaml
    samosa plan --config=configs/samosa_d24.yaml --device=h200 --count=4 --cost-per-hour=12 --json=plan.json
    samosa plan --config=configs/samosa_d24.yaml --memory=model --mfu=0.4

The configuration is that of `samosa train`, with the same files and keys. Memory is summed up by the compiler
where the `aot` extra is installed (--memory=model leaves it, and takes seconds), else by a closed model.
docs/planning.md says where every number comes from.
"""

import sys
import time
from dataclasses import dataclass
from typing import Literal

from samosa_kernels import aot

from samosa_jax import command_line
from samosa_jax.command_line import parse_config, parse_dataclass, split_options
from samosa_jax.compiled_step import compile_step
from samosa_jax.config import Config, with_rows
from samosa_jax.errors import UserError
from samosa_jax.numbers_file import check_numbers_file, write_numbers
from samosa_jax.plan_page import as_json, plan_sections
from samosa_jax.planning.devices import DeviceName, PlannedDevice, find_device
from samosa_jax.planning.run_plan import RunPlan, make_plan, with_compiled_peak
from samosa_jax.reporting.terminal_page import print_sections
from samosa_jax.stages import resolve_epochs
from samosa_jax.training.resume import inherited_values


@dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """The flags of `plan`, beside those of a configuration."""

    device: DeviceName = "h100"  # what it will run on
    count: int = 8  # such devices, in one machine
    mfu: float | None = None  # share of the peak that computing reaches, 0..1; null: what is expected
    memory: Literal["auto", "compiler", "model"] = "auto"  # who sums it up; auto: the compiler where it can
    json: str = ""  # a file for all numbers


def main(argv: list[str]) -> None:
    """Prints the plan. Raises UserError for what cannot be planned."""
    own, rest = split_options(argv, PlanFlags)
    if "--help" in rest or "-h" in rest:
        own.append("--help")
    flags = parse_dataclass(
        own, PlanFlags, description="Plan a run. Every key of `samosa train` may be set as well."
    )
    if flags.count < 1:
        raise UserError(f"--count is {flags.count}; it must be at least 1")
    if flags.mfu is not None and not 0 < flags.mfu <= 1:
        raise UserError(f"--mfu is {flags.mfu}; it is a share, above 0 and at most 1, as in --mfu=0.45")
    file = check_numbers_file(flags.json)
    config = resolve_epochs(parse_config(rest, description="Plan a run.", inherit=inherited_values).config)
    device = find_device(flags.device)
    plan = make_plan(
        config,
        device=device,
        num_devices=flags.count,
        mfu=flags.mfu,
        cost_per_hour=config.log.cost_per_hour,
    )
    if plan.device_rows is not None and asks_compiler(flags.memory, device):
        plan = compiled(plan, config, device=device)
    print_sections(plan_sections(plan))
    if file is not None:
        write_numbers(file, as_json(plan))
        print(f"\nwritten: {file}")


def asks_compiler(wish: str, device: PlannedDevice) -> bool:
    """Whether the compiler can say what is wished of it. Raises UserError where it must and cannot."""
    if wish == "model":
        return False
    reason = aot.why_not() if device.has_target else f"no program can be compiled for a {device.name} here"
    if reason is not None and wish == "compiler":
        raise UserError(f"--memory is compiler, but {reason}")
    return reason is None


def compiled(plan: RunPlan, config: Config, *, device: PlannedDevice) -> RunPlan:
    """The plan with the compiler's word on its memory; says on stderr what takes so long."""
    assert plan.device_rows is not None
    print(
        f"compiling the train step for {plan.num_devices} x {device.kind}, which takes up to minutes; "
        "--memory=model leaves it",
        file=sys.stderr,
        flush=True,
    )
    begun = time.perf_counter()
    step = compile_step(with_rows(config, plan.device_rows), device=device.name, num_devices=plan.num_devices)
    print(f"compiled in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return with_compiled_peak(plan, step.peak_bytes)


if __name__ == "__main__":
    command_line.run(main)
