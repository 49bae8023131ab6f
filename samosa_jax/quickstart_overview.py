"""What each stage of the quickstart has changed: one table from the runs' own results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from samosa_jax.evals.results import read_results
from samosa_jax.quickstart_steps import SKILLS, STEPS, Settings
from samosa_jax.training.display import format_seconds

ARTEFACTS = "probes/artefacts"
PRACTISED = "starter_letters"  # of what GRPO asks for, what the overview shows


def overview(settings: Settings, seconds: Mapping[str, float]) -> Table:
    """Of every stage its time and what its model can do, in per cent of questions that no training had."""
    table = Table(title=Text(f"{settings.name}: what each stage has changed"), title_justify="left")
    table.add_column()
    for stage in STEPS:
        table.add_column(stage, justify="right")
    runs = {stage: Path(settings.run(stage)) for stage in STEPS}
    shares = {
        stage: {result.task: result.value for result in read_results(run)} for stage, run in runs.items()
    }
    spent = [seconds.get(stage, 0.0) + seconds.get(f"evaluate {stage}", 0.0) for stage in STEPS]
    table.add_row("time", *map(format_seconds, spent))
    table.add_row("bits per byte of text", *map(_bits_per_byte, runs.values()))
    for skill in SKILLS:
        table.add_row(skill, *(_per_cent(shares[stage].get(f"starter_{skill}")) for stage in STEPS))
    table.add_row("answers with artefacts", *(_per_cent(shares[stage].get(ARTEFACTS)) for stage in STEPS))
    table.add_row("letters of long words, sampled", *(_from_to(_practised(runs[stage])) for stage in STEPS))
    table.caption = f"{format_seconds(sum(seconds.values()))} in all"
    return table


def _records(run: Path) -> list[dict[str, Any]]:
    """What training has measured on its way, in order."""
    path = run / "evals.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _bits_per_byte(run: Path) -> str:
    found = [record["val/bpb"] for record in _records(run) if "val/bpb" in record]
    return f"{found[-1]:.2f}" if found else ""


def _practised(run: Path) -> list[float]:
    """pass@1 of held-out prompts before, during and after GRPO."""
    by_task = [record["by_task"] for record in _records(run) if "by_task" in record]
    return [passed[PRACTISED]["pass@1"] for passed in by_task if PRACTISED in passed]


def _per_cent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _from_to(values: list[float]) -> str:
    return f"{values[0]:.0%} to {values[-1]:.0%}" if values else ""
