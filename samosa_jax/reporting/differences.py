"""Whether two results differ, or only seem to: the same items on both sides, compared pair by pair.

Unlike settings, definitions or items make two numbers that say nothing about each other; such pairs are
refused by what differs in them.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samosa_jax.errors import UserError
from samosa_jax.evals.intervals import combined_interval, ratio_interval
from samosa_jax.evals.results import Difference, Interval, TaskResult, paired_bootstrap, read_items

CATEGORY_KEYS = ("category", "subject")  # of an item, the first that it has
OF_THE_MODEL = {"config"}  # settings that say what was measured, not how
# Were both models alike, each change would be as likely for the better as for the worse: five changes all go
# one way in 2 of 32 cases, more than the 5 % that a 95 % interval allows. No bootstrap of so few sees that.
MIN_CHANGED = 6
RATIO_KEYS = {"nats", "bytes"}  # of an item: the value is the sum of these over the sum of those


class NotComparableError(UserError):
    """Two results that were not measured alike."""


@dataclass(frozen=True)
class Measured:
    """A result, and the run that its items are in."""

    run: Path
    result: TaskResult

    def __str__(self) -> str:
        return f"{self.run} (step {self.result.step})"


@dataclass(frozen=True, kw_only=True)
class ChangedItem:
    """An item that the two models scored differently."""

    item: str
    a: Mapping[str, Any]  # the line of the items' file
    b: Mapping[str, Any]

    @property
    def change(self) -> float:
        return float(self.b["score"]) - float(self.a["score"])


@dataclass(frozen=True, kw_only=True)
class GroupDifference:
    """b minus a on items that belong together."""

    difference: Interval
    num_changed: int  # items with another score

    @property
    def is_real(self) -> bool:
        return is_real(self.difference, num_changed=self.num_changed)


@dataclass(frozen=True, kw_only=True)
class TaskDifference:
    """b against a on one task."""

    a: TaskResult
    b: TaskResult
    difference: Interval  # b minus a: where paired of the items' mean score, or of sums; else of the values
    p_value: float | None  # None: unpaired, or a ratio of sums
    is_paired: bool
    num_items: int
    changed: Sequence[ChangedItem]  # largest change first
    by_category: Mapping[str, GroupDifference]
    item_differences: np.ndarray  # (N,) b minus a; empty: unpaired

    @property
    def task(self) -> str:
        return self.a.task

    @property
    def is_real(self) -> bool:
        return is_real(self.difference, num_changed=len(self.changed) if self.is_paired else None)

    @property
    def verdict(self) -> int:
        """1: b is better, -1: a is, 0: the difference may be chance."""
        if not self.is_real:
            return 0
        return 1 if (self.difference.value > 0) == self.a.higher_is_better else -1


def compare_paired(a: Measured, b: Measured) -> TaskDifference:
    """Raises NotComparableError for the first setting or item that differs; UserError for broken items."""
    check_alike(a, b)
    pairs = pair_items(a, b)
    first = np.array([float(ours["score"]) for ours, _ in pairs])
    second = np.array([float(theirs["score"]) for _, theirs in pairs])
    is_ratio = all(line.keys() >= RATIO_KEYS for pair in pairs for line in pair)
    difference = _ratio_difference(a, pairs) if is_ratio else paired_bootstrap(first, second)
    changed = [
        ChangedItem(item=str(ours["item"]), a=ours, b=theirs)
        for ours, theirs in pairs
        if ours["score"] != theirs["score"]
    ]
    categories = [_category(ours) for ours, _ in pairs]
    return TaskDifference(
        a=a.result,
        b=b.result,
        difference=difference,
        p_value=difference.p_value if isinstance(difference, Difference) else None,
        is_paired=True,
        num_items=len(pairs),
        changed=sorted(changed, key=lambda item: -abs(item.change)),
        by_category={
            category: _of_category(first, second, [other == category for other in categories])
            for category in dict.fromkeys(filter(None, categories))
        },
        item_differences=second - first,
    )


def is_real(difference: Interval, *, num_changed: int | None) -> bool:
    """Whether 0 lies outside, and enough items changed (None: nobody knows) for that to mean anything."""
    enough = num_changed is None or num_changed >= MIN_CHANGED
    return enough and (difference.low > 0 or difference.high < 0)


def _of_category(first: np.ndarray, second: np.ndarray, belongs: Sequence[bool]) -> GroupDifference:
    own, other = first[np.array(belongs)], second[np.array(belongs)]
    num_changed = int(np.count_nonzero(own != other))
    return GroupDifference(difference=paired_bootstrap(own, other), num_changed=num_changed)


def _ratio_difference(a: Measured, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Interval:
    """Of bits per byte. Raises NotComparableError where the two have cut the text differently."""
    unlike = next((ours["item"] for ours, theirs in pairs if ours["bytes"] != theirs["bytes"]), None)
    if unlike is not None:
        raise NotComparableError(
            f"{a.result.task}: {unlike} holds other text on the two sides (another tokenizer or context "
            "cuts it elsewhere); compare with --unpaired"
        )
    bits = [(float(theirs["nats"]) - float(ours["nats"])) / math.log(2) for ours, theirs in pairs]
    return ratio_interval(bits, [float(ours["bytes"]) for ours, _ in pairs])


def compare_unpaired(a: Measured, b: Measured) -> TaskDifference:
    """The difference of two values whose items were drawn apart, from their own intervals.

    Newcombe's square-and-add (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C873::AID-SIM779%3E3.0.CO;2-I).
    Raises NotComparableError where the two numbers are not even of one kind.
    """
    for name in ("metric", "definition"):
        _refuse_unlike(a, b, name, getattr(a.result, name), getattr(b.result, name))
    first, second = a.result, b.result
    value = second.value - first.value
    below = math.hypot(second.value - second.low, first.high - first.value)
    above = math.hypot(second.high - second.value, first.value - first.low)
    return TaskDifference(
        a=first,
        b=second,
        difference=Interval(value, value - below, value + above),
        p_value=None,
        is_paired=False,
        num_items=min(first.num_items, second.num_items),
        changed=(),
        by_category={},
        item_differences=np.zeros(0),
    )


def check_alike(a: Measured, b: Measured) -> None:
    """Raises NotComparableError for the first difference in metric, definition, settings or item count."""
    for name in ("metric", "definition"):
        _refuse_unlike(a, b, name, getattr(a.result, name), getattr(b.result, name))
    settings = tuple(_of_the_measurement(measured.result.settings) for measured in (a, b))
    for name in sorted(settings[0].keys() | settings[1].keys()):
        _refuse_unlike(a, b, f"setting {name}", *(of.get(name, "absent") for of in settings))
    _refuse_unlike(a, b, "number of items", a.result.num_items, b.result.num_items)


def pair_items(a: Measured, b: Measured) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The items of both, in a's order. Raises NotComparableError if they are not the same ones."""
    ours = {_identity(line): line for line in read_items(a.run, a.result)}
    theirs = {_identity(line): line for line in read_items(b.run, b.result)}
    for where, others, lines in ((a, theirs, ours), (b, ours, theirs)):
        if only := [item for item in lines if item not in others]:
            raise NotComparableError(
                f"{a.result.task}: the items differ: {only[0]} is in {where} alone ({len(only)} such); "
                "evaluate both on the same data, or compare with --unpaired"
            )
        if len(lines) != where.result.num_items:
            raise NotComparableError(
                f"{a.result.task}: {where} has an item twice; evaluate it again, or compare with --unpaired"
            )
    return [(line, theirs[item]) for item, line in ours.items()]


