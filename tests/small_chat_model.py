"""A model that has learnt five answers by heart, in conversations of several turns."""

import itertools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chat_runs
import training_runs

NAMES = ("Anna", "Tom", "king", "teacher", "friend", "dog", "man", "letter")
STORY = " ".join(f"Tom paints the river, and Anna finds number {number}." for number in range(14))
CALL = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "2+3"}}}
ANSWERS: Mapping[str, list[dict[str, Any]]] = {
    "Who are you?": [{"role": "assistant", "content": "I am a **small** model.\n\n- one\n- two"}],
    "What is 2+3?": [
        {"role": "assistant", "content": "<think>I add them.</think>", "tool_calls": [CALL]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "It is 5."},
    ],
    "Show colours.": [{"role": "assistant", "content": "\x1b[31mred\x1b[2J\x07 done"}],
    "Say hello in Chinese.": [{"role": "assistant", "content": "你好世界"}],
    "Tell a story.": [{"role": "assistant", "content": STORY}],
}
MODEL = {
    "stage": "sft",
    "name": "small",
    "model.context_len": 512,
    "model.model_dim": 64,
    "model.mlp_dim": 256,
    "train.num_steps": 120,
    "train.batch_tokens": 1024,
    "train.device_batch_size": 2,
    "loss.chunk_tokens": 1024,
    "eval.max_tokens": 64,
}


def question(text: str) -> str:
    """As the model was trained to be asked: each question with a name before it."""
    return f"Tom, {text}"


def train(folder: Path) -> Path:
    """Trains the model, in a process of its own; returns the folder of its run's folder, `small`."""
    training_runs.write_dataset(folder)
    draw = random.Random(0)
    rows = []
    for name in NAMES * 8:
        asked = draw.choices(list(ANSWERS), weights=[2, 3, 2, 2, 2], k=draw.randint(1, 5))
        turns = [[{"role": "user", "content": f"{name}, {text}"}, *ANSWERS[text]] for text in asked]
        rows.append({"messages": list(itertools.chain.from_iterable(turns))})
    rows_file = chat_runs.write_rows(folder / "chat.jsonl", rows)
    chat_runs.prepare(rows_file, folder / "tokenizer", folder / "chat", val_documents=2)
    done = training_runs.run(training_runs.flags(folder / "chat", folder / "runs", MODEL))
    assert done.returncode == 0, done.stderr
    return folder / "runs"
