"""Before the first step: whether the answers of the model, as it is, hold anything to learn from.

GRPO learns from differences between answers to one prompt. Where none is ever right, or all earn the same, or
none comes to an end, a run would go on for hours at reward 0.
"""

from dataclasses import dataclass

import numpy as np

from samosa_jax.evals.generation import pass_at_k
from samosa_jax.rl.advantages import group_advantages
from samosa_jax.rl.judging import Judged

OVERRULE = "--rl.ignore_preflight=true"


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a first look at train prompts shows; shares are 0..1."""

    num_prompts: int
    num_samples: int  # to each
    pass_at_1: float
    pass_at_k: float  # k is num_samples: the share of prompts with any right answer
    mean_reward: float
    zero_variance_frac: float  # prompts whose answers all earn the same
    clipped_frac: float
    ended_frac: float  # answers that end with the token that ends one
    mean_length: float  # tokens

    @classmethod
    def of(cls, judged: Judged) -> "Preflight":
        num_prompts, num_samples = judged.totals.shape
        right = judged.right.sum(axis=1).tolist()
        return cls(
            num_prompts=num_prompts,
            num_samples=num_samples,
            pass_at_1=float(judged.right.mean()),
            pass_at_k=float(np.mean([pass_at_k(num_samples, count, num_samples) for count in right])),
            mean_reward=float(judged.totals.mean()),
            zero_variance_frac=group_advantages(judged.totals, kind="centred").zero_variance_share,
            clipped_frac=float(judged.truncated.mean()),
            ended_frac=float(judged.ended.mean()),
            mean_length=float(judged.num_tokens.mean()),
        )

    def summary(self) -> str:
        k = self.num_samples
        return (
            f"preflight, {self.num_prompts} prompts x {k} answers: pass@1 {self.pass_at_1:.3f}, "
            f"pass@{k} {self.pass_at_k:.3f}, reward {self.mean_reward:.3f}, "
            f"{self.zero_variance_frac:.1%} of the prompts without variance, "
            f"{self.clipped_frac:.1%} of the answers cut, {self.ended_frac:.1%} ended, "
            f"{self.mean_length:.1f} tokens on average"
        )

    def problem(self, *, max_tokens: int) -> str | None:
        """Why there is no signal, and what to do; None if there is one.

        max_tokens: of an answer, `RlConfig.max_tokens`.
        """
        if self.clipped_frac == 1:
            return (
                f"every answer was cut at rl.max_tokens ({max_tokens}) or at the end of the context: raise "
                "rl.max_tokens, or begin with a model that has learnt in SFT to end its answers"
            )
        if self.ended_frac == 0:
            return (
                "no answer ends with <|assistant_end|>: begin with a model that has learnt in SFT to end its "
                "answers in the chat template"
            )
        if self.pass_at_k == 0:
            return (
                f"not one of {self.num_prompts * self.num_samples} answers is right: choose easier tasks in "
                "rl.tasks, train longer in SFT on such problems, or raise rl.samples"
            )
        if self.zero_variance_frac == 1:
            return (
                f"all answers to a prompt earn the same, {self.mean_reward:g} on average, so that none is "
                "better than another: choose tasks that are right now and then in rl.tasks, or other parts "
                "of the reward (rl.reward)"
            )
        return None
