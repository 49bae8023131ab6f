"""A plan as tables for the terminal, and as plain values for a program."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from samosa_jax.planning.devices import LINK_SHARE
from samosa_jax.planning.fitting import Fit
from samosa_jax.planning.run_plan import RunPlan
from samosa_jax.reporting.document import Block, Cell, Paragraph, Section, Table, Warning
from samosa_jax.reporting.figures_in_words import count, large, share
from samosa_jax.training.display import format_seconds

GIB = 2**30

MEMORY_NOTES = {
    "parameters": "float32, as the optimizer keeps them",
    "compute_copy": "what forward and backward read",
    "optimizer": "moments, float32",
    "gradients": "of a step",
    "activations": "what the backward reads, and its working set",
    "logits": "of a chunk of tokens, and the head's gradient",
    "frozen": "parameters that are read and not trained",
    "batch": "tokens, targets, masks, positions",
}


def plan_sections(plan: RunPlan) -> list[Section]:
    """Four sections: the model, memory, time and cost, disk and data."""
    return [
        Section(name="model", title=f"{plan.name}: the model", blocks=[_model(plan)]),
        Section(name="memory", title=_memory_title(plan), blocks=list(_memory(plan))),
        Section(name="time", title="Time and cost", blocks=list(_time(plan))),
        Section(name="disk", title="Disk and data", blocks=[_disk(plan)]),
    ]


def _model(plan: RunPlan) -> Table:
    groups = dataclasses.asdict(plan.counts)
    rows = [(f"  {group}", count(number)) for group, number in groups.items() if number]
    return Table(
        caption="",
        header=("parameters", count(plan.counts.total)),
        rows=[
            *rows,
            ("read by matrix products", count(plan.scaling_parameters)),
            ("FLOPs per token", large(plan.flops_per_token)),
            ("FLOPs of the run", f"{plan.flops_per_token * plan.tokens:.3g}"),
        ],
    )


def _memory_title(plan: RunPlan) -> str:
    axes = " ".join(
        f"{name}={size}" for name, size in zip(("data", "fsdp", "tensor"), plan.mesh, strict=True)
    )
    return f"Memory of one device, of {plan.num_devices} x {plan.device.kind} ({axes})"


def _memory(plan: RunPlan) -> Iterator[Block]:
    usable = plan.usable_bytes
    if plan.memory is None:
        yield Warning(f"not even one row fits {_gib(usable)} with model.remat={plan.remat}")
    else:
        said = "by the compiler" if plan.memory_source == "compiler" else "by the closed model"
        kinds = dataclasses.asdict(plan.memory)
        limit = "" if usable is None else f"of {_gib(usable)} to use"
        yield Table(
            caption=f"device_batch_size {plan.device_rows}, remat {plan.remat}, "
            f"{plan.num_microbatches} microbatches; the sum {said}",
            header=("kind", "GiB"),
            rows=[
                *(
                    (Cell(kind.replace("_", " "), MEMORY_NOTES[kind]), _number(size))
                    for kind, size in kinds.items()
                    if size
                ),
                (
                    Cell("sum", limit),
                    Cell(_number(plan.memory.peak), tone="plain" if plan.fits else "bad"),
                ),
            ],
        )
        if not plan.fits:
            yield Warning(f"this does not fit: {_mend(plan)}")
    yield Table(
        caption="The most that fits, by the closed model",
        header=("remat", "device_batch_size", "GiB"),
        rows=[_fit_row(fit, plan) for fit in plan.fitted],
    )
    yield Paragraph(
        f"While text is written, keys and values take {_gib(plan.cache_bytes, digits=3)} per dialogue of "
        "full length."
    )


def _fit_row(fit: Fit, plan: RunPlan) -> tuple[str | Cell, ...]:
    name: str | Cell = fit.remat
    if plan.chosen is not None and fit.remat == plan.chosen.remat:
        name = Cell(fit.remat, "(recommended)", tone="good")
    if fit.memory is None:
        return name, "none", ""
    return name, str(fit.device_rows), _number(fit.memory.peak)


def _mend(plan: RunPlan) -> str:
    if plan.chosen is None:
        return "no policy has room for one row; take more devices with mesh.fsdp, or larger ones"
    return f"set train.device_batch_size={plan.chosen.device_rows} and model.remat={plan.chosen.remat}"


def _time(plan: RunPlan) -> Iterator[Block]:
    steps = f"{count(plan.num_steps)} of {count(plan.batch_tokens)} tokens"
    pace = plan.pace
    if pace is None:
        yield Table(caption="", header=("tokens", count(plan.tokens)), rows=[("steps", steps)], numeric=False)
        yield Paragraph(
            f"The pace of a {plan.device.kind} is not predicted; `samosa train --dry-run` with the same "
            "configuration measures it."
        )
        return
    rows = [
        ("steps", steps),
        ("MFU", f"{share(pace.mfu)} ({pace.source})"),
        ("a step", f"{1e3 * pace.step_seconds:,.0f} ms"),
        ("tokens per second", count(pace.tokens_per_sec)),
        ("time", format_seconds(pace.seconds)),
    ]
    if pace.cost is not None:
        rows.append(("cost", f"{pace.cost:,.2f}"))
    yield Table(caption="", header=("tokens", count(plan.tokens)), rows=rows, numeric=False)
    if len(pace.scaling) > 1:
        assert plan.device.link_bandwidth is not None
        yield Table(
            caption="Scaling, at the same rows per device and step: parameters gathered and gradients "
            f"scattered once, at {LINK_SHARE * plan.device.link_bandwidth / 1e9:.0f} GB/s, none of it hidden",
            header=("devices", "sent GB", "ms", "efficiency"),
            rows=[
                (
                    str(traffic.num_devices),
                    f"{traffic.sent_bytes / 1e9:.2f}",
                    f"{1e3 * traffic.seconds:.1f}",
                    share(traffic.efficiency),
                )
                for traffic in pace.scaling
            ],
        )


def _disk(plan: RunPlan) -> Table:
    kept = plan.checkpoints
    rows: list[tuple[str, str]] = [
        ("a checkpoint", f"{kept.one_bytes / 1e9:.2f} GB"),
        (
            "checkpoints, at most",
            f"{kept.peak_bytes / 1e9:.2f} GB, {kept.num_kept} kept and one being written",
        ),
    ]
    if plan.data is not None:
        rows.append(
            ("data", f"{count(plan.data.tokens)} tokens, {plan.data.shard_bytes / 1e9:.2f} GB of shards")
        )
        rows += [
            (f"  {source.path}", f"{count(source.tokens)} tokens, {source.epochs:.2f} epochs of them")
            for source in plan.data.sources
        ]
    return Table(caption="", header=("what", "size"), rows=rows, numeric=False)


def _gib(size: int | None, *, digits: int = 1) -> str:
    return "all memory" if size is None else f"{size / GIB:.{digits}f} GiB"


def _number(size: int) -> str:
    return f"{size / GIB:.2f}"


def as_json(plan: RunPlan) -> dict[str, Any]:
    """Every number of the plan, nested as its dataclasses are; bytes, seconds, counts."""
    values = dataclasses.asdict(plan)
    values["tokens"], values["fits"] = plan.tokens, plan.fits
    if plan.memory is not None:
        values["memory"]["peak"] = plan.memory.peak
    for fit, entry in zip(plan.fitted, values["fitted"], strict=True):
        if fit.memory is not None:
            entry["memory"]["peak"] = fit.memory.peak
    return values
