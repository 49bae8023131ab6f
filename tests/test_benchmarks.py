"""Tables of tasks, rows as they were published, files local and from the hub, and what is wrong with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import training_runs
from hub_server import Hub, serve
from likelihood_models import MODEL, make_scorer, random_params

from samosa_jax.data import hub as hub_module
from samosa_jax.data.chat.role_bytes import turn_positions
from samosa_jax.data.chat.template import render
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.chat_prompts import encode_in_conversation
from samosa_jax.evals.items import ChoiceItem, SchemaItem, TextItem, read_item
from samosa_jax.evals.likelihood_tasks import TABLES, open_questions, read_table, run_task
from samosa_jax.evals.published_rows import published_item
from samosa_jax.model.gpt import Network
from samosa_jax.tasks.multiple_choice import ChoiceQuestion, example_of

BENCHMARKS = read_table(TABLES / "benchmarks.yaml")
ARC_CHOICES = {"text": ["ice", "steam", "sand"], "label": ["A", "B", "C"]}
PUBLISHED: list[tuple[str, dict[str, Any], Any]] = [
    (
        "mmlu",
        {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "arithmetic"},
        ChoiceItem(
            name="0",
            query="2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:",
            choices=("A", "B", "C", "D"),
            gold=1,
            group="arithmetic",
        ),
    ),
    (
        "arc",
        {"question": "What is hot?", "choices": ARC_CHOICES, "answerKey": "B"},
        ChoiceItem(name="0", query="Question: What is hot?", choices=("ice", "steam", "sand"), gold=1),
    ),
    (
        "csqa",
        {"question": "What is hot?", "choices": ARC_CHOICES, "answerKey": "C"},
        ChoiceItem(
            name="0", query="Question: What is hot?\nAnswer:", choices=("ice", "steam", "sand"), gold=2
        ),
    ),
    (
        "hellaswag",
        {
            "ctx_a": "[header] How to bake [title] Take flour.",
            "ctx_b": "she",
            "activity_label": "Baking",
            "endings": ["[step] mixes it.", "flies."],
            "label": "0",
        },
        ChoiceItem(
            name="0",
            query="Baking: How to bake. Take flour. She",
            choices=("mixes it.", "flies."),
            gold=0,
        ),
    ),
    (
        "piqa",
        {"goal": "Open a jar", "sol1": "Twist.", "sol2": "Sing.", "label": 0},
        ChoiceItem(name="0", query="Question: Open a jar", choices=("Twist.", "Sing."), gold=0),
    ),
    (
        "boolq",
        {"passage": "Ice is cold.", "question": "is ice cold", "answer": True},
        ChoiceItem(
            name="0", query="Passage: Ice is cold.\nQuestion: is ice cold?", choices=("no", "yes"), gold=1
        ),
    ),
    (
        "winogrande",
        {"sentence": "Ann thanked Sue, as _ had helped.", "option1": "Ann", "option2": "Sue", "answer": "2"},
        SchemaItem(
            name="0",
            contexts=("Ann thanked Sue, as Ann", "Ann thanked Sue, as Sue"),
            continuation="had helped.",
            gold=1,
        ),
    ),
    (
        "lambada",
        {"text": "He opened the old door"},
        TextItem(name="0", context="He opened the old", continuation="door"),
    ),
    (
        "openbookqa",
        {"question_stem": "The sun is", "choices": ARC_CHOICES, "answerKey": "A"},
        ChoiceItem(name="0", query="The sun is", choices=("ice", "steam", "sand"), gold=0),
    ),
    (
        "siqa",
        {
            "context": "Ann fell.",
            "question": "How does she feel?",
            "answerA": "glad",
            "answerB": "hurt",
            "answerC": "rich",
            "label": "2",
        },
        ChoiceItem(
            name="0",
            query="Context: Ann fell.\nQuestion: How does she feel?\nAnswer:",
            choices=("glad", "hurt", "rich"),
            gold=1,
        ),
    ),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    training_runs.write_dataset(folder)
    return Tokenizer.load(folder / "tokenizer")


@pytest.mark.parametrize(("form", "row", "wanted"), PUBLISHED, ids=[form for form, _, _ in PUBLISHED])
def test_published_rows_become_items(form: str, row: dict[str, Any], wanted: Any) -> None:
    assert published_item(row, form=form, name="0", where="f: row 1") == wanted
    for field in row:
        if field in ("activity_label", "ctx_b", "subject"):
            continue
        damaged = {name: value for name, value in row.items() if name != field}
        with pytest.raises(UserError, match=rf"f: row 1.* no {field}; found "):
            published_item(damaged, form=form, name="0", where="f: row 1")


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            "multiple_choice",
            {"query": "a", "choices": ["b", "c"], "gold": 2},
            "gold is 2; expected a whole number",
        ),
        ("multiple_choice", {"query": "a", "choices": ["b", "c"], "gold": -1}, "from 0 to 1"),
        ("multiple_choice", {"query": "a", "choices": ["b", "c"], "gold": True}, "gold is True"),
        ("multiple_choice", {"query": "a", "choices": ["b"], "gold": 0}, "a list of at least 2 texts"),
        ("multiple_choice", {"query": "a", "choices": ["b", 3], "gold": 0}, "a list of at least 2 texts"),
        ("multiple_choice", {"query": " ", "choices": ["b", "c"], "gold": 0}, "query is ' '"),
        (
            "multiple_choice",
            {"qurey": "a", "choices": ["b", "c"], "gold": 0},
            "no query; found qurey, choices, gold",
        ),
        ("schema", {"context_options": ["a", "b"], "continuation": "c"}, "has no gold"),
        ("language_modeling", {"context": "a", "continuation": ""}, "continuation is ''"),
        ("language_modeling", ["a"], "is list; expected an object"),
    ],
)
def test_bad_rows_are_refused_by_field(kind: Any, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=r"^f: row 3") as error:
        read_item(row, kind=kind, name="2", where="f: row 3")
    assert message in str(error.value)


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_that_are_missing_empty_or_too_short(tmp_path: Path) -> None:
    task = BENCHMARKS["piqa"]
    with pytest.raises(UserError, match="has no commonsense_reasoning/piqa"):
        open_questions(task, data_dir=tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        open_questions(task, data_dir=tmp_path / "gone")
    (tmp_path / "piqa.jsonl").write_text("")
    with pytest.raises(UserError, match=r"piqa\.jsonl: no rows"):
        open_questions(task, data_dir=tmp_path)
    write_lines(tmp_path / "piqa.jsonl", [PUBLISHED[4][1], {"query": "a", "choices": ["b", "c"], "gold": 7}])
    with pytest.raises(UserError, match=r"piqa\.jsonl: row 2: gold is 7"):
        open_questions(task, data_dir=tmp_path)
    core = read_table(TABLES / "core.yaml")
    write_lines(tmp_path / "piqa.jsonl", [{"query": "a", "choices": ["b", "c"], "gold": 1}] * 10)
    with pytest.raises(UserError, match="has 10 questions; 10 examples before each need at least 11"):
        open_questions(core["core/piqa"], data_dir=tmp_path)
    for folder in (tmp_path, None):
        with pytest.raises(UserError, match=r"squad\.jsonl, the questions of squad; name a folder"):
            open_questions(core["core/squad"], data_dir=folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks:\n  - name: a\n    knid: schema\n", "2: tasks[0].knid is no key; did you mean kind?"),
        ("tasks:\n  - name: a\n    kind: schema\n", "tasks[0] has no local"),
        ("tasks:\n  - {name: a, kind: schemas, local: [a]}\n", "kind"),
        ("tasks:\n  - {name: a, kind: schema, local: [a], form: winogrand}\n", "did you mean winogrande?"),
        ("tasks:\n  - {name: a, kind: schema, local: [a], baseline: 100}\n", "baseline of task a is 100"),
        ("tasks:\n  - {name: a, kind: schema, local: [a], shots: -1}\n", "shots of task a is -1"),
        ("tasks:\n  - {name: a, kind: schema, local: []}\n", "local of task a is empty"),
        ("tasks:\n  - {name: a, kind: schema, local: [a], asked: in_conversation}\n", "in_conversation"),
        ("tasks:\n" + "  - {name: a, kind: schema, local: [a]}\n" * 2, "two tasks of the name a"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_table(path)
    assert message in str(error.value)


def test_all_files_here_are_read(test_data: Path) -> None:
    """Every benchmark but HellaSwag, whose file is not among the test data; as many as were published."""
    counts = {
        name: len(open_questions(task, data_dir=test_data).items)
        for name, task in BENCHMARKS.items()
        if name != "hellaswag"
    }
    assert counts == {
        "mmlu": 14042,
        "arc_easy": 2376,
        "arc_challenge": 1172,
        "piqa": 1838,
        "boolq": 3270,
        "winogrande": 1267,
        "lambada": 5153,
        "openbookqa": 500,
        "siqa": 1954,
        "csqa": 1221,
    }


def test_mmlu_shows_examples_of_the_same_subject(test_data: Path, tokenizer: Tokenizer) -> None:
    questions = open_questions(BENCHMARKS["mmlu"], data_dir=test_data)
    assert len(questions.examples) == 285
    assert questions.chance == 0.25
    network = Network.build(MODEL)
    outcome, counts = run_task(
        BENCHMARKS["mmlu"],
        questions,
        scorer=make_scorer(network, random_params(network)),
        tokenizer=tokenizer,
        limit=10,
    )
    assert len(outcome["accuracy"]) == 10
    assert counts["truncated_prompts"] == 10  # five examples are more than 128 tokens
    assert all(len(item["values"]) == 4 for item in outcome["accuracy"])


def test_a_subject_with_too_few_examples_is_named(tmp_path: Path) -> None:
    row = PUBLISHED[0][1]
    write_lines(tmp_path / "mmlu" / "test.jsonl", [row, {**row, "subject": "anatomy"}])
    write_lines(tmp_path / "mmlu" / "dev.jsonl", [row] * 5 + [{**row, "subject": "anatomy"}] * 4)
    task = replace(BENCHMARKS["mmlu"], local=("mmlu/test",), examples_local=("mmlu/dev",))
    with pytest.raises(UserError, match=r"dev\.jsonl has 4 examples of anatomy; the task shows 5"):
        open_questions(task, data_dir=tmp_path)


@pytest.mark.parametrize("form", ["arc", "openbookqa"])
def test_as_many_labels_as_choices(form: str) -> None:
    row = next(row for name, row, _ in PUBLISHED if name == form)
    more = {**row, "choices": {**row["choices"], "label": ["A", "B", "C", "D"]}, "answerKey": "D"}
    with pytest.raises(UserError, match=r"f: row 1: choices: label is .*; expected one for each of the 3"):
        published_item(more, form=form, name="0", where="f: row 1")


def test_the_hub_gives_the_same_questions_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}", "choices": ARC_CHOICES, "answerKey": "ABC"[n % 3]} for n in range(7)]
    parquet = tmp_path / "test.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    files = {"ARC-Easy/test-00000-of-00001.parquet": parquet.read_bytes(), "ARC-Easy/train-0.parquet": b"no"}
    monkeypatch.setattr(hub_module, "PAUSE_S", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))  # where the cache is
    with serve(Hub(repo="allenai/ai2_arc", commits={"a" * 40: files})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        fetched = open_questions(BENCHMARKS["arc_easy"], data_dir=None)
        again = open_questions(BENCHMARKS["arc_easy"], data_dir=None)
        assert hub.downloads().count("test-00000-of-00001.parquet") == 1
    write_lines(tmp_path / "local" / "arc_easy.jsonl", rows)
    local = open_questions(BENCHMARKS["arc_easy"], data_dir=tmp_path / "local")
    assert fetched == again
    assert fetched.items == local.items
    assert len(fetched.items) == 7
    assert fetched.fingerprint != local.fingerprint  # of the files


def test_questions_in_a_conversation(tokenizer: Tokenizer) -> None:
    item = ChoiceItem(name="0", query="Question: What is hot?", choices=("ice", "steam"), gold=1)
    ((first, second),) = encode_in_conversation([item], tokenizer)
    question = ChoiceQuestion(question="What is hot?", choices=("ice", "steam"), answer=1)
    trained = render(example_of(question).conversation, tokenizer)
    tokens = np.concatenate([second.context, second.continuation])
    # As far as it goes it is what the model was trained on, position by position.
    assert np.array_equal(tokens, trained.tokens[: len(tokens)])
    assert np.array_equal(second.turn_position, turn_positions(trained.begins_turn)[: len(tokens)])
    assert np.array_equal(first.context, second.context)
    assert tokenizer.decode(first.continuation).strip() == "A"
    assert tokenizer.decode(second.continuation).strip() == "B"
