"""Runs tasks of every kind on one checkpoint, and passes over those whose result is already there."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

from samosa_jax.config import MeshConfig
from samosa_jax.data.pipeline import validation_batches
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError
from samosa_jax.evals import bits_per_byte, likelihood_tasks, probe_suite
from samosa_jax.evals.aggregates import DEFINITION as AGGREGATE_DEFINITION
from samosa_jax.evals.aggregates import aggregate
from samosa_jax.evals.bits_per_byte_task import measure_by_batch
from samosa_jax.evals.catalog import Catalog
from samosa_jax.evals.generation import (
    GenerationSettings,
    Subject,
    config_fingerprint,
    described_settings,
    evaluate_generation,
)
from samosa_jax.evals.generation_tasks import GENERATION_TASKS, check_sandbox, open_items
from samosa_jax.evals.held_out_text import open_held_out
from samosa_jax.evals.likelihood import Scorer
from samosa_jax.evals.likelihood_tasks import Progress, open_questions, run_task
from samosa_jax.evals.long_context import evaluate_needle, evaluate_positions
from samosa_jax.evals.needle import ITEMS_PER_CELL, NEEDLE
from samosa_jax.evals.positions import POSITIONS
from samosa_jax.evals.probe_suite import PROBES, ProbeSettings, run_suite
from samosa_jax.evals.probes import load_suite
from samosa_jax.evals.recorder import Recorder
from samosa_jax.evals.results import (
    TaskResult,
    mean_interval,
    read_items,
    read_results,
    write_items,
)
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.tasks.identity import load_persona
from samosa_jax.trained import Trained, make_engines
from samosa_jax.training.checkpoint import seal_digest
from samosa_jax.training.parents import run_of

MadeBy = Literal["likelihood", "generation", "probes", "bpb", "positions", "needle"]
# What shares a model, together.
ORDER: Sequence[MadeBy] = ("bpb", "positions", "needle", "likelihood", "generation", "probes")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How tasks are run.

    Attributes:
        data_dir: local files; None: the hub's.
        limit: questions of each task; None: all.
        seed: of the examples shown before questions.
        again: results that are already there do not count.
        bpb_data: a prepared folder; None: what the run was trained on.
        context_len: tokens that needle and positions read, which may be more than the model was trained with;
            None: as many.
    """

    data_dir: Path | None
    limit: int | None
    seed: int
    again: bool
    tensor: int
    max_batch: int
    generation: GenerationSettings
    run_unsafe_code: bool
    probes: Path
    persona: Path
    bpb_data: Path | None
    context_len: int | None = None


