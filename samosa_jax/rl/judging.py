"""What the answers of a rollout are worth, and what a step says of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samosa_jax.config import RewardConfig
from samosa_jax.rl.prompts import Prompted
from samosa_jax.rl.rewards import Completion, Reward, make_reward, mean_parts
from samosa_jax.rl.rollouts import Answered

ASSISTANT_END = "<|assistant_end|>"
RIGHT = 0.5  # the score from which on an answer counts as right, as in evaluation


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """P groups of R answers. All arrays are (P, R)."""

    prompted: Sequence[Prompted]
    groups: Sequence[Sequence[Answered]]
    rewards: Sequence[Sequence[Reward]]
    totals: np.ndarray  # float64
    right: np.ndarray  # bool, by the task's own score
    truncated: np.ndarray  # bool: cut, or never begun for want of room
    ended: np.ndarray  # bool: closed by the token that ends an answer
    num_tokens: np.ndarray  # int64, that the model chose

    @property
    def pass_rates(self) -> list[float]:
        """Share of right answers to each prompt."""
        return self.right.mean(axis=1).tolist()

    def metrics(self) -> dict[str, float]:
        """As `training.metrics` declares them."""
        parts = mean_parts([reward for group in self.rewards for reward in group])
        del parts["total"]
        return {
            "reward/mean": float(self.totals.mean()),
            "reward/std": float(self.totals.std(axis=1).mean()),
            **{f"reward/{name}": value for name, value in parts.items()},
            "completions/mean_length": float(self.num_tokens.mean()),
            "completions/clipped_frac": float(self.truncated.mean()),
            "completions/ended_frac": float(self.ended.mean()),
        }


def judge(
    prompted: Sequence[Prompted], groups: Sequence[Sequence[Answered]], *, reward: RewardConfig
) -> Judged:
    """Rewards every answer by the parts that have a weight."""
    rewards, right = [], []
    for one, group in zip(prompted, groups, strict=True):
        rate = make_reward(
            reward.weights(),
            score=one.score,
            length_free=reward.length_free,
            length_limit=reward.length_limit,
        )
        rewards.append([rate(one.example, answer.completion) for answer in group])
        right.append(
            [_is_right(one, answer.completion, own) for answer, own in zip(group, rewards[-1], strict=True)]
        )
    completions = [[answer.completion for answer in group] for group in groups]
    return Judged(
        prompted=prompted,
        groups=groups,
        rewards=rewards,
        totals=np.array([[one.total for one in group] for group in rewards], np.float64),
        right=np.array(right, bool),
        truncated=np.array([[one.reason != "stop" for one in group] for group in completions], bool),
        ended=np.array([[one.marks[-1:] == (ASSISTANT_END,) for one in group] for group in completions]),
        num_tokens=np.array([[one.num_tokens for one in group] for group in completions], np.int64),
    )


def _is_right(prompted: Prompted, completion: Completion, reward: Reward) -> bool:
    if not completion.messages:
        return False
    score = reward.parts.get("task")  # not scored twice: some tasks run a program for it
    if score is None:
        score = prompted.score(prompted.example, completion.text, completion.messages)
    return score >= RIGHT
