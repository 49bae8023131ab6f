"""A look at what is rewarded: the best and the worst answers to one prompt, beside what each earned."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from samosa_jax.rl.judging import Judged

MAX_SHOWN = 4
COLUMNS = ("answer", "earned", "advantage")


def shown_answers(judged: Judged, advantages: np.ndarray) -> list[dict[str, Any]]:
    """Records of some answers to the first prompt whose answers differ in reward, else to the first prompt.

    advantages: (P, R). The best and the worst ones, from the best down.
    """
    differs = np.flatnonzero(np.abs(advantages).max(axis=1) > 0)
    group = int(differs[0]) if len(differs) else 0
    order = np.argsort(-judged.totals[group], kind="stable")
    if len(order) > MAX_SHOWN:
        order = np.concatenate([order[: MAX_SHOWN // 2], order[-(MAX_SHOWN // 2) :]])
    example = judged.prompted[group].example
    return [
        {
            "prompt": example.prompt.messages[-1].text,
            "text": judged.groups[group][sample].completion.written,
            "expected": example.answer,
            "item": judged.prompted[group].item,
            "reason": judged.groups[group][sample].completion.reason,
            "reward": judged.rewards[group][sample].total,
            "parts": dict(judged.rewards[group][sample].parts),
            "advantage": float(advantages[group, sample]),
        }
        for sample in order.tolist()
    ]


def table_rows(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The same for people, as COLUMNS."""
    return [
        (
            f"{record['text']} [{record['reason']}]",
            "\n".join(
                f"{name} {value:.3g}" for name, value in (*record["parts"].items(), ("all", record["reward"]))
            ),
            f"{record['advantage']:+.3f}",
        )
        for record in records
    ]
