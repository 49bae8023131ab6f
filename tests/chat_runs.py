"""Small conversations and preference pairs, prepared, and tiny runs on them."""

import json
import random
from pathlib import Path
from typing import Any

import training_runs

from samosa_jax.data.chat.preparation import ChatOptions, prepare_chat
from samosa_jax.data.holdout import ValidationRule

SFT = {
    "stage": "sft",
    "train.num_steps": 24,
    "train.device_batch_size": 2,
    "optimizer.lr_scale": 0.5,
    "sample.prompts": ["What does Tom like?"],
}


def conversation(seed: int) -> dict[str, Any]:
    """One or two turns, some with a system message, a thought, or a call of the calculator."""
    rng = random.Random(seed)
    sentence = training_runs.make_text(seed).split(". ")[0]
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": "Be brief."})
    messages.append({"role": "user", "content": f"What about {sentence.split()[0]}?"})
    think = f"<think>{sentence} is what I know.</think>" if rng.random() < 0.5 else ""
    if rng.random() < 0.5:
        call = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "2+3"}}}
        messages.append({"role": "assistant", "content": think, "tool_calls": [call]})
        messages.append({"role": "tool", "content": "5"})
        messages.append({"role": "assistant", "content": f"{sentence}, five times."})
    else:
        messages.append({"role": "assistant", "content": f"{think}{sentence}."})
    if rng.random() < 0.5:
        messages.append({"role": "user", "content": "And then?"})
        messages.append({"role": "assistant", "content": f"Then {sentence.lower()} again."})
    return {"messages": messages}


def pair(seed: int) -> dict[str, Any]:
    """A clean answer preferred to one with a label."""
    sentence = training_runs.make_text(seed).split(". ")[0]
    return {
        "prompt": [{"role": "user", "content": f"Say that {sentence}."}],
        "chosen": [{"role": "assistant", "content": f"{sentence}."}],
        "rejected": [{"role": "assistant", "content": f"Answer: <b>{sentence}</b>"}],
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(
    rows: Path, tokenizer: Path, out: Path, *, preferences: bool = False, val_documents: int = 20
) -> Path:
    prepare_chat(
        ChatOptions(
            inputs=(str(rows),),
            tokenizer=tokenizer,
            out=out,
            preferences=preferences,
            validation=ValidationRule(val_documents=val_documents),
        )
    )
    return out


def write_datasets(folder: Path) -> tuple[Path, Path, Path]:
    """Prepared text, conversations and pairs, of one tokenizer."""
    text = training_runs.write_dataset(folder)
    conversations = write_rows(folder / "chat.jsonl", [conversation(seed) for seed in range(200)])
    pairs = write_rows(folder / "pairs.jsonl", [pair(seed) for seed in range(120)])
    tokenizer = folder / "tokenizer"
    chat = prepare(conversations, tokenizer, folder / "chat")
    return text, chat, prepare(pairs, tokenizer, folder / "pairs", preferences=True)
