"""What the quickstart teaches: sound, right, and held out in wording, numbers, words and names."""

import random
import re

import pytest
from test_synth_conversations import assert_well_formed

from samosa_jax.data.chat.conversation import Message
from samosa_jax.tasks.catalog import TASK_NAMES, make_task
from samosa_jax.tasks.preference import HABITS, PreferenceSynthesis, with_habit
from samosa_jax.tasks.starter.letters import StarterLettersTask, level_of
from samosa_jax.tasks.starter.mixture import SHARES, StarterTask, StarterThinkingTask
from samosa_jax.tasks.starter.stories import with_articles
from samosa_jax.tasks.starter.words import NAMES, story_words
from samosa_jax.tasks.task import SPLITS, Split
from samosa_jax.tasks.variety import VarietyCounter

STARTERS = tuple(name for name in TASK_NAMES if name.startswith("starter"))
COUNT = 400


@pytest.mark.parametrize("name", STARTERS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_example_is_sound(name: str, split: Split):
    task = make_task(name)
    for example in task.examples(split, 3, COUNT):
        assert_well_formed(example)
        assert task.score(example, example.answer_text, example.solution) == 1.0
        if name != "starter_thinking":
            wrong = (*example.solution[:-1], Message(role="assistant", text="Rather the wind outside."))
            assert task.score(example, "Rather the wind outside.", wrong) == 0.0


@pytest.mark.parametrize("name", STARTERS)
def test_held_out_prompts_are_new(name: str):
    train, heldout = VarietyCounter(), VarietyCounter()
    task = make_task(name)
    for example in task.examples("train", 0, 2000):
        train.add(example.prompt.messages)
    for example in task.examples("heldout", 0, COUNT):
        heldout.add(example.prompt.messages)
    assert heldout.prompts_shared_with(train) == 0


def test_held_out_words_names_and_numbers_are_never_taught():
    task = make_task("starter_letters")
    taught, asked = (
        {example.checks["word"] for example in task.examples(split, 0, 4000)} for split in SPLITS
    )
    assert asked
    assert not taught & asked
    names = make_task("starter_memory")
    of_names = (
        {example.answer for example in names.examples(split, 0, 3000) if example.checks["asked"] == "name"}
        for split in SPLITS
    )
    known, new = of_names
    assert not known & new
    assert known & set(NAMES)
    assert known - set(NAMES)  # and made-up ones, so that names are copied


def test_the_mixture_has_its_shares():
    examples = list(StarterTask().examples("train", 0, 4000))
    for name, share in SHARES.items():
        assert sum(example.checks["task"] == name for example in examples) / 4000 == pytest.approx(
            share, abs=0.03
        )


def test_sums_want_the_calculator():
    task = make_task("starter_sums")
    example = next(iter(task.examples("heldout", 0, 1)))
    in_the_head = (Message(role="assistant", text=example.answer_text),)
    assert task.score(example, example.answer_text, in_the_head) == 0.0


def test_thinking_is_a_closed_thought_and_an_answer_outside():
    task = StarterThinkingTask()
    example = task.example("heldout", 0, 0)
    assert example.solution[0].think
    assert task.score(example, "7", (Message(role="assistant", think="Hm.", text="7"),)) == 1.0
    assert task.score(example, "7", (Message(role="assistant", text="7"),)) == 0.0
    assert task.score(example, "", (Message(role="assistant", think="Hm. 7", text=""),)) == 0.0


def test_letters_are_counted():
    for example in StarterLettersTask(levels=[2, 3]).examples("train", 0, 300):
        word, thought = example.checks["word"], example.solution[0].think or ""
        assert level_of(word) in (2, 3)
        spelled = re.sub(r"[^a-z]", "", thought.split(":")[1].split(".")[0])
        assert spelled == word


def test_words_of_stories_are_words():
    words = story_words()
    assert 1000 < len(words) < 3000
    assert all(re.fullmatch(r"[a-z]{3,10}", word) for word in words)
    assert with_articles("a ant and a bear, A owl") == "an ant and a bear, An owl"


def test_a_habit_spoils_the_last_answer_alone():
    messages = StarterTask().example("train", 0, 1).conversation.messages
    spoiled = with_habit(random.Random(0), messages)
    assert spoiled[:-1] == messages[:-1]
    assert spoiled[-1].text != messages[-1].text
    assert spoiled[-1].text.strip()
    assert len(HABITS) >= 4


def test_pairs_can_be_made_of_one_task():
    synthesis = PreferenceSynthesis(tasks=[StarterTask()])
    pairs = list(synthesis.pairs("train", 0, 60))
    assert {pair.artefact for pair in pairs} >= set(HABITS)
    assert all(pair.chosen != pair.rejected for pair in pairs)
    habits = PreferenceSynthesis(tasks=[StarterTask()], artefacts=HABITS).pairs("train", 0, 60)
    assert {pair.artefact for pair in habits} == set(HABITS)
