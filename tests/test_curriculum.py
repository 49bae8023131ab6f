"""The curriculum by pass rate: what is asked, when levels open and close, and that it can be written down."""

import dataclasses
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samosa_jax.config import CurriculumConfig
from samosa_jax.errors import ConfigError
from samosa_jax.rl.curriculum import Standing, after_answers, choose_level

RULES = CurriculumConfig(by="pass_rate", low=0.2, high=0.8, memory=8, min_prompts=4, review=0.0)


def chosen(standing: Standing, rules: CurriculumConfig = RULES, count: int = 2000) -> Counter[int]:
    draw = random.Random(0)
    return Counter(choose_level(standing, rules, draw) for _ in range(count))


def test_it_begins_with_the_easiest_level() -> None:
    assert chosen(Standing.first(3)) == {0: 2000}
    with pytest.raises(ValueError, match="at least one level"):
        Standing.first(0)


def test_prompts_come_from_levels_between_the_bounds() -> None:
    standing = Standing(3, (0.95, 0.5, 0.1, 0.8, 0.5), (9, 9, 9, 9, 9))
    found = chosen(standing)
    assert set(found) == {1, 3}  # 0 too easy, 2 too hard, 4 not open; the bounds themselves belong
    assert abs(found[1] - found[3]) < 200


def test_a_level_without_a_rate_is_asked() -> None:
    assert set(chosen(Standing(2, (0.9, 0.5, None), (9, 9, 0)))) == {1, 2}


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_hardest_open_level_is_asked_where_none_is_between_the_bounds(rate: float) -> None:
    assert chosen(Standing(1, (rate, rate, 0.5), (9, 9, 9))) == {1: 2000}


def test_a_share_reviews_what_is_open() -> None:
    rules = CurriculumConfig(by="pass_rate", low=0.2, high=0.8, review=0.3)
    found = chosen(Standing(2, (0.95, 0.97, 0.5, 0.5), (9, 9, 9, 9)), rules)
    assert set(found) == {0, 1, 2}
    assert found[0] / 2000 == pytest.approx(0.1, abs=0.03)
    assert found[1] / 2000 == pytest.approx(0.1, abs=0.03)


def test_a_rate_is_a_mean_at_first_and_forgets_later() -> None:
    standing = after_answers(Standing.first(1), RULES, [(0, 1.0), (0, 0.0), (0, 0.5), (0, 0.0)])
    assert standing == Standing(0, (0.375,), (4,))
    for _ in range(8):
        standing = after_answers(standing, RULES, [(0, 1.0)])
    # four more as a mean over 5 to 8 prompts, then four that count an eighth each
    assert standing.rates[0] == pytest.approx(1 - (1 - 5.5 / 8) * (7 / 8) ** 4)
    assert standing.asked == (12,)


def test_the_next_level_opens_when_the_hardest_is_passed_often() -> None:
    standing = after_answers(Standing.first(3), RULES, [(0, 1.0)] * 3)
    assert standing.hardest == 0  # not asked often enough
    standing = after_answers(standing, RULES, [(0, 1.0)])
    assert standing == Standing(1, (1.0, None, None), (4, 0, 0))
    assert chosen(standing) == {1: 2000}
    # One at a time, however many answers there are.
    assert after_answers(Standing.first(3), RULES, [(0, 1.0)] * 50).hardest == 1


def test_a_level_closes_when_it_is_hardly_passed_and_opens_again_when_earned() -> None:
    standing = Standing(1, (0.9, None, None), (9, 0, 0))
    standing = after_answers(standing, RULES, [(1, 0.0)] * 4)
    assert standing == Standing(0, (None, None, None), (0, 0, 0))
    standing = after_answers(standing, RULES, [(0, 0.9)] * 3)
    assert standing.hardest == 0
    assert after_answers(standing, RULES, [(0, 0.9)]).hardest == 1


def test_the_ends_stay() -> None:
    assert after_answers(Standing.first(2), RULES, [(0, 0.0)] * 40).hardest == 0
    last = Standing(1, (0.9, 0.5), (9, 9))
    assert after_answers(last, RULES, [(1, 1.0)] * 40).hardest == 1


def learner(skill: float, level: int, draw: random.Random) -> float:
    """The pass rate of a pupil whose skill grows: sure of levels well below it, lost well above."""
    return min(1.0, max(0.0, skill - level + draw.uniform(-0.1, 0.1)))


def test_a_pupil_that_learns_is_led_through_all_levels() -> None:
    draw, standing, asked = random.Random(1), Standing.first(4), []
    for step in range(120):
        levels = [choose_level(standing, RULES, draw) for _ in range(8)]
        skill = 0.5 + step / 25
        standing = after_answers(standing, RULES, [(level, learner(skill, level, draw)) for level in levels])
        asked.append(sum(levels) / len(levels))
    assert asked[0] == 0
    assert asked[-1] == pytest.approx(3)
    assert standing.hardest == 3
    assert sorted(asked[::20]) == asked[::20]


answers = st.lists(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), max_size=12), max_size=30)


@given(answers)
def test_standings_stay_sound_and_go_through_json(rollouts: list[list[tuple[int, float]]]) -> None:
    standing = Standing.first(3)
    for answered in rollouts:
        before = standing
        standing = after_answers(before, RULES, answered)
        assert abs(standing.hardest - before.hardest) <= 1
        assert 0 <= standing.hardest <= 2
        for rate, asked in zip(standing.rates, standing.asked, strict=True):
            assert (rate is None) == (asked == 0)
            assert rate is None or 0 <= rate <= 1
        assert choose_level(standing, RULES, random.Random(0)) <= standing.hardest
        assert Standing.from_json(json.loads(json.dumps(standing.as_json()))) == standing


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"low": 0.8, "high": 0.2}, "the lower one first"),
        ({"high": 1.1}, "they are pass rates"),
        ({"memory": 0}, "rl.curriculum.memory"),
        ({"review": 1.0}, "below 1"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(CurriculumConfig(), **wrong)
