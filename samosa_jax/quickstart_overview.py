"""What each stage of the quickstart has changed: one table from the runs' own results."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from samosa_jax.evals.results import read_results
from samosa_jax.quickstart_steps import SKILLS, STEPS, Settings
from samosa_jax.training.display import format_seconds

ARTEFACTS = "probes/artefacts"
SAMPLED = "eval/pass@1"


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
    measured = {stage: _measured(run) for stage, run in runs.items()}
    spent = [seconds.get(stage, 0.0) + seconds.get(f"evaluate {stage}", 0.0) for stage in STEPS]
    table.add_row("time", *map(format_seconds, spent))
    table.add_row("bits per byte of text", *(_last(measured[stage].get("val/bpb")) for stage in STEPS))
    for skill in SKILLS:
        table.add_row(skill, *(_per_cent(shares[stage].get(f"starter_{skill}")) for stage in STEPS))
    table.add_row("answers with artefacts", *(_per_cent(shares[stage].get(ARTEFACTS)) for stage in STEPS))
    table.add_row("right when sampled", *(_from_to(measured[stage].get(SAMPLED)) for stage in STEPS))
    table.caption = f"{format_seconds(sum(seconds.values()))} in all"
    return table


def _measured(run: Path) -> dict[str, list[float]]:
    """What training has measured on its way, by name, in order."""
    found: dict[str, list[float]] = {}
    for name in ("evals.jsonl", "metrics.jsonl"):
        lines = (run / name).read_text().splitlines() if (run / name).exists() else []
        for record in map(json.loads, lines):
            for key in {"val/bpb", SAMPLED} & record.keys():
                found.setdefault(key, []).append(record[key])
    return found


def _per_cent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _last(values: list[float] | None) -> str:
    return f"{values[-1]:.2f}" if values else ""


def _from_to(values: list[float] | None) -> str:
    return f"{values[0]:.0%} to {values[-1]:.0%}" if values else ""
