"""What is asked of the engine and what comes back, token by token. Knows neither text nor JAX."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from samosa_jax.data.chat.template import Rendered

MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**63 - 1

State = Literal["waiting", "running", "paused", "finished"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. Raises ValueError that names the field, what was given and what is possible.

    The order is that of most engines: penalties, temperature, then top_k, top_p and min_p, each on what the
    one before left.
    """

    temperature: float = 1.0  # 0 takes the likeliest
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0  # Holtzman et al. 2020, arXiv:1904.09751
    min_p: float = 0.0  # of the likeliest token's probability; Nguyen et al. 2024, arXiv:2407.01082
    repetition_penalty: float = (
        1.0  # of what stands in prompt or answer; Keskar et al. 2019, arXiv:1909.05858
    )
    presence_penalty: float = 0.0  # taken from logits of what stands in the answer
    frequency_penalty: float = 0.0  # likewise, once for every time
    seed: int | None = None  # None: another one for every request
    max_tokens: int | None = None  # None: as many as the context holds
    top_logprobs: int = 0  # likeliest tokens to report beside the one chosen

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0, 100)
        _check_range("top_k", self.top_k, 0, math.inf)
        _check_range("top_p", self.top_p, 0, 1, open_below=True)
        _check_range("min_p", self.min_p, 0, 1)
        _check_range("repetition_penalty", self.repetition_penalty, 0, 100, open_below=True)
        _check_range("presence_penalty", self.presence_penalty, -100, 100)
        _check_range("frequency_penalty", self.frequency_penalty, -100, 100)
        _check_range("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if self.seed is not None:
            _check_range("seed", self.seed, -MAX_SEED, MAX_SEED)
        if self.max_tokens is not None:
            _check_range("max_tokens", self.max_tokens, 1, math.inf)

    @property
    def filters(self) -> bool:
        """Whether some tokens are left out for being unlikely."""
        return (self.top_k, self.top_p, self.min_p) != (0, 1.0, 0.0)

    @property
    def needs_tables(self) -> bool:
        """Whether the whole vocabulary has to be gone through, for penalties or to report it."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0) or self.top_logprobs > 0


def _check_range(name: str, value: float, low: float, high: float, *, open_below: bool = False) -> None:
    inside = low < value <= high if open_below else low <= value <= high
    if inside and not math.isinf(value):
        return
    above = f"above {low:g}" if open_below else f"at least {low:g}"
    below = "" if high == math.inf else f" and at most {high:g}"
    raise ValueError(f"{name} is {value}; it must be {above}{below}")


@dataclass(frozen=True)
class Prompt:
    """What stands before the answer. Both (L,), L at least 1."""

    tokens: np.ndarray  # int32
    begins_turn: np.ndarray  # bool; the answer belongs to the last turn that begins

    @classmethod
    def of(cls, rendered: Rendered) -> "Prompt":
        return cls(rendered.tokens, rendered.begins_turn)

    @classmethod
    def of_tokens(cls, tokens: Sequence[int]) -> "Prompt":
        """Text without turns."""
        ids = np.asarray(tokens, np.int32)
        return cls(ids, np.arange(len(ids)) == 0)

    @functools.cached_property
    def turn_position(self) -> np.ndarray:
        """int32 (L,): how far into its turn each token stands."""
        position = np.arange(len(self), dtype=np.int32)
        return position - np.maximum.accumulate(np.where(self.begins_turn, position, 0))

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(eq=False)
class Generation:
    """One answer in the making. The engine alone changes it, in `Engine.step`, `resume` and `cancel`."""

    prompt: Prompt
    sampling: Sampling
    end_ids: frozenset[int]  # it is finished when one of these is sampled
    pause_ids: frozenset[int]  # it waits for `Engine.resume` when one of these is sampled
    sample: int = 0  # its number among those of the same prompt
    state: State = "waiting"
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0  # of the prompt that did not have to be read again
    # One entry for every token after the prompt:
    tokens: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)  # False: forced by the caller
    logprobs: list[float] = field(default_factory=list)  # natural, before temperature and filters; forced: 0
    top_logprobs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)  # (token, logprob)
