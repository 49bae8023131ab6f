"""Tasks for the lm-evaluation-harness, one of every kind, and a run of random numbers to try them on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import exported_models
import jax.numpy as jnp
import numpy as np
import training_runs
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from samosa_jax.config import Config
from samosa_jax.data import tokenizer_training

CONTEXT_LEN = 128
OPTIONS = {  # whatever makes positions, turns and neighbours count
    "context_len": CONTEXT_LEN,
    "position": "hirope",
    "window_pattern": "SL",
    "window": 9,
    "smear": True,
    "soft_cap": 15.0,
}
QUESTIONS = [
    {"question": f"{name} sees ", "choices": ["the river", "a house today", "x"], "gold": number % 3}
    for number, name in enumerate(["Anna", "The king", "My friend", "Tom and " * 70, ""])
]
TEXTS = [{"text": training_runs.make_text(seed) * 3} for seed in range(3)] + [{"text": "Anna."}]
PROMPTS = [{"question": text, "answer": "no"} for text in ("Tom likes", "the dog " * 60, "Why?")]
GENERATION = {"until": ["e", "\n\n"], "max_gen_toks": 20}


def write_tasks(folder: Path) -> Path:
    """A folder of tasks, as people write their own: one of every kind, and a group."""
    mean = {"aggregation": "mean", "higher_is_better": True}
    perplexities = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    choice: dict[str, Any] = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": name, **mean} for name in ("acc", "acc_norm")],
    }
    texts: dict[str, Any] = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in perplexities],
    }
    answers: dict[str, Any] = {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": GENERATION,
        "metric_list": [{"metric": "exact_match", **mean}],
    }
    for name, rows, settings in (
        ("choices", QUESTIONS, {**choice, "tag": "unused"}),
        ("more_choices", QUESTIONS[:2], choice),
        ("texts", TEXTS, texts),
        ("answers", PROMPTS, answers),
    ):
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        common = {
            "task": f"my_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
            "test_split": "test",
            "metadata": {"version": 3.0},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**common, **settings}))
    group = {
        "group": "my_group",
        "task": ["my_choices", "my_more_choices"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (folder / "group.yaml").write_text(yaml.safe_dump(group))
    return folder


def write_run(folder: Path) -> Path:
    """A run whose model has random numbers."""
    tokenizer = exported_models.train_tokenizer()
    model = exported_models.model_of(OPTIONS, tokenizer)
    # Greedy decoding shall write text, as libraries disagree about bytes that are none.
    is_text = np.array([len(tokenizer.decode_bytes([i]).strip()) > 1 for i in range(tokenizer.vocab_size)])
    head = np.array(model.params["head"])
    head[: len(is_text)] *= is_text[:, None]
    config = Config(name="small", out_dir=str(folder), model=model.network.config)
    tokenizer_training.write(tokenizer, folder / "small" / "tokenizer")
    training_runs.save_run(folder / "small", config, tokenizer, {**model.params, "head": jnp.asarray(head)})
    return folder / "small"


def evaluate(model: Any, tasks: Path, *names: str, **settings: Any) -> Mapping[str, Any]:
    evaluate_here: Any = simple_evaluate  # a decorator hides its parameters
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = evaluate_here(model=model, tasks=list(names), task_manager=manager, bootstrap_iters=0, **settings)
    assert found is not None
    return found