def group_difference(differences: Sequence[TaskDifference]) -> GroupDifference:
    """Of the mean over tasks, each counting alike, every task's items bootstrapped by themselves."""
    groups = [one.item_differences for one in differences]
    interval = combined_interval(groups, scale=[1.0] * len(groups), shift=[0.0] * len(groups))
    return GroupDifference(difference=interval, num_changed=sum(len(one.changed) for one in differences))


def survivors(differences: Sequence[TaskDifference], *, level: float = 0.05) -> int:
    """How many differences hold when all are tried at once (Holm's step-down over their p-values)."""
    p_values = sorted(one.p_value if one.is_real else 1.0 for one in differences if one.p_value is not None)
    held = 0
    for rank, p_value in enumerate(p_values):
        if p_value > level / (len(p_values) - rank):
            break
        held += 1
    return held


def group_of(task: str, *, among: Collection[str]) -> str:
    """What stands before the slash of core/hellaswag; that of core too where core/... is among the tasks."""
    name, slash, _ = task.partition("/")
    return name if slash or any(other.startswith(f"{name}/") for other in among) else ""


def _of_the_measurement(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what the model itself has added: a mean over tasks notes the value of each."""
    kept = {name: value for name, value in settings.items() if name not in OF_THE_MODEL}
    if isinstance(kept.get("tasks"), Mapping):
        kept["tasks"] = sorted(kept["tasks"])
    return kept


def _refuse_unlike(a: Measured, b: Measured, what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise NotComparableError(
            f"{a.result.task}: {what} is {ours} in {a} and {theirs} in {b}; evaluate both alike"
            + ("" if what in ("metric", "definition") else ", or compare with --unpaired")
        )


def _identity(line: Mapping[str, Any]) -> str:
    item = line["item"]
    return item if isinstance(item, str) else json.dumps(item, sort_keys=True)


def _category(line: Mapping[str, Any]) -> str:
    return next((str(line[key]) for key in CATEGORY_KEYS if line.get(key)), "")
