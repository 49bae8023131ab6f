"""Every task that `samosa evaluate` knows, by name, and the groups that stand for several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.errors import UserError
from samosa_jax.evals.aggregates import CHATCORE_BASELINES
from samosa_jax.evals.generation_tasks import GENERATION_TASKS
from samosa_jax.evals.likelihood_tasks import TABLES, LikelihoodTask, read_table
from samosa_jax.evals.needle import NEEDLE
from samosa_jax.evals.positions import POSITIONS
from samosa_jax.evals.probe_suite import HELD_OUT, PROBES
from samosa_jax.keys import near_miss

CORE, CHATCORE, BITS_PER_BYTE, LONG_CONTEXT, ALL = "core", "chatcore", "bpb", "long_context", "all"


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The tasks.

    Attributes:
        likelihood: by name.
        groups: what a name stands for that is no task of its own.
    """

    likelihood: Mapping[str, LikelihoodTask]
    groups: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that can be asked for."""
        return (*self.groups, *self.likelihood, *GENERATION_TASKS, PROBES, BITS_PER_BYTE, NEEDLE, POSITIONS)

    @property
    def core_baselines(self) -> dict[str, float]:
        """Per cent, by task."""
        return {name: self.likelihood[name].baseline or 0.0 for name in self.groups[CORE]}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is to be evaluated.

    Attributes:
        tasks: each once, in the order asked for.
        named: those asked for by their own name; where one of these cannot be evaluated, that is an error.
        aggregates: means to take afterwards, with their tasks' baselines in per cent.
    """

    tasks: tuple[str, ...]
    named: frozenset[str]
    aggregates: Mapping[str, Mapping[str, float]]


def open_catalog(tables: Sequence[Path] = ()) -> Catalog:
    """The tasks of this project and those of further tables. Raises UserError for a name that is taken."""
    groups: dict[str, tuple[str, ...]] = {}
    likelihood: dict[str, LikelihoodTask] = {}
    own = [TABLES / f"{group}.yaml" for group in (CORE, "benchmarks", "chat")]
    for path in (*own, *tables):
        table = read_table(path)
        for name in table:
            own_names = (PROBES, BITS_PER_BYTE, NEEDLE, POSITIONS, LONG_CONTEXT, CORE, CHATCORE, ALL)
            if name in (*likelihood, *GENERATION_TASKS, *own_names):
                raise UserError(f"{path}: the name {name} is taken by another task; choose another one")
        groups[path.stem] = tuple(table)
        likelihood |= table
    groups["generation"] = tuple(GENERATION_TASKS)
    groups[CHATCORE] = tuple(CHATCORE_BASELINES)
    groups[LONG_CONTEXT] = (POSITIONS, NEEDLE)
    everything = (BITS_PER_BYTE, *likelihood, *GENERATION_TASKS, PROBES)
    return Catalog(likelihood=likelihood, groups={**groups, ALL: everything})


def select(catalog: Catalog, asked: Sequence[str]) -> Selection:
    """The tasks that these names stand for; one text may hold several, with commas between.

    Results in parts, such as probes/reasoning or needle/2048, stand for the whole. Raises UserError for a
    name that there is not, with those near it.
    """
    names = [name.strip() for text in asked for name in text.split(",") if name.strip()]
    tasks: dict[str, None] = {}
    named: set[str] = set()
    for name in names:
        if name in catalog.groups:
            tasks |= dict.fromkeys(catalog.groups[name])
            continue
        whole = name.split("/")[0]
        task = {PROBES: PROBES, HELD_OUT: PROBES, NEEDLE: NEEDLE, POSITIONS: POSITIONS}.get(whole, name)
        if task not in catalog.names:
            hint = near_miss(name, catalog.names) or f"; there are {', '.join(catalog.names)}"
            raise UserError(f"{name!r} is no task{hint}")
        tasks[task] = None
        named.add(task)
    baselines = {CORE: catalog.core_baselines, CHATCORE: CHATCORE_BASELINES}
    return Selection(
        tasks=tuple(tasks),
        named=frozenset(named),
        aggregates={
            name: baselines[name]
            for name in baselines
            if name in names or (ALL in names and set(baselines[name]) <= set(tasks))
        },
    )
