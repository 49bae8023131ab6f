"""Probes: the shipped suite, what each check refuses, held-out variants, and mistakes in the files."""

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from samosa_jax.data.chat.conversation import Message, ToolCall
from samosa_jax.errors import UserError
from samosa_jax.evals.asking import Answer
from samosa_jax.evals.probe_checks import CHECKS, STANDING, find_artefact, find_failures
from samosa_jax.evals.probe_suite import probe_tools
from samosa_jax.evals.probe_variants import AskedProbe, as_written, held_out
from samosa_jax.evals.probes import load_suite
from samosa_jax.rollout.tools.registry import ToolContext
from samosa_jax.tasks.identity import Persona, load_persona
from samosa_jax.tasks.task import split_of

ROOT = Path(__file__).parents[1]
PROBES = ROOT / "configs/probes"
PERSONA = load_persona(ROOT / "configs/personas/samosachaat.yaml")
CATEGORIES = {
    *("identity", "tool_use", "think_tool", "reasoning", "temporal", "format", "creative", "multi_turn"),
    *("domain", "tone"),
}
PAGE = {"title": "Weather in Seoul", "url": "https://weather.example/seoul", "content": "12 degrees."}


def answer(
    text: str = "It is 5.",
    *,
    think: str | None = None,
    calls: tuple[tuple[str, dict[str, Any], str], ...] = (),
    written: str | None = None,
    reason: Any = "stop",
) -> Answer:
    """An answer with a thought before calls (name, arguments, result)."""
    messages: list[Message] = []
    spelled = "" if think is None else f"<think>{think}</think>"
    for name, arguments, result in calls:
        call = ToolCall(name, arguments)
        messages += [
            Message(role="assistant", think=think, tool_call=call),
            Message(role="tool", text=result),
        ]
        spelled += f"<|python_start|>{call.text()}<|python_end|><|output_start|>{result}<|output_end|>"
        think = None
    messages.append(Message(role="assistant", think=think, text=text))
    return Answer(
        item="item",
        sample=0,
        messages=tuple(messages),
        written=f"{spelled}{text}<|assistant_end|>" if written is None else written,
        reason=reason,
        num_tokens=1,
    )


CALCULATED = ("calculator", {"expression": "2+3"}, "5")
ODD_PAGE = {"title": "Weather", "url": "http://[weather", "snippet": ""}
ODD = (
    "web_search",
    {"query": "weather"},
    json.dumps({"query": "q", "results": [{"url": 7, "title": 8}, ODD_PAGE]}),
)
SEARCHED = ("web_search", {"query": "Seoul weather"}, json.dumps({"query": "q", "results": [PAGE]}))


CASES: list[tuple[str, Any, Answer, Answer]] = [  # check, its value, an answer that passes, one that fails
    ("must_call", ("calculator",), answer(calls=(CALCULATED,)), answer(calls=(SEARCHED,))),
    ("must_not_call", ("any",), answer(), answer(calls=(CALCULATED,))),
    ("must_not_call", ("web_search",), answer(calls=(CALCULATED,)), answer(calls=(SEARCHED,))),
    ("call_contains", {"web_search": "seoul"}, answer(calls=(SEARCHED,)), answer(calls=(CALCULATED,))),
    ("max_calls", 1, answer(calls=(CALCULATED,)), answer(calls=(CALCULATED, CALCULATED))),
    ("answer_contains", ("Seoul", "12"), answer("12 degrees in SEOUL"), answer("12 degrees in Seoulia")),
    ("answer_contains_any", ("lift", "wing"), answer("The wing."), answer("Wings.")),
    ("answer_lacks", ("As an AI",), answer("As an aid"), answer("Well, as an AI, no.")),
    ("answer_regex", r"^\d+\.", answer("Well:\n2. x"), answer("Well: 2. x")),
    ("answer_number", "1081", answer("23 × 47 = 1,081."), answer("It is 1081, or 1082.")),
    ("answer_number", "7.65", answer("Leave $7.65."), answer("Leave $7.6")),
    ("must_think", True, answer(think="Hm."), answer()),
    ("must_think", False, answer(), answer(think="Hm.")),
    ("must_close_think", True, answer(think="Hm."), answer(written="<think>It is 5.<|assistant_end|>")),
    (
        *("must_close_think", True, answer(think="Hm.", calls=(CALCULATED,))),
        answer(written="<think>Hm.<|python_start|>{}<|python_end|>It is 5.<|assistant_end|>"),
    ),
    ("answer_after_think", True, answer(think="Hm."), answer("", think="It is 5.")),
    (
        *("answer_after_think", True, answer("It is 5.")),
        answer(written="It is 5.<think>Is it?</think>Yes.<|assistant_end|>"),
    ),
    ("no_artefacts", True, answer("a < b > c; the answer: 5"), answer("It is <b>5</b>.")),
    ("no_repetition", True, answer("one two three four. one two three."), answer("go on and on " * 3)),
    (
        *("citation_required", True, answer("12, says weather.example.", calls=(SEARCHED,))),
        answer("It has 12 degrees.", calls=(SEARCHED,)),
    ),
    (
        *("citation_required", True, answer("See Weather in Seoul: 12.", calls=(SEARCHED,))),
        answer("12, says weather.example.", calls=(CALCULATED,)),
    ),
    ("citation_required", True, answer("Weather: 12.", calls=(ODD,)), answer("It is cold.", calls=(ODD,))),
    ("min_length", 5, answer("abcde"), answer(" abcd ")),
    ("max_length", 5, answer(" abcde "), answer("abcdef")),
    ("num_lines", 3, answer("a\nb\n\nc"), answer("a\nb")),
    ("ends", True, answer(), answer(reason="length")),
    ("ends", True, answer(), answer(reason="no room")),
]


