"""A run that an experiment asks for: its command line, its resolved configuration, and whether it is done."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from samosa_jax.command_line import parse_config
from samosa_jax.config import Config, to_dict
from samosa_jax.errors import UserError
from samosa_jax.experiments.plan_file import Setting
from samosa_jax.keys import keys_of
from samosa_jax.sizes import flops_per_token, parameter_counts, scaling_parameters
from samosa_jax.training.resume import flatten, inherited_values
from samosa_jax.training.run_folder import RunFolder

SEED_PLACE = "{seed}"  # in a value: the seed of the run, as in init_from: runs/text/baseline-seed{seed}
# What may differ between a finished run and the plan without changing any number that is compared.
IMMATERIAL = (
    "name",
    "out_dir",
    "log.",
    "checkpoint.",
    "sample.",
    "eval.every_steps",
    "eval.gate",
    "data.wait_for_shards",
    "data.num_threads",
    "data.prefetch_batches",
    "train.max_bad_steps",
    "train.push_",
)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of the ordinary train command."""

    label: str  # for people: "mqa, seed 1"
    seed: int
    argv: tuple[str, ...]  # of samosa_jax.train
    config: Config

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.config.out_dir) / self.config.name)

    @property
    def log(self) -> Path:
        """What the command printed, of all its starts."""
        return Path(self.config.out_dir) / "logs" / f"{self.config.name}.log"

    @property
    def parameters(self) -> int:
        return parameter_counts(self.config.model).total

    @property
    def scaling_parameters(self) -> int:
        return scaling_parameters(self.config.model)

    @property
    def flops_per_token(self) -> int:
        return flops_per_token(self.config.model)

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds the whole run. Its summary is the last thing that a run writes."""
        return self.folder.summary.is_file() and self.difference() is None

    def difference(self) -> str | None:
        """What in the folder was trained otherwise than planned, "key is old, not new"; None: nothing."""
        if not self.folder.config.is_file():
            return None
        before = flatten(yaml.safe_load(self.folder.config.read_text(encoding="utf-8")))
        now = flatten(to_dict(self.config))
        defaults = {key: _plain(spec.default) for key, spec in keys_of(Config).items()}
        measured_by_data = {"train.num_steps"} if self.config.train.horizon == "epochs" else set[str]()
        for key in sorted(now.keys() - measured_by_data):
            # A key that the run did not know yet had the default that it has now.
            old = before.get(key, defaults.get(key))
            if not key.startswith(IMMATERIAL) and old != now[key]:
                return f"{key} is {old}, not {now[key]}"
        return None

    def check_startable(self) -> None:
        """Raises UserError if the folder holds another run than the planned one."""
        difference = self.difference()
        if difference is not None:
            raise UserError(
                f"{self.folder.path} holds a run that was trained otherwise: {difference}; set it back, "
                "give the experiment another name, or remove that folder"
            )


def plan_runs(
    *,
    label: str,
    name: str,
    out_dir: Path,
    seeds: Sequence[int],
    configs: Sequence[str],
    settings: Sequence[Setting],
    where: str,
) -> list[PlannedRun]:
    """A run for every seed, resolved as the train command would.

    Later settings win over earlier ones of the same key. Raises UserError, beginning with `where`, for what
    the train command would refuse.
    """
    texts = {setting.key: setting.text for setting in settings}
    own = any(SEED_PLACE in text for text in texts.values())
    runs: list[PlannedRun] = []
    for seed in seeds:
        chosen = {"seed": seed, "name": f"{name}-seed{seed}", "out_dir": str(out_dir)}
        argv = (
            *(f"--config={path}" for path in configs),
            *(f"--{key}={text.replace(SEED_PLACE, str(seed))}" for key, text in texts.items()),
            *(f"--{key}={value}" for key, value in chosen.items()),
        )
        if runs and not own:  # resolving takes a fifth of a second, and nothing follows from a seed
            config = dataclasses.replace(runs[0].config, **chosen)
        else:
            try:
                config = parse_config(argv, inherit=inherited_values).config
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            if config.content == "prompts":
                raise UserError(
                    f"{where}: stage is {config.stage}, whose runs have no held-out loss to compare; plan "
                    "another stage, and compare such runs with `samosa compare`"
                )
        runs.append(PlannedRun(label=f"{label}, seed {seed}", seed=seed, argv=argv, config=config))
    return runs


def describe_runs(runs: Sequence[PlannedRun]) -> list[str]:
    """A line for every run: its size, its length, and whether it is done."""
    width = max(len(run.label) for run in runs)
    lines = []
    for run in runs:
        train = run.config.train
        length = (
            f"{train.horizon_value:g} epochs"
            if train.horizon == "epochs"
            else f"{train.num_steps:,} steps, {train.num_steps * train.batch_tokens:,} tokens"
        )
        difference = run.difference()
        holds = f"holds another run ({difference})" if difference else "to be trained"
        state = "finished" if run.is_finished else holds
        lines.append(f"{run.label:<{width}}  {run.parameters:>13,} parameters, {length}: {state}")
    return lines


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
