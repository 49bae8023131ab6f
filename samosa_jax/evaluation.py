"""Runs tasks of every kind on one checkpoint, and passes over those whose result is already there."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

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
from samosa_jax.evals.likelihood import Scorer
from samosa_jax.evals.likelihood_tasks import Progress, open_questions, run_task
from samosa_jax.evals.probe_suite import PROBES, ProbeSettings, run_suite
from samosa_jax.evals.probes import load_suite
from samosa_jax.evals.results import (
    Interval,
    TaskResult,
    append_result,
    mean_interval,
    read_items,
    read_results,
    write_items,
)
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.tasks.identity import load_persona
from samosa_jax.trained import Trained, make_engines
from samosa_jax.training.checkpoint import seal_digest
from samosa_jax.training.parents import run_of

MadeBy = Literal["likelihood", "generation", "probes", "bpb"]
ORDER: Sequence[MadeBy] = ("bpb", "likelihood", "generation", "probes")  # what shares a model, together


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How tasks are run.

    Attributes:
        data_dir: local files; None: the hub's.
        limit: questions of each task; None: all.
        seed: of the examples shown before questions.
        again: results that are already there do not count.
        bpb_data: a prepared folder; None: what the run was trained on.
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


class Evaluation:
    """The results of one checkpoint, as far as they are there, and what adds to them."""

    def __init__(self, trained: Trained, catalog: Catalog, settings: EvaluationSettings) -> None:
        self.run = run_of(trained.folder)
        self.checkpoint = seal_digest(trained.folder)
        self.step = trained.step
        self._trained = trained
        self._catalog = catalog
        self._settings = settings
        self._before = [one for one in read_results(self.run) if one.checkpoint == self.checkpoint]

    def kind_of(self, task: str) -> MadeBy:
        if task in self._catalog.likelihood:
            return "likelihood"
        if task in GENERATION_TASKS:
            return "generation"
        return "probes" if task == PROBES else "bpb"

    def evaluate(self, task: str, *, on_progress: Progress) -> tuple[list[TaskResult], bool]:
        """The results of one task, and whether they were there before; new ones are added to the run at once.

        Raises UserError where its data is missing or bad, or its code must not run here.
        """
        run_kind = {
            "likelihood": self._likelihood,
            "generation": self._generation,
            "probes": self._probes,
            "bpb": self._bits_per_byte,
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
        return self._add(
            name, mean.metric, mean.interval, settings, AGGREGATE_DEFINITION, num_items, started, counts
        )

    @functools.cached_property
    def _scorer(self) -> Scorer:
        mesh = self._mesh
        return Scorer(
            self._trained.network, self._params, mesh=mesh, token_bytes=self._trained.tokenizer.token_bytes
        )

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return make_mesh(MeshConfig(tensor=self._settings.tensor), devices=self._trained.devices)

    @functools.cached_property
    def _params(self) -> Params:
        return self._trained.params_on(self._mesh)

    def _free(self) -> None:
        """Engines have parameters of their own."""
        for name in ("_scorer", "_params"):
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
            self._find(name, metric, own, definition) for metric, own in zip(metrics, wanted, strict=True)
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
                self._add(name, metric, interval, own, definition, len(items), started, counts, items=path)
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
        kept = [self._find(name, f"pass@{k}", wanted, task.definition) for k in settings.ks]
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
            found = [self._find(one, metric, wanted, probe_suite.DEFINITION) for one in names]
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
        folders = (
            [str(self._settings.bpb_data)]
            if self._settings.bpb_data
            else [source.path for source in config.data.sources]
        )
        if self._settings.bpb_data is None and config.content != "text":
            raise UserError(
                f"{self._trained.name} was trained on {config.content}; name prepared text for {name} with "
                "--bpb_data=FOLDER"
            )
        gone = next((folder for folder in folders if not Path(folder).is_dir()), None)
        if gone is not None:
            raise UserError(
                f"{gone}, the text for {name}, is not there; name prepared text with --bpb_data=FOLDER"
            )
        shards = {folder: ShardSet.open(folder, split="val") for folder in folders}
        shards = {folder: one for folder, one in shards.items() if one.num_tokens >= 2}
        if not shards:
            raise UserError(
                f"{', '.join(folders)} hold nothing out for validation; name other text with --bpb_data"
            )
        settings = {
            "data": {folder: one.fingerprint[:16] for folder, one in shards.items()},
            "max_tokens": config.eval.max_tokens,
            "context_len": config.model.context_len,
            "document_masking": config.data.document_masking,
        }
        kept = self._find(name, name, settings, bits_per_byte.DEFINITION)
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
        result = self._add(
            *(name, name, interval, settings, bits_per_byte.DEFINITION, len(items), started, {}),
            items=path,
            higher_is_better=False,
        )
        return [result], False

    @contextmanager
    def _asking(self, tools: Registry) -> Iterator[Subject]:
        self._free()
        engines = make_engines(
            self._trained, max_batch=self._settings.max_batch, tensor=self._settings.tensor
        )
        with Assistant(engines, self._trained.tokenizer, registry=tools) as assistant:
            yield Subject(
                assistant=assistant,
                tokenizer=self._trained.tokenizer,
                run=self.run,
                step=self._trained.step,
                checkpoint=self.checkpoint,
                config=config_fingerprint(self._trained.config),
            )

    def _find(
        self, task: str, metric: str, settings: Mapping[str, Any], definition: int
    ) -> TaskResult | None:
        """The newest result that evaluating again would give, whose items are there."""
        if self._settings.again:
            return None
        for one in reversed(self._before):
            if (one.task, one.metric, one.definition) == (task, metric, definition) and all(
                name in one.settings and one.settings[name] == value for name, value in settings.items()
            ):
                return one if (self.run / one.items).is_file() else None
        return None

    def _add(
        self,
        task: str,
        metric: str,
        interval: Interval,
        settings: Mapping[str, Any],
        definition: int,
        num_items: int,
        started: float,
        counts: Mapping[str, int],
        *,
        items: str = "",
        higher_is_better: bool = True,
    ) -> TaskResult:
        result = TaskResult(
            task=task,
            metric=metric,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            num_items=num_items,
            higher_is_better=higher_is_better,
            settings=settings,
            definition=definition,
            step=self._trained.step,
            checkpoint=self.checkpoint,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - started, 3),
            counts=counts,
            items=items,
        )
        append_result(self.run, result)
        return result


def in_order(tasks: Sequence[str], kind_of: Callable[[str], MadeBy]) -> list[str]:
    """Tasks of one kind together, so that each kind's model is on the devices once."""
    return sorted(tasks, key=lambda task: ORDER.index(kind_of(task)))