@pytest.mark.parametrize(("check", "value", "good", "bad"), CASES)
def test_each_check_passes_the_good_answer_and_names_the_bad_one(
    check: str, value: Any, good: Answer, bad: Answer
) -> None:
    assert find_failures(good, {check: value}) == {}
    failures = find_failures(bad, {check: value})
    assert list(failures) == [check]
    assert failures[check]
    assert "\n" not in failures[check]


def test_every_check_was_tried() -> None:
    assert {check for check, *_ in CASES} == set(CHECKS)
    assert set(STANDING) <= set(CHECKS)


@pytest.mark.parametrize(
    "text",
    [
        *("This is <b>bold</b>.", "An <i>idea</i>", "Answer: 5", "**Answer:** 5", "Look: ![a cat]"),
        *("As an AI language model, I", '{"tool": "web_search"}', "I am {{name}}.", "🎉🎉🎉"),
    ],
)
def test_artefacts_are_found_outside_code(text: str) -> None:
    assert find_artefact(f"Well.\n{text}") is not None
    assert find_artefact(f"Well.\n```\n{text}\n```") is None


def test_the_shipped_suite_asks_what_every_model_must_pass() -> None:
    suite = load_suite(PROBES)
    assert set(suite.categories) == CATEGORIES
    assert sum(probe.category != "tone" for probe in suite.probes) >= 33
    by_name = {probe.item: probe for probe in as_written(suite, PERSONA)}
    # A thought and a tool in one turn.
    weather, tip, airplanes = (
        by_name[name] for name in ("weather_in_think_mode", "tip_in_think_mode", "airplanes_in_think_mode")
    )
    assert weather.turns[0].user == "what's the weather in Seoul"
    assert (weather.checks["must_call"], weather.checks["answer_after_think"]) == (("web_search",), True)
    assert tip.turns[0].user == "calculate a 17% tip on $45"
    assert (tip.checks["must_call"], tip.checks["answer_number"]) == (("calculator",), "7.65")
    assert airplanes.turns[0].user == "how do airplanes fly"
    assert (airplanes.checks["must_not_call"], airplanes.checks["must_think"]) == (("any",), True)
    assert all(probe.thinks and probe.tools_run for probe in (weather, tip, airplanes))
    # Worked out in the thought.
    assert by_name["long_product"].turns[0].user == "23 × 47 = ?"
    assert by_name["long_product"].checks["answer_number"] == "1081"
    assert by_name["weekday_ago"].turns[0].user == "If today is Tuesday, what day was 10 days ago?"
    tuesday = datetime.date(2024, 1, 2)
    assert (tuesday - datetime.timedelta(days=10)).strftime("%A") == "Saturday"
    assert by_name["weekday_ago"].checks["answer_contains"] == ("Saturday",)
    train = by_name["train_arrives"]
    assert "leaves at 2pm, travels 300 miles at 60mph" in train.turns[0].user
    assert find_failures(answer("It arrives at 7 pm."), train.checks) == {}
    assert find_failures(answer("It arrives at 5 pm."), train.checks)
    required = {probe.item for probe in by_name.values() if probe.must_pass}
    assert required == {
        *("weather_in_think_mode", "tip_in_think_mode", "airplanes_in_think_mode"),
        *("long_product", "weekday_ago", "train_arrives"),
    }
    # Multi-turn.
    assert by_name["tell_me_more_about_him"].turns[-1].user == "Tell me more about him."


