"""The runs that a run comes from: the one it began with, and so on back to random parameters."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.reporting.run_history import Checkpoint, RunHistory, read_run


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
        found = next(_places(origin, run), None)
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
    return Lineage(runs=tuple(runs), missing=missing)


def _places(origin: str, run: RunHistory) -> Iterator[Path]:
    """Folders of runs that init_from may mean: as it is, from where the run was trained, beside the run."""
    named = Path(origin)
    # A checkpoint is RUN/checkpoints/STEP.
    as_run = named.parents[1] if named.name.isdigit() and named.parent.name == "checkpoints" else named
    for place in (as_run, trained_in(run) / as_run, run.folder.absolute().parent / as_run.name):
        if (place / "config.yaml").exists() or (place / "metrics.jsonl").exists():
            yield place


def trained_in(run: RunHistory) -> Path:
    """The folder that a run's relative paths start from, if its own path tells; else the present one."""
    own = Path(str(run.config.get("out_dir", "runs"))) / run.name
    whole = run.folder.absolute()
    if not own.is_absolute() and whole.parts[-len(own.parts) :] == own.parts:
        return Path(*whole.parts[: -len(own.parts)])
    return Path()


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
