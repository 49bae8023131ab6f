"""Prompts of tasks with levels: what a curriculum asks is repeatable, survives a checkpoint, and moves."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from samosa_jax.config import CurriculumConfig, TaskConfig
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.rl.graded_prompts import GradedMixture, open_source
from samosa_jax.rl.prompts import Prompted, PromptSource, TaskMixture
from samosa_jax.tasks.task import Example

RULES = CurriculumConfig(by="pass_rate", memory=16, min_prompts=8, review=0.0)
SUMS = TaskConfig(name="sums")
MIXED = (TaskConfig(name="sums", levels=(2, 4, 6)), TaskConfig(name="identity", weight=0.5))


def open_graded(*tasks: TaskConfig, rules: CurriculumConfig = RULES, seed: int = 0) -> PromptSource:
    return open_source(tasks, rules, seed=seed, data_dir=None)


def go(source: PromptSource, rollouts: range, pass_rate: Callable[[Prompted], float]) -> list[list[Prompted]]:
    found = []
    for rollout in rollouts:
        prompted = list(source.prompts(rollout, 16))
        source.record(rollout, prompted, [pass_rate(one) for one in prompted])
        found.append(prompted)
    return found


def asked_in(rollouts: list[list[Prompted]]) -> list[list[tuple[str, Example]]]:
    """What tells prompts apart; their scores are methods of tasks made anew."""
    return [[(one.item, one.example) for one in rollout] for rollout in rollouts]


def able(one: Prompted) -> float:
    """Two-digit numbers are no trouble, three digits are learnt, four are out of reach."""
    return {1: 0.95, 2: 0.9, 3: 0.9, 4: 0.5, 5: 0.05, 6: 0.0}[one.level] if one.level else 1.0


def test_the_same_seed_asks_the_same_and_another_asks_others() -> None:
    first, again, other = (asked_in(go(open_graded(*MIXED, seed=seed), range(6), able)) for seed in (0, 0, 1))
    assert first == again
    assert first[0] != other[0]
    items = [item for rollout in first for item, _ in rollout]
    assert len(set(items)) == len(items)


def test_prompts_of_a_rollout_do_not_depend_on_being_asked_for_before() -> None:
    source = open_graded(SUMS)
    assert source.prompts(3, 16) == source.prompts(3, 16)


def test_levels_follow_the_pass_rates() -> None:
    asked = [Counter(one.level for one in rollout) for rollout in go(open_graded(SUMS), range(40), able)]
    assert set(asked[0]) == {1}
    assert set(asked[-1]) <= {4, 5}  # 5 opens, is hardly passed and closes again
    assert asked[-1][4] + asked[-2][4] > 0
    assert not any(6 in counts for counts in asked)


def test_tasks_without_levels_are_asked_as_they_are() -> None:
    rollouts = go(open_graded(*MIXED), range(12), lambda one: 1.0)
    plain = [one for rollout in rollouts for one in rollout if one.task == "identity"]
    graded = [one for rollout in rollouts for one in rollout if one.task == "sums"]
    assert len(plain) == pytest.approx(len(graded) / 2, abs=1)
    assert all(one.level is None and one.item == f"identity/{one.index}" for one in plain)
    assert {one.level for one in graded} == {2, 4, 6}
    assert all(one.example.checks["level"] == one.level for one in graded)


def test_a_level_may_belong_to_some_examples_of_a_task_only() -> None:
    rollouts = go(open_graded(TaskConfig(name="joint_think_tool")), range(4), lambda one: 0.5)
    examples = [one.example for rollout in rollouts for one in rollout]
    assert {example.checks.get("level") for example in examples} == {None, 1}


def test_a_run_that_goes_on_asks_what_it_would_have_asked() -> None:
    whole = asked_in(go(open_graded(*MIXED), range(20), able))
    before = open_graded(*MIXED)
    go(before, range(9), able)
    state = json.loads(json.dumps(before.state()))
    after = open_graded(*MIXED)
    after.restore(state)
    assert asked_in(go(after, range(9, 20), able)) == whole[9:]
    untold = open_graded(*MIXED)
    assert asked_in(go(untold, range(9, 20), able)) != whole[9:]  # the state is what makes the difference


def test_the_mean_level_is_a_metric() -> None:
    source = open_graded(SUMS)
    assert source.metrics() == {}
    go(source, range(20), able)
    asked = source.prompts(20, 16)
    source.record(20, asked, [able(one) for one in asked])
    assert source.metrics()["rl/level"] == pytest.approx(sum(one.level or 0 for one in asked) / 16)
    assert any("curriculum: sums, levels 1, 2, 3, 4, 5, 6" in line for line in source.describe())


def test_without_a_curriculum_all_chosen_levels_come() -> None:
    source = open_source(MIXED[:1], CurriculumConfig(), seed=0, data_dir=None)
    assert isinstance(source, TaskMixture)
    assert {one.example.checks["level"] for one in source.prompts(0, 40)} == {2, 4, 6}


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ((TaskConfig(name="identity"),), "no task of rl.tasks has levels"),
        ((TaskConfig(name="sums", levels=(1, 9)),), "sums has no level 9"),
        ((TaskConfig(name="summs"),), "did you mean.*sums"),
        ((TaskConfig(name="gsm8k", levels=(1,)),), "gsm8k has no levels"),
        ((TaskConfig(name="humaneval"),), "'humaneval', which is no task"),
    ],
)
def test_mistakes_are_named(tasks: tuple[TaskConfig, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_graded(*tasks)


def test_levels_are_given_in_order() -> None:
    with pytest.raises(ConfigError, match="rising order"):
        TaskConfig(name="sums", levels=(3, 1))


def test_gsm8k_is_learnt_from_its_train_rows(test_data: Path) -> None:
    source = open_source((TaskConfig(name="gsm8k"), SUMS), RULES, seed=0, data_dir=test_data)
    assert isinstance(source, GradedMixture)
    rows = [one for rollout in range(3) for one in source.prompts(rollout, 16) if one.task == "gsm8k"]
    assert len({one.example.answer_text for one in rows}) == len(rows) == 24
    assert all(one.score(one.example, one.example.answer_text) == 1.0 for one in rows)
    assert "7,473 rows" in "\n".join(source.describe())