def test_facts_of_the_other_dates_hold() -> None:
    by_name = {probe.item: probe for probe in as_written(load_suite(PROBES), PERSONA)}
    friday = datetime.date(2024, 1, 5)
    ahead = (friday + datetime.timedelta(days=16)).strftime("%A")
    assert by_name["weekday_ahead"].checks["answer_contains"] == (ahead,)
    days = (datetime.date(2023, 3, 5) - datetime.date(2023, 1, 20)).days
    assert by_name["days_between"].checks["answer_contains"] == (str(days),)
    years = (datetime.date(2020, 2, 2) - datetime.date(1987, 3, 14)).days / 365.2425
    assert by_name["age"].checks["answer_contains"] == (str(int(years)),)


def test_what_probes_ask_of_a_search_is_in_the_pages() -> None:
    """The pages that come back hold every fact that an answer has to give."""
    suite = load_suite(PROBES)
    registry = probe_tools(suite)
    asked = [*as_written(suite, PERSONA), *held_out(suite, PERSONA, seed=0, per_probe=9)]
    searching = [probe for probe in asked if probe.checks.get("must_call") == ("web_search",)]
    assert len(searching) >= 14
    for probe in searching:
        found = registry.call("web_search", {"query": probe.turns[-1].user}, ToolContext())
        for fact in probe.checks.get("answer_contains", ()):
            assert fact in found.text, (probe.item, fact)


def test_the_persona_is_who_the_file_says() -> None:
    other = Persona(name="Chai", maker="Ada Lovelace")
    probes = {probe.item: probe for probe in as_written(load_suite(PROBES), other)}
    assert probes["who_are_you"].checks["answer_contains"] == ("Chai",)
    assert "Ada Lovelace" in probes["tell_about_maker"].turns[0].user
    files = "".join(path.read_text() for path in PROBES.glob("*.yaml"))
    assert PERSONA.name not in files
    assert PERSONA.maker not in files


def test_variants_are_held_out_and_depend_on_the_seed_alone() -> None:
    suite = load_suite(PROBES)
    written = {turn.user for probe in as_written(suite, PERSONA) for turn in probe.turns[-1:]}

    def variants(seed: int) -> list[AskedProbe]:
        return held_out(suite, PERSONA, seed=seed, per_probe=3)

    first, again, other = variants(0), variants(0), variants(1)
    assert [probe.turns for probe in first] == [probe.turns for probe in again]
    assert [probe.turns for probe in first] != [probe.turns for probe in other]
    assert len({probe.item for probe in first}) == len(first)
    # Every probe has one, and none is a probe as it is written.
    assert {probe.item.partition("/")[0] for probe in first} == {probe.name for probe in suite.probes}
    assert not written & {probe.turns[-1].user for probe in first}
    products = [probe for probe in first if probe.item.startswith("long_product/")]
    assert len(products) == 3
    for probe in products:
        a, b = map(int, re.findall(r"\d+", probe.turns[0].user))
        assert probe.checks["answer_number"] == str(a * b)
        # The key by which the tasks that make arithmetic tell their splits apart.
        assert split_of(f"{a} * {b}") == "heldout"


def test_a_variant_from_a_task_is_scored_by_it() -> None:
    suite = load_suite(PROBES)
    probe = next(
        probe
        for probe in held_out(suite, PERSONA, seed=0, per_probe=1)
        if probe.item.startswith("weekday_ago")
    )
    assert probe.task is not None
    _, example = probe.task
    assert example.checks["kind"] == "weekday_ago"
    assert probe.failures(answer(f"It was a {example.answer}.", think="Hm.")) == {}
    wrong = next(day for day in ("Monday", "Tuesday") if day != example.answer)
    assert "right_answer" in probe.failures(answer(f"It was a {wrong}.", think="Hm."))
    assert "answer_after_think" in probe.failures(answer("", think=f"It was a {example.answer}."))


