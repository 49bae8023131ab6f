"""Evaluation by what a model writes: questions asked many at once, answers scored, pass@k of each task.

pass@k is the chance that one of k answers is right. Of n answers, c of them right, it is estimated without
bias (Chen et al. 2021, https://arxiv.org/abs/2107.03374) as

    1 - (n - c choose k) / (n choose k)
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from samosa_jax.config import Config, to_dict
from samosa_jax.data.chat.conversation import to_json
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.asking import Answer, Question, ask
from samosa_jax.evals.generation_tasks import GenerationTask, Item
from samosa_jax.evals.results import TaskResult, append_result, mean_interval, write_items
from samosa_jax.evals.unfinished import Unfinished
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.request import Sampling


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The checkpoint that is evaluated, and whom to ask.

    Attributes:
        run: folder of the run that results are added to.
        checkpoint: SHA-256 of the checkpoint's seal.
        config: fingerprint of the run's configuration.
    """

    assistant: Assistant
    tokenizer: Tokenizer
    run: Path
    step: int
    checkpoint: str
    config: str = ""


def config_fingerprint(config: Config) -> str:
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How questions are asked. Raises UserError for numbers that do not go together.

    Attributes:
        samples: answers to every question.
        ks: of pass@k.
        temperature: 0 takes the likeliest token: one answer is then as good as many.
        max_tokens: of an answer; 0: as many as the task says.
        thinks: answers are made to begin with a thought.
    """

    samples: int = 1
    ks: tuple[int, ...] = (1,)
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 0
    seed: int = 0
    thinks: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"samples is {self.samples}; ask for at least one answer to a question")
        if not self.ks or min(self.ks) < 1 or max(self.ks) > self.samples:
            raise UserError(
                f"ks is {list(self.ks)} with {self.samples} samples; pass@k needs k from 1 to as many"
            )
        if self.samples > 1 and self.temperature == 0:
            raise UserError(
                f"samples is {self.samples} at temperature 0, where all answers are alike; raise temperature"
            )


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that k of the answers, drawn without replacement, hold a right one.

    Raises ValueError unless 0 <= num_right <= num_samples and 1 <= k <= num_samples.
    """
    if not 0 <= num_right <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_right} right among {num_samples} means nothing")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def evaluate_generation(
    task: GenerationTask, items: Sequence[Item], subject: Subject, settings: GenerationSettings
) -> list[TaskResult]:
    """Asks, scores, and adds a result for every k to the run.

    An evaluation that was stopped goes on with the answers it has. Raises UserError without items.
    """
    if not items:
        raise UserError(f"{task.name} has no question; raise --limit, or look at the task's file")
    started = time.perf_counter()
    described = {**described_settings(task, items, settings), "config": subject.config}
    key = {**described, "checkpoint": subject.checkpoint, "definition": task.definition}
    journal = Unfinished(subject.run, step=subject.step, task=task.name, settings=key)
    is_finished = False
    try:
        num_kept = len(journal.answers)
        _collect(task, items, subject, settings, journal)
        results = _results(task, items, subject, settings, journal.answers, described, started, num_kept)
        is_finished = True
    finally:
        journal.close(is_finished=is_finished)
    return results


def described_settings(
    task: GenerationTask, items: Sequence[Item], settings: GenerationSettings
) -> dict[str, Any]:
    """What decides a task's numbers for a given model, as its results keep it."""
    return {
        "samples": settings.samples,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens or task.max_tokens,
        "seed": settings.seed,
        "thinks": settings.thinks,
        "questions": fingerprint_of(items),
    }


def fingerprint_of(items: Sequence[Item]) -> str:
    """Of the questions and what is expected, so that numbers of other questions are told apart."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.name, to_json(item.example.prompt), item.example.answer]).encode())
    return digest.hexdigest()[:16]


def _collect(
    task: GenerationTask,
    items: Sequence[Item],
    subject: Subject,
    settings: GenerationSettings,
    journal: Unfinished,
) -> None:
    """All answers that are missing, scored as they come."""
    by_name = {item.name: item.example for item in items}
    sampling = Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens or task.max_tokens,
    )
    questions = [
        Question(item=item.name, conversation=item.example.prompt, thinks=settings.thinks) for item in items
    ]
    asked = ask(
        subject.assistant,
        subject.tokenizer,
        questions,
        sampling,
        task=task.name,
        seed=settings.seed,
        samples=settings.samples,
        skip=frozenset(journal.answers),
    )
    with closing(asked):
        for answer in asked:
            score = task.score(by_name[answer.item], answer.text, answer.messages) if answer.messages else 0.0
            journal.add(record_of(answer, score))


def record_of(answer: Answer, score: float) -> dict[str, Any]:
    """What is kept of an answer."""
    return {
        "item": answer.item,
        "sample": answer.sample,
        "score": score,
        "answer": answer.text,
        "written": answer.written,
        "reason": answer.reason,
        "tokens": answer.num_tokens,
    }


def _results(
    task: GenerationTask,
    items: Sequence[Item],
    subject: Subject,
    settings: GenerationSettings,
    answers: Mapping[tuple[str, int], Mapping[str, Any]],
    described: Mapping[str, Any],
    started: float,
    num_kept: int,
) -> list[TaskResult]:
    counts = {
        "answers": len(answers),
        "truncated": sum(answer["reason"] == "length" for answer in answers.values()),
        "no_room": sum(answer["reason"] == "no room" for answer in answers.values()),
        "tokens": sum(answer["tokens"] for answer in answers.values()),
        "kept_from_before": num_kept,
    }
    of_items = {item.name: [answers[item.name, n] for n in range(settings.samples)] for item in items}
    results = []
    for k in settings.ks:
        metric = f"pass@{k}"
        scores = [_pass_of(own, k) for own in of_items.values()]
        lines = [
            {
                "item": item.name,
                "score": score,
                "prompt": to_json(item.example.prompt)["messages"],
                "expected": item.example.answer,
                "answers": [
                    {name: value for name, value in answer.items() if name != "item"}
                    for answer in of_items[item.name]
                ],
            }
            for item, score in zip(items, scores, strict=True)
        ]
        # The answers stand once, with the first k.
        if results:
            lines = [{"item": line["item"], "score": line["score"]} for line in lines]
        name = task.name if not results else f"{task.name}_{metric}"
        path = write_items(subject.run, step=subject.step, task=name, items=lines)
        interval = mean_interval(scores)
        result = TaskResult(
            task=task.name,
            metric=metric,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            num_items=len(items),
            higher_is_better=True,
            settings=described,
            definition=task.definition,
            step=subject.step,
            checkpoint=subject.checkpoint,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - started, 3),
            counts=counts,
            items=path,
        )
        append_result(subject.run, result)
        results.append(result)
    return results


def _pass_of(answers: Sequence[Mapping[str, Any]], k: int) -> float:
    """Scores are 0 or 1; a task that gives parts of a point counts it as right from a half on."""
    return pass_at_k(len(answers), sum(answer["score"] >= 0.5 for answer in answers), k)
