"""How answers are read, and the tasks whose rows come from files."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest

from samosa_jax.data.chat.conversation import check, parse_conversation, to_json
from samosa_jax.errors import UserError
from samosa_jax.tasks import gsm8k
from samosa_jax.tasks.calculator import calculate
from samosa_jax.tasks.identity import Persona, load_persona
from samosa_jax.tasks.multiple_choice import read_choice_row
from samosa_jax.tasks.scoring import (
    final_date,
    final_number,
    final_spelling,
    final_time,
    final_weekday,
    gives_number,
)
from samosa_jax.tasks.task import Example
from samosa_jax.tasks.verse import is_couplet, is_haiku, is_joke, is_limerick


@pytest.mark.parametrize(
    ("text", "wanted", "places", "right"),
    [
        ("It is $1,250.00.", "1250", None, True),
        ("so 3 boxes make 72.", "72", None, True),
        ("#### 72\nand 5 more", "72", None, True),
        ("It falls to −5", "-5", None, True),
        ("7.654", "7.65", 2, True),
        ("7.66", "7.65", 2, False),
        ("7.654", "7.65", None, False),
        ("no number", "1", None, False),
        ("721", "72", None, False),
        ("from 5-3", "3", None, True),
        ("what is 5 - 3", "3", None, True),
        ("a loss of -$1,250.50", "-1250.5", None, True),
        ("#### 276,0001", "276000", None, False),
        (f"It is {'9' * 5000}.", "9", None, False),
    ],
)
def test_numbers_are_read(text: str, wanted: str, places: int | None, right: bool):
    assert gives_number(text, wanted, places=places) is right


def test_other_answers_are_read():
    assert final_number("none") is None
    assert final_weekday("not monday but Saturday") == "Saturday"
    assert final_date("From 3 May 2001 to March 14, 1987.") == "1987-03-14"
    assert final_date("1987-03-14") == "1987-03-14"
    assert final_time("leaves at 2 pm and comes at 12:05 am") == "00:05"
    assert final_time("17:30") == "17:30"
    assert final_spelling("banana is b-a-n-a-n-a") == "banana"
    assert final_spelling("I see a, b and c d e") == "cde"


def test_forms_of_verse_are_told_apart():
    haiku = "The quiet mountain\nA shadow fades by the sea\nGentle cloud settles"
    couplet = "A kite went up in the light\nand was lost to sight"
    limerick = "A man from Spain\nCame in the rain\nThe neighbours said\nGo to bed\nOn the train"
    joke = "Why did it stop?\nNobody had wound it up."
    texts = {is_haiku: haiku, is_couplet: couplet, is_limerick: limerick, is_joke: joke}
    for rule in texts:
        assert [text for text in texts.values() if rule(text)] == [texts[rule]]
    assert not is_haiku(haiku.replace("quiet", "cold"))
    assert not is_couplet(couplet.replace("sight", "view"))


def test_gsm8k_becomes_calls():
    solution = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72.\n#### 72"
    found = gsm8k.conversation_of("How many?", solution)
    check(found)
    calls = [message.tool_call.arguments for message in found.messages if message.tool_call]
    assert calls == [{"expression": "48/2"}, {"expression": "48+24"}]
    assert [message.text for message in found.messages if message.role == "tool"] == ["24", "72"]
    spoken = "".join(message.text for message in found.messages if message.role == "assistant")
    assert spoken == solution.replace("<<48/2=24>>", "").replace("<<48+24=72>>", "")
    wrong = gsm8k.conversation_of("How many?", "That is <<10/3=3>>3.\n#### 3")
    assert [message.role for message in wrong.messages] == ["user", "assistant"]


def read_gsm8k(path: Path) -> list[Example]:
    with gzip.open(path) as file:
        return [
            gsm8k.example_of(json.loads(line), f"{path}: row {row}") for row, line in enumerate(file, start=1)
        ]


def test_gsm8k_rows(test_data: Path):
    calls = 0
    for example in read_gsm8k(test_data / "gsm8k/test.jsonl.gz")[:300]:
        check(example.conversation)
        assert parse_conversation(to_json(example.conversation)) == example.conversation
        assert gsm8k.score(example, example.answer_text) == 1.0
        assert gsm8k.score(example, f"#### {example.answer}1") == 0.0
        messages = example.conversation.messages
        for message, result in pairwise(messages):
            if message.tool_call:
                calls += 1
                assert result.text == calculate(message.tool_call.arguments["expression"])
    assert calls > 300


def test_gsm8k_scores_real_solutions(test_data: Path):
    """The published verdicts on model solutions are ours."""
    examples = read_gsm8k(test_data / "gsm8k/test.jsonl.gz")
    by_question = {example.prompt.messages[0].text: example for example in examples}
    agree, seen = 0, 0
    with gzip.open(test_data / "gsm8k/example_model_solutions.jsonl.gz") as file:
        for line in file:
            row = json.loads(line)
            example = by_question.get(row["question"].strip())
            for value in row.values():
                if example and isinstance(value, dict) and "is_correct" in value:
                    seen += 1
                    agree += gsm8k.score(example, value["solution"]) == float(value["is_correct"])
    assert seen > 1000
    assert agree == seen


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": "q", "answer": "no mark"}, "row 1 does not end in #### and a number"),
        ({"question": "q"}, 'row 1 has no texts "question" and "answer"'),
        ([], 'row 1 has no texts "question" and "answer"'),
    ],
)
def test_bad_gsm8k_rows_are_named(row: object, complaint: str):
    with pytest.raises(UserError, match=complaint):
        gsm8k.example_of(row, "row 1")


def test_rows_of_mmlu_and_arc():
    mmlu = {"question": "q", "choices": ["a", "b"], "answer": 1}
    arc = {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}
    assert read_choice_row(mmlu, "x") == read_choice_row(arc, "x")
    for bad in ({}, {**mmlu, "answer": 2}, {**mmlu, "choices": ["a"]}, {**arc, "answerKey": "C"}):
        with pytest.raises(UserError, match=r"x\.jsonl: row 3 is no multiple-choice question"):
            read_choice_row(bad, "x.jsonl: row 3")


def test_the_persona_file_is_the_default_persona():
    assert load_persona(Path(__file__).parents[1] / "configs/personas/samosachaat.yaml") == Persona()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("nme: x", "'nme' is no key"),
        ("name: 3", "name is 3; expected a text"),
        ("character: []", "character is \\[\\]; expected a list of texts"),
        ("- a", "expected keys such as name"),
        ("a: [", "no persona can be read"),
    ],
)
def test_bad_personas_are_named(tmp_path: Path, content: str, complaint: str):
    path = tmp_path / "persona.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        load_persona(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
