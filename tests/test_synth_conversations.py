"""Every synthesised conversation: deterministic, well formed, right, and held out where it says so."""

import json
import re
from datetime import date

import pytest

from samosa_jax.data.chat.conversation import Message, check, parse_conversation, to_json
from samosa_jax.data.chat.preferences import messages_pair
from samosa_jax.data.chat.rules import RuleOptions, failures, make_rules
from samosa_jax.errors import UserError
from samosa_jax.tasks.calculator import calculate
from samosa_jax.tasks.catalog import LEVELS, TASK_NAMES, make_task
from samosa_jax.tasks.direct import DirectTask
from samosa_jax.tasks.identity import IdentityTask, Persona
from samosa_jax.tasks.joint import JointThinkToolTask
from samosa_jax.tasks.preference import ARTEFACTS, PreferenceSynthesis
from samosa_jax.tasks.scoring import MONTHS, WEEKDAYS
from samosa_jax.tasks.spelling import SpellingTask
from samosa_jax.tasks.task import SPLITS, Example, Split, tools_due, with_tool_schemas
from samosa_jax.tasks.temporal import TemporalTask
from samosa_jax.tasks.variety import VarietyCounter
from samosa_jax.tasks.verse import ADJECTIVES, NOUNS, VERBS
from samosa_jax.tasks.web_search import WebSearchTask

COUNT = 400
RULES = make_rules(RuleOptions())
# tests/test_starter_tasks.py holds the short ones against rules of their own.
EVERY_TASK = (*(name for name in TASK_NAMES if not name.startswith("starter")), "all")
MAY_BREAK = {"sums": {"long_enough"}}  # its answers are meant to be short


def examples_of(name: str, split: Split, *, seed: int = 0, count: int = COUNT) -> list[Example]:
    return list(make_task(name).examples(split, seed, count))


def assert_well_formed(example: Example) -> None:
    """It can be written and read back, its prompt and solution are all of it, and its sums are right."""
    conversation = example.conversation
    check(conversation)
    assert parse_conversation(to_json(conversation)) == conversation
    assert (*example.prompt.messages, *example.solution) == conversation.messages
    assert json.loads(json.dumps(dict(example.checks))) == dict(example.checks)
    for index, message in enumerate(conversation.messages):
        if message.tool_call is not None and message.tool_call.name == "calculator":
            expression = message.tool_call.arguments["expression"]
            assert conversation.messages[index + 1].text == calculate(expression)


@pytest.mark.parametrize("name", EVERY_TASK)
@pytest.mark.parametrize("split", SPLITS)
def test_every_example_is_sound(name: str, split: Split):
    task = make_task(name)
    for example in task.examples(split, 3, COUNT):
        assert_well_formed(example)
        conversation = example.conversation
        assert failures(conversation, RULES).keys() <= MAY_BREAK.get(name, set())
        assert failures(with_tool_schemas(conversation), RULES).keys() <= MAY_BREAK.get(name, set())
        assert example.prompt.messages[-1].role == "user"
        assert task.score(example, example.answer_text, example.solution) == 1.0
        assert task.score(example, "I do not know, and would rather talk about cheese.") == 0.0
        for message in conversation.messages:
            if message.think is not None:
                assert len(message.think) >= 50
                assert example.answer_text not in message.think


@pytest.mark.parametrize("name", EVERY_TASK)
def test_an_example_depends_on_its_index_alone(name: str):
    whole = examples_of(name, "train", count=40)
    assert examples_of(name, "train", count=40) == whole
    assert examples_of(name, "train", count=17) == whole[:17]
    assert examples_of(name, "train", seed=1, count=40) != whole


