"""Answers laid out in rows for the policy's loss: several to a row, each seen by itself alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from samosa_jax.data.batch import Batch
from samosa_jax.data.chat.packing import pack
from samosa_jax.data.packing import bounds_of
from samosa_jax.rl.policy_loss import PolicyBatch
from samosa_jax.rl.rollouts import Answered


class PolicyTokens(NamedTuple):
    """A answers, each with its prompt before it, end to end: N tokens."""

    bounds: np.ndarray  # int64 (A + 1,): tokens of answer a are bounds[a]:bounds[a + 1]
    tokens: np.ndarray  # int32 (N,)
    turn_position: np.ndarray  # int32 (N,)
    sampled: np.ndarray  # bool (N,); False: of a prompt, forced, or returned by a tool
    logprobs: np.ndarray  # float32 (N,), the engine's, of sampled tokens

    @classmethod
    def of(cls, answers: Sequence[Answered]) -> "PolicyTokens":
        tokens, turns, sampled, logprobs = [], [], [], []
        for answer in answers:
            given, said = len(answer.prompt), len(answer.tokens)
            before = answer.prompt.turn_position
            tokens.append(np.concatenate([answer.prompt.tokens, answer.tokens]))
            turns.append(np.append(before, before[-1] + 1 + np.arange(said, dtype=np.int32)))
            sampled.append(np.concatenate([np.zeros(given, bool), answer.sampled]))
            logprobs.append(np.concatenate([np.zeros(given, np.float32), answer.logprobs]))
        return cls(
            bounds_of([len(own) for own in tokens]),
            *(np.concatenate(values) for values in (tokens, turns, sampled, logprobs)),
        )

    @property
    def num_sampled(self) -> np.ndarray:
        """int64 (A,): tokens of each answer that the model chose."""
        return np.diff(bounds_of(self.sampled.astype(np.int64))[self.bounds])

    @property
    def answer(self) -> np.ndarray:
        """int64 (N,): which answer each token belongs to."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))


@dataclass(frozen=True)
class Layout:
    """Where answers stand in rows.

    Attributes:
        index: int64 (rows, T), the token that stands there; -1 for padding.
        start: int32 (rows, T), the column where its answer begins.
    """

    index: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, bounds: np.ndarray, chosen: np.ndarray, *, rows: int, context_len: int) -> "Layout":
        """Of the chosen answers, by number, in as few rows as best fit finds, filled up to a multiple.

        Rows number `rows`, or twice, four times, ... as many, as the answers need: few shapes, so that few
        programs are compiled, and no answer is ever left out. An answer of n tokens takes n - 1 places: its
        last token is predicted and not read. It must have at least two, and no more than fit a row.
        """
        sizes = np.diff(bounds)[chosen] - 1
        plan = pack(sizes, capacity=context_len)
        num_rows = rows
        while num_rows < plan.num_rows:
            num_rows *= 2
        index = np.full((num_rows, context_len), -1, np.int64)
        start = np.zeros((num_rows, context_len), np.int32)
        for row in range(plan.num_rows):
            at = 0
            for item in plan.items[plan.bounds[row] : plan.bounds[row + 1]]:
                place = slice(at, at + sizes[item])
                first = int(bounds[chosen[item]])
                index[row, place] = np.arange(first, first + int(sizes[item]))
                start[row, place] = at
                at += sizes[item]
        return cls(index, start)

    @property
    def num_tokens(self) -> int:
        """Places that hold one."""
        return int((self.index >= 0).sum())

    def read(self, values: np.ndarray) -> np.ndarray:
        """Values (N,) of the tokens that are read, as (rows, T); 0 in padding."""
        return self._take(values, self.index)

    def predicted(self, values: np.ndarray) -> np.ndarray:
        """Values (N,) of the tokens that are to be predicted, as (rows, T); 0 in padding."""
        return self._take(values, self.index + 1)

    def collect(self, values: np.ndarray, *, into: np.ndarray) -> None:
        """The reverse of `predicted`: values (rows, T) to the places of their tokens in (N,)."""
        used = self.index >= 0
        into[self.index[used] + 1] = values[used]

    def batch(self, tokens: PolicyTokens, *, weights: np.ndarray) -> Batch:
        """weights (N,): what the prediction of each token counts."""
        column = np.broadcast_to(np.arange(self.index.shape[1], dtype=np.int32), self.index.shape)
        used = self.index >= 0
        return Batch(
            tokens=self.read(tokens.tokens),
            targets=self.predicted(tokens.tokens),
            weights=self.predicted(weights.astype(np.float32)),
            k_lo=self.start,
            k_hi=np.where(used, column + np.int32(1), np.int32(0)),
            position=np.where(used, column - self.start, np.int32(0)),
            turn_position=self.read(tokens.turn_position),
        )

    def _take(self, values: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.where(self.index >= 0, values[index], values.dtype.type(0))


def make_policy_batch(
    tokens: PolicyTokens,
    layout: Layout,
    *,
    weights: np.ndarray,
    advantages: np.ndarray,
    old: np.ndarray | None,
    reference: np.ndarray | None,
) -> PolicyBatch:
    """The rows of one step.

    Args:
        weights, advantages: (A,), of every answer; see `advantages.token_weights`.
        old, reference: float32 (N,), log-probabilities of the tokens; see `PolicyBatch`.
    """
    answer = tokens.answer
    return PolicyBatch(
        batch=layout.batch(tokens, weights=weights[answer] * tokens.sampled),
        advantages=layout.predicted((advantages[answer] * tokens.sampled).astype(np.float32)),
        sampler=layout.predicted(tokens.logprobs),
        old=None if old is None else layout.predicted(old),
        reference=None if reference is None else layout.predicted(reference),
    )