class Evaluation:
    """The results of one checkpoint, as far as they are there, and what adds to them."""

    def __init__(self, trained: Trained, catalog: Catalog, settings: EvaluationSettings) -> None:
        self.run = run_of(trained.folder)
        self.checkpoint = seal_digest(trained.folder)
        self.step = trained.step
        self._trained = trained
        self._catalog = catalog
        self._settings = settings
        self._recorder = Recorder(self.run, step=self.step, checkpoint=self.checkpoint, again=settings.again)

    def kind_of(self, task: str) -> MadeBy:
        if task in self._catalog.likelihood:
            return "likelihood"
        if task in GENERATION_TASKS:
            return "generation"
        others: dict[str, MadeBy] = {PROBES: "probes", NEEDLE: "needle", POSITIONS: "positions"}
        return others.get(task, "bpb")

    def evaluate(self, task: str, *, on_progress: Progress) -> tuple[list[TaskResult], bool]:
        """The results of one task, and whether they were there before; new ones are added to the run at once.

        Raises UserError where its data is missing or bad, or its code must not run here.
        """
        run_kind = {
            "likelihood": self._likelihood,
            "generation": self._generation,
            "probes": self._probes,
            "bpb": self._bits_per_byte,
            "positions": self._positions,
            "needle": self._needle,
        }[self.kind_of(task)]
        return run_kind(task, on_progress)

    def combine(
        self, name: str, baselines: Mapping[str, float], results: Sequence[TaskResult]
    ) -> TaskResult | None:
        """The aggregate of these results, added to the run; None where it has no task."""
        started = time.perf_counter()
        first = {}
        for result in results:
            if result.task in baselines and result.metric in ("accuracy", "pass@1"):
                first.setdefault(result.task, result)
        if not first:
            return None
        scores = {
            task: [item["score"] for item in read_items(self.run, result)] for task, result in first.items()
        }
        mean = aggregate(baselines, scores)
        settings = {
            "tasks": {task: round(value, 6) for task, value in mean.centred.items()},
            "missing": list(mean.missing),
            "baselines": dict(baselines),
            "limit": self._settings.limit,
            "seed": self._settings.seed,
        }
        for kept in reversed(read_results(self.run)):
            same = (kept.checkpoint, kept.task, kept.metric) == (self.checkpoint, name, mean.metric)
            if same and kept.settings == settings and kept.definition == AGGREGATE_DEFINITION:
                return kept
        counts = {"tasks": len(mean.centred), "missing": len(mean.missing)}
        num_items = sum(map(len, scores.values()))
        return self._recorder.add(
            name, mean.metric, mean.interval, settings, AGGREGATE_DEFINITION, num_items, started, counts
        )

    @functools.cached_property
    def _scorer(self) -> Scorer:
        return self._scorer_of(self._trained.config.model.context_len)

    def _scorer_of(self, context_len: int) -> Scorer:
        return Scorer(
            self._trained.network,
            self._params,
            mesh=self._mesh,
            token_bytes=self._trained.tokenizer.token_bytes,
            context_len=context_len,
        )

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return make_mesh(MeshConfig(tensor=self._settings.tensor), devices=self._trained.devices)

    @functools.cached_property
    def _params(self) -> Params:
        self._free("_engines")
        return self._trained.params_on(self._mesh)

    def _free(self, *names: str) -> None:
        """Engines have parameters of their own, which need not lie beside those that score."""
        for name in names:
            self.__dict__.pop(name, None)

    def _likelihood(self, name: str, on_progress: Progress) -> tuple[list[TaskResult], bool]:
        started = time.perf_counter()
        task = self._catalog.likelihood[name]
        questions = open_questions(task, data_dir=self._settings.data_dir)
        limit = self._settings.limit
        is_whole = limit is None or limit >= len(questions.items)
        settings = {
            "shots": task.shots,
            "seed": self._settings.seed if task.shots else None,
            "limit": None if is_whole else limit,
            "delimiter": task.delimiter,
            "asked": task.asked,
            "baseline": task.baseline,
            "chance": round(questions.chance, 6),
            "data": questions.fingerprint[:16],
        }
        definition = likelihood_tasks.DEFINITION + task.definition - 1
        metrics = [likelihood_tasks.metric_of(by) for by in task.ranked_by]
        wanted = [
            {**settings, "ranked_by": by if task.kind != "language_modeling" else "greedy"}
            for by in task.ranked_by
        ]
        kept = [
            self._recorder.find(name, metric, own, definition)
            for metric, own in zip(metrics, wanted, strict=True)
        ]
        if all(kept):
            return [one for one in kept if one is not None], True
        outcome, counts = run_task(
            task,
            questions,
            scorer=self._scorer,
            tokenizer=self._trained.tokenizer,
            limit=limit,
            seed=self._settings.seed,
            on_progress=on_progress,
        )
        results = []
        for metric, own in zip(metrics, wanted, strict=True):
            items = outcome[metric]
            interval = mean_interval([item["score"] for item in items])
            stem = name if not results else f"{name}_{metric}"
            path = write_items(self.run, step=self._trained.step, task=stem, items=items)
            results.append(
                self._recorder.add(
                    name, metric, interval, own, definition, len(items), started, counts, items=path
                )
            )
        return results, False

    def _generation(self, name: str, on_progress: Progress) -> tuple[list[TaskResult], bool]:
        task, settings = GENERATION_TASKS[name], self._settings.generation
        if task.runs_code:
            check_sandbox(insist=self._settings.run_unsafe_code)
        items = open_items(
            task, data_dir=self._settings.data_dir, seed=settings.seed, limit=self._settings.limit
        )
        wanted = described_settings(task, items, settings)
        kept = [self._recorder.find(name, f"pass@{k}", wanted, task.definition) for k in settings.ks]
        if all(kept):
            return [one for one in kept if one is not None], True
        on_progress(0, len(items))
        with self._asking(Registry([CalculatorTool()])) as subject:
            return evaluate_generation(task, items, subject, settings), False

    def _probes(self, name: str, on_progress: Progress) -> tuple[list[TaskResult], bool]:
        suite, persona = load_suite(self._settings.probes), load_persona(self._settings.persona)
        settings = ProbeSettings(seed=self._settings.generation.seed)
        kept: list[TaskResult] = []
        missing: list[str] = []
        for part, names in probe_suite.parts_of(suite, settings).items():
            wanted = probe_suite.described_settings(part, suite, persona, settings)
            metric = probe_suite.metric_of(part)
            found = [self._recorder.find(one, metric, wanted, probe_suite.DEFINITION) for one in names]
            if all(found):
                kept += [one for one in found if one is not None]
            else:
                missing.append(part)
        if not missing:
            return kept, True
        with self._asking(probe_suite.probe_tools(suite)) as subject:
            return kept + run_suite(suite, persona, subject, settings, parts=missing), False

    def _bits_per_byte(self, name: str, on_progress: Progress) -> tuple[list[TaskResult], bool]:
        started = time.perf_counter()
        config = self._trained.config
        shards = self._held_out(name)
        settings = {
            "data": {folder: one.fingerprint[:16] for folder, one in shards.items()},
            "max_tokens": config.eval.max_tokens,
            "context_len": config.model.context_len,
            "document_masking": config.data.document_masking,
        }
        kept = self._recorder.find(name, name, settings, bits_per_byte.DEFINITION)
        if kept is not None:
            return [kept], True
        row_devices = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        batches = {
            folder: validation_batches(
                one,
                batch_rows=config.train.device_rows * row_devices,
                context_len=config.model.context_len,
                token_bytes=self._trained.tokenizer.token_bytes,
                max_tokens=config.eval.max_tokens // len(shards),
                document_masking=config.data.document_masking,
            )
            for folder, one in shards.items()
        }
        measure = bits_per_byte.make_bits_per_byte(
            self._trained.network, chunk_tokens=config.loss.chunk_tokens, mesh=self._mesh
        )
        interval, items = measure_by_batch(measure, self._params, batches)
        path = write_items(self.run, step=self._trained.step, task=name, items=items)
        result = self._recorder.add(
            *(name, name, interval, settings, bits_per_byte.DEFINITION, len(items), started, {}),
            items=path,
            higher_is_better=False,
        )
        return [result], False

    def _positions(self, name: str, on_progress: Progress) -> tuple[list[TaskResult], bool]:
        config = self._trained.config
        length = self._settings.context_len or config.model.context_len
        row_devices = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        return evaluate_positions(
            name,
            self._recorder,
            network=self._trained.network,
            params=lambda: self._params,
            mesh=self._mesh,
            shards=self._held_out(name),
            length=length,
            limit=self._settings.limit,
            # As many tokens at once as a step of training reads.
            batch_rows=row_devices * max(1, config.train.device_rows * config.model.context_len // length),
            token_bytes=self._trained.tokenizer.token_bytes,
            chunk_tokens=config.loss.chunk_tokens,
            on_progress=on_progress,
        )

    def _needle(self, name: str, on_progress: Progress) -> tuple[list[TaskResult], bool]:
        length = self._settings.context_len or self._trained.config.model.context_len
        return evaluate_needle(
            name,
            self._recorder,
            make_scorer=lambda: self._scorer_of(length),
            tokenizer=self._trained.tokenizer,
            context_len=length,
            per_cell=self._settings.limit or ITEMS_PER_CELL,
            seed=self._settings.seed,
            on_progress=on_progress,
        )

    def _held_out(self, task: str) -> dict[str, ShardSet]:
        config, named = self._trained.config, self._settings.bpb_data
        if named is None and config.content != "text":
            raise UserError(
                f"{self._trained.name} was trained on {config.content}; name prepared text for {task} with "
                "--bpb_data=FOLDER"
            )
        folders = [str(named)] if named else [source.path for source in config.data.sources]
        return open_held_out(folders, task=task)

    @functools.cached_property
    def _engines(self) -> list[Engine]:
        """For every task that asks, so that their programs are made once."""
        return make_engines(self._trained, max_batch=self._settings.max_batch, tensor=self._settings.tensor)

    @contextmanager
    def _asking(self, tools: Registry) -> Iterator[Subject]:
        self._free("_scorer", "_params")
        with Assistant(self._engines, self._trained.tokenizer, registry=tools) as assistant:
            yield Subject(
                assistant=assistant,
                tokenizer=self._trained.tokenizer,
                run=self.run,
                step=self._trained.step,
                checkpoint=self.checkpoint,
                config=config_fingerprint(self._trained.config),
            )


def in_order(tasks: Sequence[str], kind_of: Callable[[str], MadeBy]) -> list[str]:
    """Tasks of one kind together, so that each kind's model is on the devices once."""
    return sorted(tasks, key=lambda task: ORDER.index(kind_of(task)))
