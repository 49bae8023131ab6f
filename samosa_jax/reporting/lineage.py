"""The runs that a run comes from: the one it began with, and so on back to random parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.reporting.run_history import Checkpoint, RunHistory, read_run
from samosa_jax.training.parents import find_by_seal, parent_places, run_of, trained_in


@dataclass(frozen=True, kw_only=True, eq=False)
class Lineage:
    """Runs from the first to the one reported on, each as far as the next one has used it."""

    runs: tuple[RunHistory, ...]
    missing: str  # why it does not go back to random parameters; empty if it does

    @property
    def last(self) -> RunHistory:
        return self.runs[-1]


def read_lineage(folder: Path) -> Lineage:
    """Follows init_from as far as the folders are still there. Raises UserError for a broken file in one."""
    runs = [read_run(folder)]
    seen = {folder.resolve()}
    missing = ""
    while origin := str(runs[0].config.get("init_from") or ""):
        run = runs[0]
        digest = str(run.record.data.get("begun_with") or "") if run.record is not None else ""
        places = _places(origin, run)
        sealed = find_by_seal(places, digest)
        found = run_of(sealed) if sealed is not None else next(iter(places), None)
        if found is None:
            missing = f"{run.name} began with {origin}, which is not there any more"
            break
        if found.resolve() in seen:
            missing = f"{run.name} began with {origin}, which this chain has already passed"
            break
        seen.add(found.resolve())
        parent = read_run(found)
        step, doubt = _step_of(origin, parent, digest=digest)
        if doubt:
            missing = f"{run.name} began with {origin} ({digest[:12] or 'fingerprint unknown'}): {doubt}"
        runs.insert(0, parent.until(step))
    imported_from = runs[0].record.imported_from if runs[0].record is not None else ""
    if imported_from:
        missing = f"{runs[0].name} was imported from {imported_from}; what trained it is not known here"
    return Lineage(runs=tuple(runs), missing=missing)


def _places(origin: str, run: RunHistory) -> Sequence[Path]:
    """Folders of runs that init_from may mean."""
    possible = parent_places(origin, run=run.folder, out_dir=_out_dir(run), name=run.name)
    return [
        place
        for place in map(run_of, possible)
        if (place / "config.yaml").exists() or (place / "metrics.jsonl").exists()
    ]


def start_of_paths(run: RunHistory) -> Path:
    """The folder that a run's relative paths start from, if its own place tells; else the present one."""
    return trained_in(run.folder, out_dir=_out_dir(run), name=run.name) or Path()


def _out_dir(run: RunHistory) -> str:
    return str(run.config.get("out_dir", "runs"))


def _step_of(origin: str, parent: RunHistory, *, digest: str) -> tuple[int, str]:
    """(step that the child began from, what is doubtful about it)."""
    found = [checkpoint for checkpoint in parent.checkpoints if checkpoint.seal_digest == digest]
    if found:
        return found[-1].step, ""
    named: list[Checkpoint] = [
        checkpoint for checkpoint in parent.checkpoints if Path(origin).name == f"{checkpoint.step:08d}"
    ]
    step = named[-1].step if named else parent.last_step
    if digest:
        return step, f"that run holds no such checkpoint any more; its history to step {step} is shown"
    return step, f"no checkpoint says which; its history to step {step} is shown"
