"""Whether an exported folder holds the model that was trained: read back by others, and compared.

Tensors have to be equal to the bit, token ids, rendered chats and greedy text equal, logits nearly so: they
are sums in another order.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from samosa_jax.convert.closeness import Agreement, compare_rows
from samosa_jax.convert.expected import logits as logits_of
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.layout import Layout
from samosa_jax.convert.questions import Answers, Questions, load_answers, save_questions
from samosa_jax.errors import UserError


class MismatchError(UserError):
    """What was read back is not what was trained."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared, and how near it came."""

    num_tensors: int
    num_logits: int
    max_logit_error: float  # the largest difference
    relative_logit_error: float  # the same by the largest logit of its row
    num_texts: int
    num_chats: int
    greedy_tokens: int  # that were written alike
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        return [
            f"{self.num_tensors} tensors equal bit for bit",
            str(Agreement(self.num_logits, self.max_logit_error, self.relative_logit_error)),
            f"token ids of {self.num_texts} texts and {self.num_chats} rendered chats equal",
            f"{self.greedy_tokens} greedy tokens equal",
            *self.notes,
        ]


def read_in_fresh_process(reader: str, folder: Path, questions: Questions) -> Answers:
    """The answers of `convert.reading`. Raises MismatchError if the folder cannot be read at all."""
    with tempfile.TemporaryDirectory(prefix="samosa-export-") as work:
        save_questions(questions, Path(work))
        done = subprocess.run(
            [sys.executable, "-m", "samosa_jax.convert.reading", reader, str(folder), work],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise MismatchError(f"{folder} cannot be read by PyTorch: {last}")
        return load_answers(Path(work))


def compare(
    model: ExportedModel,
    layout: Layout,
    questions: Questions,
    *,
    ours: Answers,
    theirs: Answers,
    folder: Path,
    read_tensor: Callable[[Path, str], np.ndarray],
) -> Verification:
    """Raises MismatchError with the first tensor, token or logit that differs, and both values.

    `read_tensor` gives a tensor of the files in the folder by name, to say where it differs.
    """

    def difference(name: str) -> str:
        name = layout.repeated.get(name, name)
        expected = next(tensor for other, tensor in layout.stream(model.params) if other == name)
        return _first_difference(expected, np.asarray(read_tensor(folder, name)).astype(np.float32))

    _compare_tensors(ours.tensors, theirs.tensors, layout=layout, folder=folder, difference=difference)
    show = _shower(model)
    for text, expected, found in zip(questions.texts, ours.ids, theirs.ids, strict=True):
        _compare_tokens(expected, found, where=f"{folder}: the text {text[:40]!r}", show=show)
    for number, (expected, found) in enumerate(zip(ours.chats, theirs.chats, strict=True)):
        where = f"{folder}: chat {number} of the battery"
        if expected.text is not None and found.text is not None and expected.text != found.text:
            at = next(i for i, pair in enumerate(zip_longest(expected.text, found.text)) if len({*pair}) > 1)
            raise MismatchError(
                f"{where} is rendered differently from character {at} on: {found.text[at:][:40]!r} was read "
                f"back, {expected.text[at:][:40]!r} expected"
            )
        _compare_tokens(expected.ids, found.ids, where=where, show=show)
    agreement = _compare_logits(questions, ours.logits, theirs.logits, folder=folder, show=show)
    equal, notes = _compare_continuations(
        model,
        questions,
        ours.continuations,
        theirs.continuations,
        error=agreement.max_error,
        folder=folder,
        show=show,
    )
    return Verification(
        num_tensors=len(theirs.tensors),
        num_logits=agreement.num_logits,
        max_logit_error=agreement.max_error,
        relative_logit_error=agreement.relative_error,
        num_texts=sum(found is not None for found in theirs.ids),
        num_chats=sum(found.text is not None or found.ids is not None for found in theirs.chats),
        greedy_tokens=equal,
        notes=tuple(notes),
    )


def _shower(model: ExportedModel) -> Callable[[int | None], str]:
    def show(token: int | None) -> str:
        if token is None:
            return "the end"
        if not 0 <= token < model.tokenizer.vocab_size:
            return f"token {token}"
        return f"token {token} ({model.tokenizer.decode([token], show_specials=True)!r})"

    return show


def _compare_tensors(
    expected: dict[str, str],
    found: dict[str, str],
    *,
    layout: Layout,
    folder: Path,
    difference: Callable[[str], str],
) -> None:
    for name in expected:
        if name not in found:
            if name in layout.repeated:
                continue
            raise MismatchError(f"{folder}: tensor {name} was not read back, which the model has")
        if found[name] != expected[name]:
            raise MismatchError(f"{folder}: tensor {name} is not the one of the checkpoint{difference(name)}")
    if unknown := sorted(found.keys() - expected.keys()):
        raise MismatchError(f"{folder}: tensor {unknown[0]} was read back, which the model does not have")


def _first_difference(expected: np.ndarray, found: np.ndarray) -> str:
    """Where a tensor of the file itself differs, with both values."""
    if found.shape != expected.shape:
        return f": its shape is {found.shape}, expected {expected.shape}"
    differs = found.view(np.uint32) != expected.view(np.uint32)
    if not differs.any():
        return ", though the file holds it: another tensor was loaded in its place"
    at = tuple(int(i) for i in np.argwhere(differs)[0])
    return (
        f": at {list(at)} there is {found[at]:.9g}, expected {expected[at]:.9g} ({int(differs.sum()):,} of "
        f"{differs.size:,} numbers differ)"
    )


def _compare_tokens(
    expected: Sequence[int] | None,
    found: Sequence[int] | None,
    *,
    where: str,
    show: Callable[[int | None], str],
) -> None:
    if expected is None or found is None:
        return
    for position, (ours, theirs) in enumerate(zip_longest(expected, found)):
        if ours != theirs:
            raise MismatchError(
                f"{where} has other token ids from position {position} on: {show(theirs)} was read back, "
                f"{show(ours)} expected"
            )


def _compare_logits(
    questions: Questions,
    expected: np.ndarray,
    found: np.ndarray,
    *,
    folder: Path,
    show: Callable[[int | None], str],
) -> Agreement:
    if found.shape != expected.shape:
        raise MismatchError(f"{folder}: the logits are {found.shape}, expected {expected.shape}")
    nearness = compare_rows(expected, found)
    if isinstance(nearness, Agreement):
        return nearness
    before = show(int(questions.rows[nearness.row, nearness.position]))
    raise MismatchError(
        f"{folder}: the logit of {show(nearness.token)} after {before} at position {nearness.position} of "
        f"row {nearness.row} is {nearness.found:.6g}, expected {nearness.expected:.6g}; at most "
        f"{nearness.allowed:.1e} may lie between"
    )


def _compare_continuations(
    model: ExportedModel,
    questions: Questions,
    expected: Sequence[list[int]],
    found: Sequence[list[int]],
    *,
    error: float,
    folder: Path,
    show: Callable[[int | None], str],
) -> tuple[int, list[str]]:
    """How many tokens are equal. Two likeliest tokens nearer than rounding are a tie, and the end of it."""
    equal, notes = 0, []
    for number, (prompt, ours, theirs) in enumerate(zip(questions.prompts, expected, found, strict=True)):
        for position, (our_token, their_token) in enumerate(zip_longest(ours, theirs)):
            if our_token == their_token:
                equal += 1
                continue
            gap = float("inf")
            if our_token is not None and their_token is not None:
                after = logits_of(model, np.array([[*prompt, *ours[:position]]], np.int32))[0, -1]
                gap = abs(float(after[our_token] - after[their_token]))
            if gap > 2 * error:
                raise MismatchError(
                    f"{folder}: greedy text of prompt {number} differs at token {position}: "
                    f"{show(their_token)} was read back, {show(our_token)} expected"
                )
            notes.append(
                f"greedy text {number} is equal for {position} tokens, where two tokens tie ({gap:.1e} apart)"
            )
            break
    return equal, notes
