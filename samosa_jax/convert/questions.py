"""What a model is asked to see that its export is the same model, and what it answers.

Both sides answer the same questions: the network here, and a fresh process that has nothing but the exported
folder (`convert.reading`). This module imports neither JAX nor PyTorch.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Everything that is asked."""

    rows: np.ndarray  # int32 (R, T): tokens whose logits are asked for
    prompts: list[list[int]]  # tokens that are continued greedily
    num_new: list[int]  # tokens to write after each of them, unless the answer ends before
    texts: list[str]
    chats: list[dict[str, Any]]  # arguments of apply_chat_template: messages, tools, add_generation_prompt


@dataclass(frozen=True)
class RenderedChat:
    """None: a reader that does not have it."""

    text: str | None
    ids: list[int] | None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """An answer for every question, and a digest of every tensor; None where a reader has no such thing."""

    tensors: dict[str, str]  # SHA-256 of the numbers in float32, by name
    logits: np.ndarray  # float32 (R, T, vocab_size)
    continuations: list[list[int]]  # tokens after each prompt, up to the end of the answer
    ids: list[list[int] | None]  # of the texts
    chats: list[RenderedChat]


def tensor_digest(numbers: np.ndarray) -> str:
    """SHA-256 of a tensor's numbers in float32, which tells one bit in any of them."""
    return hashlib.sha256(np.ascontiguousarray(numbers, np.float32).data).hexdigest()


def save_questions(questions: Questions, folder: Path) -> None:
    """Writes them into a folder, for `load_questions`."""
    _save(folder, "questions", {"rows": questions.rows}, asdict(questions))


def load_questions(folder: Path) -> Questions:
    return Questions(**_load(folder, "questions", ("rows",)))


def save_answers(answers: Answers, folder: Path) -> None:
    """Writes them into a folder, for `load_answers`."""
    _save(folder, "answers", {"logits": answers.logits}, asdict(answers))


def load_answers(folder: Path) -> Answers:
    values = _load(folder, "answers", ("logits",))
    chats = [RenderedChat(**chat) for chat in values.pop("chats")]
    return Answers(**values, chats=chats)


def _save(folder: Path, name: str, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array, allow_pickle=False)
    others = {key: value for key, value in values.items() if key not in arrays}
    # Texts may hold lone surrogates, which only the escapes of ASCII can carry.
    (folder / f"{name}.json").write_text(json.dumps(others, ensure_ascii=True), encoding="ascii")


def _load(folder: Path, name: str, arrays: tuple[str, ...]) -> dict[str, Any]:
    values = json.loads((folder / f"{name}.json").read_text(encoding="ascii"))
    return values | {key: np.load(folder / f"{key}.npy", allow_pickle=False) for key in arrays}