@pytest.mark.parametrize("name", EVERY_TASK)
def test_held_out_prompts_are_new(name: str):
    train, heldout = VarietyCounter(), VarietyCounter()
    for example in examples_of(name, "train", count=1500):
        train.add(example.prompt.messages)
    for example in examples_of(name, "heldout"):
        heldout.add(example.prompt.messages)
    assert heldout.prompts_shared_with(train) == 0
    assert heldout.share_not_in(train) > 0.85
    assert heldout.share_not_in(heldout) == 0.0  # the measure can be low
    assert train.result().unique_prompts > (300 if name == "creative" else 800)


@pytest.mark.parametrize("name", ["arithmetic", "word_problems"])
def test_a_changed_number_is_wrong(name: str):
    task = make_task(name)
    for example in task.examples("train", 0, 200):
        changed = example.answer_text.rstrip(".") + "1."
        if "." in example.answer and len(example.answer.partition(".")[2]) >= 2:
            changed = example.answer_text.replace(example.answer, f"1{example.answer}")
        assert task.score(example, changed) == 0.0, changed


@pytest.mark.parametrize("name", list(LEVELS))
def test_levels_are_those_asked_for(name: str):
    for levels in [*((level,) for level in LEVELS[name]), LEVELS[name][1:3]]:
        task = make_task(name, levels=levels)
        found = {example.checks.get("level") for example in task.examples("train", 0, 120)}
        assert found - {None} == set(levels)


@pytest.mark.parametrize("name", list(LEVELS))
def test_without_levels_all_come(name: str):
    found = {example.checks.get("level") for example in make_task(name).examples("train", 0, 300)}
    assert found - {None} == set(LEVELS[name])


def test_a_level_of_sums_is_what_has_to_be_copied():
    sizes = {
        level: [
            (len(numbers), len(numbers[0]))
            for example in make_task("sums", levels=(level,)).examples("heldout", 0, 30)
            for numbers in [re.findall("[0-9]+", example.prompt.messages[-1].text)]
        ]
        for level in LEVELS["sums"]
    }
    assert {level: set(found) for level, found in sizes.items()} == {
        1: {(2, 2)},
        2: {(2, 3)},
        3: {(3, 2)},
        4: {(3, 3)},
        5: {(4, 3)},
        6: {(4, 4)},
    }


def test_all_takes_tasks_without_those_levels_whole():
    examples = list(make_task("all", levels=(5,)).examples("train", 0, 400))
    found = {
        (example.checks["task"], example.checks["level"]) for example in examples if "level" in example.checks
    }
    graded = {"arithmetic", "word_problems", "joint_think_tool"}
    assert {level for task, level in found if task in graded} == {5}
    assert {level for task, level in found if task == "spelling"} == set(LEVELS["spelling"])


@pytest.mark.parametrize(
    ("name", "levels", "complaint"),
    [
        ("tmporal", (), "expected one of"),
        ("arithmetic", (1, 6, 7), "no level 6, 7; expected some of 1, 2, 3, 4, 5"),
        ("identity", (2,), "identity has no levels"),
        ("all", (9,), "no task has a level 9"),
    ],
)
def test_unknown_tasks_and_levels_are_named(name: str, levels: tuple[int, ...], complaint: str):
    with pytest.raises(UserError, match=complaint):
        make_task(name, levels=levels)


def test_half_of_tool_choice_must_call_nothing():
    task = make_task("tool_choice")
    examples = list(task.examples("train", 0, 400))
    due = [tuple(tools_due(example)) for example in examples]
    assert set(due) == {(), ("calculator",), ("web_search",)}
    assert 0.4 < due.count(()) / len(due) < 0.6
    for example in examples:
        assert task.score(example, example.answer_text, example.solution) == 1.0
    needs = next(example for example in examples if tools_due(example) == {"calculator"})
    needs_none = next(example for example in examples if not tools_due(example))
    assert task.score(needs, needs.answer_text, needs.solution[-1:]) == 0.0  # right, without the tool
    assert task.score(needs_none, needs_none.answer_text, needs.solution) == 0.0
    assert task.score(needs_none, needs_none.answer_text) == 0.0


