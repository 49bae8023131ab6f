"""Reinforcement learning with groups of answers: rewards, advantages and the policy's loss."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from samosa_jax.config.checks import require, require_at_least

PASS_KS = (1, 2, 4, 8, 16, 32, 64)  # of the pass@k that is measured while training


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What each part of a reward counts; 0 leaves a part out. `samosa_jax.rl.rewards` says what they are."""

    task: float = 1.0  # the task's own score
    exact_answer: float = 0.0  # the final number or text is the one wanted
    code: float = 0.0  # the program passes its tests, in the sandbox
    format: float = 0.1  # thought closed, calls readable and no more than due, a clean end
    tool_choice: float = 0.0  # the tools that were due and no other
    answer_contains: float = 0.0  # share of the phrases wanted
    citation: float = 0.0  # names a page that the search has found
    length: float = 0.0  # short enough
    length_free: int = 128  # tokens that cost nothing of the part `length`
    length_limit: int = 256  # tokens from which on it is 0

    def __post_init__(self) -> None:
        weights = self.weights()
        for name, weight in weights.items():
            require(
                0 <= weight < math.inf,
                f"rl.reward.{name} is {weight}; it must be finite and not negative",
            )
        require(any(weights.values()), "rl.reward has no weight above 0; set one, as in --rl.reward.task=1")
        require_at_least(0, self, "rl.reward", "length_free")
        require(
            self.length_free < self.length_limit,
            f"rl.reward.length_free is {self.length_free}; it must be below rl.reward.length_limit "
            f"({self.length_limit})",
        )

    def weights(self) -> dict[str, float]:
        """By the name of the part."""
        names = (spec.name for spec in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name not in ("length_free", "length_limit")}


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Which levels of graded tasks are asked. `samosa_jax.rl.curriculum` says how levels open and close."""

    by: Literal["none", "pass_rate"] = "none"  # none: all levels of a task, each as often
    low: float = 0.2  # levels passed less often are too hard
    high: float = 0.8  # those passed more often teach little
    memory: int = 64  # prompts that a level's pass rate remembers
    min_prompts: int = 32  # of a level before the next one opens, or it closes
    review: float = 0.1  # share of prompts from open levels whatever their pass rate

    def __post_init__(self) -> None:
        require(
            0 <= self.low < self.high <= 1,
            f"rl.curriculum.low is {self.low} and rl.curriculum.high {self.high}; they are pass rates, the "
            "lower one first",
        )
        require_at_least(1, self, "rl.curriculum", "memory min_prompts")
        require(
            0 <= self.review < 1,
            f"rl.curriculum.review is {self.review}; it is a share of the prompts, below 1",
        )


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """pass@k on held-out prompts of rl.tasks, every eval.every_steps and at both ends of the run."""

    prompts: int = 128  # of every task; 0: none
    samples: int = 1  # answers to each
    temperature: float = 0.0  # they are drawn at; 0: the likeliest tokens
    ks: tuple[int, ...] = (1,)  # of pass@k, at most `samples`

    def __post_init__(self) -> None:
        require_at_least(0, self, "rl.held_out", "prompts")
        require_at_least(1, self, "rl.held_out", "samples")
        require(
            0 <= self.temperature < math.inf,
            f"rl.held_out.temperature is {self.temperature}; it must be finite and not negative",
        )
        require(
            self.samples == 1 or self.temperature > 0,
            f"rl.held_out.samples is {self.samples} at temperature 0, where all answers are alike; raise "
            "rl.held_out.temperature",
        )
        require(
            bool(self.ks) and set(self.ks) <= set(PASS_KS) and max(self.ks) <= self.samples,
            f"rl.held_out.ks is {list(self.ks)} with {self.samples} samples; give some of "
            f"{', '.join(map(str, PASS_KS))}, none above rl.held_out.samples",
        )


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task whose prompts are answered; `samosa_jax.rl.prompts` says which there are."""

    name: str
    weight: float = 1.0  # share of prompts among the tasks
    levels: tuple[int, ...] = ()  # of a graded task, the easiest first; empty: all it has

    def __post_init__(self) -> None:
        require(bool(self.name), "rl.tasks has an entry without a name; name a task, as in arithmetic")
        require(
            0 < self.weight < math.inf,
            f"rl.tasks weight of {self.name} is {self.weight}; it must be positive and finite",
        )
        require(
            list(self.levels) == sorted(set(self.levels)),
            f"rl.tasks levels of {self.name} are {', '.join(map(str, self.levels))}; give them in rising "
            "order, each once",
        )


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """Group-relative policy optimisation.

    As published, beside `samples`:
    - GRPO (arXiv:2402.03300): advantage std, normalization sequence, clip 0.2 and 0.2, kl_coef 0.04;
    - Dr.GRPO (arXiv:2503.20783): advantage centred, normalization constant, clip 0.2 and 0.2;
    - DAPO (arXiv:2503.14476): advantage std, normalization group, clip 0.2 and 0.28, truncated soft_penalty;
    - RLOO (arXiv:2402.14740): advantage leave_one_out, normalization constant, no clip.
    """

    tasks: tuple[TaskConfig, ...] = ()  # where prompts come from
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    data_dir: str = ""  # files of tasks that have some, such as gsm8k/train.jsonl; empty: the hub's
    prompts: int = 16  # of every rollout
    samples: int = 16  # R, answers to every prompt
    minibatches: int = 1  # optimizer steps that share the prompts of a rollout among them
    epochs: int = 1  # times that a rollout is trained on; it lasts for epochs x minibatches steps
    max_tokens: int = 256  # of an answer
    temperature: float = 1.0  # answers are drawn at; log-probabilities are always those at 1
    thinks: bool = False  # answers are made to begin with a thought
    tools: tuple[str, ...] = ("calculator",)  # that run in answers: calculator, web_search, python; none
    search_in: str = ""  # documents that web_search finds; it needs some
    max_batch: int = 64  # answers written at the same time
    show_every_steps: int = 10  # between two tables of answers; 0: none
    preflight_prompts: int = 32  # answered before the first step, to see whether there is a signal; 0: none
    ignore_preflight: bool = False  # begin even where there is none
    reward: RewardConfig = field(default_factory=RewardConfig)
    advantage: Literal["centred", "std", "leave_one_out"] = "centred"
    # What weighs the same: every answer, every token of a group, every token of the step, or every token
    # with answers divided by max_tokens.
    normalization: Literal["sequence", "group", "batch", "constant"] = "group"
    truncated: Literal["keep", "mask", "zero", "soft_penalty"] = "keep"  # answers cut at max_tokens
    soft_penalty_tokens: int = 64  # before max_tokens, over which the penalty grows from 0 to 1
    clip_low: float | None = 0.2  # ratios count down to 1 - clip_low; null, with clip_high: no clip
    clip_high: float | None = 0.2  # and up to 1 + clip_high
    kl_coef: float = 0.0  # how dear it is to leave the reference, the model that the run begins with
    reference: Literal["precomputed", "frozen"] = "precomputed"  # once for a rollout, or in every minibatch
    # What ratios are to: the engine's log-probabilities, a first pass of the trainer, or the policy as it
    # is, which makes every ratio 1.
    old_log_probs: Literal["sampler", "first_pass", "current"] = "sampler"

    def __post_init__(self) -> None:
        require(
            self.samples >= 2,
            f"rl.samples is {self.samples}; answers are compared with each other, which takes at least 2",
        )
        require_at_least(1, self, "rl", "max_tokens prompts minibatches epochs max_batch")
        require_at_least(0, self, "rl", "show_every_steps preflight_prompts")
        names = [task.name for task in self.tasks]
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f"rl.tasks names {twice} more than once; give it one entry and one weight")
        require(
            self.prompts % self.minibatches == 0,
            f"rl.prompts is {self.prompts}, not a multiple of rl.minibatches ({self.minibatches}); each "
            "minibatch takes the answers of as many prompts",
        )
        require(
            0 < self.temperature < math.inf,
            f"rl.temperature is {self.temperature}; it must be positive: answers have to differ",
        )
        require(
            bool(self.search_in) == ("web_search" in self.tools),
            f"rl.search_in is {self.search_in!r} and rl.tools is {', '.join(self.tools)}; web_search and the "
            "documents it finds are given together: a search service would answer differently every time",
        )
        require(
            self.truncated != "soft_penalty" or 0 < self.soft_penalty_tokens <= self.max_tokens,
            f"rl.soft_penalty_tokens is {self.soft_penalty_tokens}; it must be at least 1 and at most "
            f"rl.max_tokens ({self.max_tokens})",
        )
        low, high = self.clip_low, self.clip_high
        require(
            (low is None) == (high is None),
            f"rl.clip_low is {low} and rl.clip_high {high}; give both, or null for both",
        )
        require(
            low is None or 0 < low < 1, f"rl.clip_low is {low}; it must lie between 0 and 1: 0.2 is usual"
        )
        require(
            high is None or 0 < high < math.inf, f"rl.clip_high is {high}; it must be positive: 0.2 is usual"
        )
        require(
            0 <= self.kl_coef < math.inf,
            f"rl.kl_coef is {self.kl_coef}; it must be finite and not negative",
        )

    @property
    def steps_per_rollout(self) -> int:
        return self.epochs * self.minibatches