GOOD: dict[str, Any] = {"name": "one", "say": "1+{a}?", "with": {"a": 2}, "checks": {"answer_number": "3"}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nme": "x"}, "probe 1: 'nme' is no key; did you mean name?"),
        ({"name": "Two Words"}, "probe 1: name is 'Two Words'"),
        ({"say": None}, "probe one: say is None; expected a text"),
        ({"turns": ["a"]}, "probe one needs one of say (a text) and turns (a list)"),
        ({"think": "yes please"}, "probe one: think is 'yes please'; expected true or false"),
        ({"say": "1+{b}?"}, "probe one: turns[0] has {b}, which stands for nothing"),
        ({"checks": {"answer_nmber": "3"}}, "checks: 'answer_nmber' is no key; did you mean answer_number"),
        ({"checks": {"min_length": "long"}}, "checks.min_length is 'long'; expected a whole number"),
        ({"checks": {"must_call": "calculater"}}, "checks.must_call has 'calculater', which is no tool; did"),
        ({"checks": {"answer_regex": "("}}, "checks.answer_regex is '(', no regular expression"),
        ({"checks": {"answer_number": "{c}"}}, "checks.answer_number has {c}, which stands for nothing"),
        ({"compute": {"x": "{a} +"}}, "compute.x is '2 +', which the calculator does not take"),
        ({"variants": {}}, "variants changes nothing"),
        ({"variants": {"numbers": {"a": [5, 1]}}}, "variants.numbers.a is [5, 1]"),
        ({"variants": {"numbers": [2, 5]}}, "variants.numbers is [2, 5]; expected a name with"),
        (
            {"compute": {"x": "6 / {a}"}, "variants": {"cases": [{"a": 3}, {"a": 0}]}},
            "compute.x is '6 / 0', which the calculator does not take",
        ),
        ({"variants": {"numbers": {"aa": [1, 5]}}}, "variants draw 'aa', which `with` does not give"),
        (
            {"variants": {"task": "tempral"}},
            "variants.task is 'tempral', which is no task; did you mean temp",
        ),
        ({"variants": {"say": ["{z}"]}}, "variants.say has {z}"),
    ],
)
def test_mistakes_are_named_by_file_probe_and_key(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"category": "reasoning", "probes": [{**GOOD, **change}]}))
    (tmp_path / "pages.jsonl").write_text(json.dumps(PAGE))
    with pytest.raises(UserError) as error:
        load_suite(tmp_path)
    assert says in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_mistakes_in_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no \*\.yaml"):
        load_suite(tmp_path)
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump({"category": "reasoning", "probes": [GOOD]}))
    assert load_suite(tmp_path).pages is None
    searching = {**GOOD, "name": "searching", "checks": {"must_call": "web_search"}}
    file.write_text(yaml.safe_dump({"category": "reasoning", "probes": [GOOD, searching]}))
    with pytest.raises(UserError, match=r"wants a search of .*pages\.jsonl, which is not there"):
        load_suite(tmp_path)
    file.write_text(yaml.safe_dump({"category": "reasoning", "probes": [GOOD]}))
    (tmp_path / "pages.jsonl").write_text(json.dumps(PAGE))
    assert load_suite(tmp_path).probes[0].values == {"a": "2"}
    (tmp_path / "b.yaml").write_text(file.read_text())
    with pytest.raises(UserError, match=r"b.yaml: probe one: the name is taken by .*a.yaml"):
        load_suite(tmp_path)
    for text, says in [
        ("probes: [", "no YAML can be read"),
        ("category: a\nprobes: []", "expected a list of at least one probe"),
        ("category: a b\nprobes: [1]", "category is 'a b'"),
        ("category: artefacts\nprobes: [1]", "which names another result"),
        ("category: a\nprobes: [text]", "probe 1 is 'text'"),
        ("probes: [1]", "has no category"),
    ]:
        (tmp_path / "b.yaml").write_text(text)
        with pytest.raises(UserError, match=re.escape(says)):
            load_suite(tmp_path)


def test_numbers_that_leave_nothing_to_draw_are_named(tmp_path: Path) -> None:
    values = [number for number in range(3, 40) if split_of(str(number)) == "train"]
    probe = {**GOOD, "variants": {"numbers": {"a": [values[0], values[0]]}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"category": "reasoning", "probes": [probe]}))
    (tmp_path / "pages.jsonl").write_text(json.dumps(PAGE))
    with pytest.raises(UserError, match="leave no held-out numbers to draw"):
        held_out(load_suite(tmp_path), PERSONA, seed=0, per_probe=1)