def julian_day(iso: str) -> int:
    """The day number of a Gregorian date, by integer arithmetic alone (Fliegel and Van Flandern, 1968)."""
    year, month, day = map(int, iso.split("-"))
    shift = (month - 14) // 12 if month >= 14 else -((14 - month) // 12)
    return (
        day
        - 32075
        + 1461 * (year + 4800 + shift) // 4
        + 367 * (month - 2 - shift * 12) // 12
        - 3 * ((year + 4900 + shift) // 100) // 4
    )


def minutes_of(time: str) -> int:
    return int(time[:2]) * 60 + int(time[3:])


def temporal_answer(checks: dict[str, object]) -> str:
    """The answer from the facts of the problem, without Python's calendar."""
    facts = {key: str(value) for key, value in checks.items()}
    match facts["kind"]:
        case "weekday_of_date":
            return WEEKDAYS[julian_day(facts["date"]) % 7]
        case "weekday_ahead" | "weekday_ago":
            return WEEKDAYS[(WEEKDAYS.index(facts["today"]) + int(facts["shift"])) % 7]
        case "days_between":
            return str(julian_day(facts["last"]) - julian_day(facts["first"]))
        case "age":
            born, today = facts["born"].replace("-", ""), facts["today"].replace("-", "")
            return str((int(today) - int(born)) // 10_000)
        case "clock_after":
            end = (minutes_of(facts["start"]) + int(facts["minutes"])) % 1440
        case "journey":
            took = int(facts["distance"]) * 60 / int(facts["speed"])
            assert took == int(took)
            end = minutes_of(facts["start"]) + int(took)
        case "duration":
            return str(minutes_of(facts["end"]) - minutes_of(facts["start"]))
        case kind:
            raise AssertionError(f"no independent computation of {kind}")
    return f"{end // 60:02d}:{end % 60:02d}"


@pytest.mark.parametrize("split", SPLITS)
def test_temporal_answers_are_right(split: Split):
    kinds: set[str] = set()
    for example in TemporalTask().examples(split, 0, 2000):
        checks = dict(example.checks)
        kinds.add(checks["kind"])
        if checks["kind"] == "date_after":
            assert julian_day(example.answer) - julian_day(checks["first"]) == checks["days"]
        else:
            assert example.answer == temporal_answer(checks), checks
    assert len(kinds) == 9


def test_the_thought_about_a_date_is_right():
    """Doomsday, offset and month walk lead where the calendar does."""
    seen = 0
    for example in TemporalTask().examples("train", 0, 2000):
        thought = example.conversation.messages[1].think or ""
        if found := re.search(
            r"doomsday of (\d+) is (\w+)\. In (\w+) it falls on the (\d+)\w\w\. The (\d+)\w\w is", thought
        ):
            year, weekday, month, known, day = found.groups()
            anchor = date(int(year), MONTHS.index(month) + 1, int(known))
            assert WEEKDAYS[anchor.weekday()] == weekday
            assert example.checks["date"].endswith(f"-{int(day):02d}")
            seen += 1
        elif example.checks["kind"] in ("days_between", "date_after"):
            days = int(example.checks.get("days") or example.answer)
            assert sum(map(int, re.findall(r"adds (\d+)", thought))) == days
            seen += 1
    assert seen > 400


def test_letters_are_counted():
    for example in SpellingTask().examples("heldout", 0, 1500):
        word = example.checks["word"]
        expected = {
            "count_one": str(len(re.findall(str(example.checks.get("letter")), word))),
            "count_all": str(len(list(word))),
            "spell": word,
            "spell_backwards": "".join(word[-1 - place] for place in range(len(word))),
        }[example.checks["kind"]]
        assert example.answer == expected


def test_patterns_take_equal_parts():
    tools = [example.checks["tool"] for example in JointThinkToolTask().examples("train", 0, 300)]
    assert [tools.count(tool) for tool in ("web_search", "calculator", None)] == [100, 100, 100]


def test_tools_count_where_messages_are_known():
    joint = JointThinkToolTask()
    search, calculation, direct = joint.examples("train", 0, 3)
    plain = (Message(role="assistant", text="x"),)
    assert joint.score(search, search.answer_text, plain) == 0.0
    assert joint.score(calculation, calculation.answer_text, plain) == 0.0
    assert joint.score(direct, direct.answer_text, plain) == 1.0
    assert joint.score(direct, direct.answer_text, calculation.solution) == 0.0
    assert DirectTask().score(direct, direct.answer_text, search.solution) == 0.0


def test_searches_look_like_a_search_service_and_answers_are_grounded():
    task = WebSearchTask()
    for example in task.examples("train", 0, 200):
        _, call, result, answer = example.conversation.messages
        found = json.loads(result.text)
        assert call.tool_call is not None
        assert found["query"] == call.tool_call.arguments["query"]
        assert len(found["results"]) in (2, 3)
        for page in found["results"]:
            assert set(page) == {"title", "url", "content"}
            assert re.fullmatch(r"https://[a-z]+\.example\.(com|org|net)/[\w/-]+", page["url"])
        assert any(
            all(fact in page["content"] for fact in example.checks["mentions"]) for page in found["results"]
        )
        assert example.checks["site"] in answer.text


def test_identity_speaks_of_the_persona():
    task = IdentityTask(Persona(name="Pico", maker="the Tiny Lab"))
    for example in task.examples("train", 0, 300):
        assert "Pico" in example.answer_text or "the Tiny Lab" in example.answer_text
        assert "samosaChaat" not in json.dumps(to_json(example.conversation))
        assert task.score(example, f"{example.answer_text} Or rather, I am ChatGPT.") == 0.0


def test_follow_ups_need_the_turn_before():
    for example in make_task("multi_turn").examples("heldout", 0, 200):
        messages = example.conversation.messages
        assert example.checks["subject"] in messages[0].text
        assert not any(example.checks["subject"] in message.text for message in messages[2::2])


def test_syllables_are_those_of_speech():
    """Groups of vowels, less a silent e, count the same; the words where they do not are listed."""
    exceptions = {"quiet": 2, "lonely": 2, "pale": 1, "nightingale": 3}
    for word, syllables in {**NOUNS, **ADJECTIVES, **VERBS}.items():
        silent = re.sub(r"(?<=[^aeiouyl])es?$", "", word)
        assert syllables == exceptions.get(word, len(re.findall(r"[aeiouy]+", silent))), word


def test_pairs_differ_in_one_artefact():
    rejected_rules: dict[str, set[str]] = {}
    for pair in PreferenceSynthesis().pairs("train", 0, 600):
        read = messages_pair(json.loads(json.dumps(pair.to_json())))
        assert read.prompt == pair.prompt
        assert failures(read.chosen, RULES) == {}
        rejected_rules.setdefault(pair.artefact, set()).update(failures(read.rejected, RULES))
    expected = {
        "answer_in_thought": {"answer_outside_think"},
        "bold_tags": {"no_html"},
        "emoji_spam": {"no_emoji_spam"},
        "image_placeholder": {"no_image_placeholder"},
        "needless_call": set(),  # a matter of judgement, which no rule of form can see
        "over_apology": {"no_over_apology"},
        "stock_hedge": {"no_hedge"},
        "stock_label": {"no_stock_label"},
        "stock_refusal": {"no_refusal"},
        "tripled_line": {"no_tripled_line"},
        "unclosed_thought": {"answer_present"},
    }
    assert rejected_rules == expected
    assert set(ARTEFACTS) == set(expected)


def test_an_artefact_that_fits_no_answer_is_named():
    synthesis = PreferenceSynthesis(tasks=[IdentityTask()], artefacts=["answer_in_thought", "needless_call"])
    with pytest.raises(UserError, match=r"--artefacts answer_in_thought needless_call: none of them fits"):
        synthesis.pair("train", 0, 0)
