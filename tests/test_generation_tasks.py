"""Evaluation by generation: pass@k, answers checked against published labels, and a real model asked."""

import errno
import gzip
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import serving
from hub_server import Hub, serve

from samosa_jax.data.chat.conversation import Message
from samosa_jax.errors import UserError
from samosa_jax.evals.asking import seed_of
from samosa_jax.evals.generation import GenerationSettings, Subject, evaluate_generation, pass_at_k
from samosa_jax.evals.generation_tasks import (
    GENERATION_TASKS,
    MADE_ITEMS,
    check_sandbox,
    find_generation_task,
    open_items,
)
from samosa_jax.evals.results import read_items, read_results
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.rollout.tools.sandbox import protections
from samosa_jax.tasks import gsm8k, humaneval, svamp
from samosa_jax.tasks.task import Example, tools_called
from samosa_jax.trained import make_engines, open_trained


@pytest.mark.parametrize(("num_samples", "num_right"), [(5, 0), (5, 1), (6, 3), (4, 4)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(num_samples: int, num_right: int) -> None:
    rights = [number < num_right for number in range(num_samples)]
    for k in range(1, num_samples + 1):
        draws = list(itertools.combinations(rights, k))
        assert pass_at_k(num_samples, num_right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_refuses_what_means_nothing() -> None:
    for num_samples, num_right, k in [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)]:
        with pytest.raises(ValueError, match="means nothing"):
            pass_at_k(num_samples, num_right, k)
    for wrong in [{"samples": 0}, {"ks": (2,)}, {"ks": ()}, {"samples": 2, "ks": (1, 2)}]:
        with pytest.raises(UserError):
            GenerationSettings(**wrong)


def test_seeds_differ_by_task_item_and_sample() -> None:
    keys = [("gsm8k", "1", 0), ("gsm8k", "1", 1), ("gsm8k", "11", 0), ("svamp", "1", 0)]
    assert len({seed_of(seed, *key) for seed in (0, 1) for key in keys}) == 8
    assert seed_of(0, "gsm8k", "1", 0) == seed_of(0, "gsm8k", "1", 0)


def test_the_gsm8k_checker_agrees_with_the_published_labels(test_data: Path) -> None:
    disagreements, count = [], 0
    with gzip.open(test_data / "gsm8k/example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            solution = row["ground_truth"].replace("\nA: ", "\n#### ")
            example = gsm8k.example_of({"question": row["question"], "answer": solution}, f"row {number}")
            for model, answer in row.items():
                if isinstance(answer, dict):
                    count += 1
                    if bool(gsm8k.score(example, answer["solution"])) != answer["is_correct"]:
                        disagreements.append((number, model, example.answer, answer["solution"][-60:]))
    assert count == 4 * 1319
    for disagreement in disagreements:
        print(*disagreement)
    assert len(disagreements) <= 0.005 * count
    # As it stands there is none; one that comes up is a change of the checker that somebody should see.
    assert not disagreements


def test_gsm8k_items_are_the_rows_of_the_file(test_data: Path) -> None:
    task = find_generation_task("gsm8k")
    items = open_items(task, data_dir=test_data)
    assert len(items) == 1319
    assert [item.name for item in open_items(task, data_dir=test_data, limit=3)] == ["1", "2", "3"]
    assert items[0].example.answer == "18"
    assert all(task.score(item.example, item.example.answer_text) == 1.0 for item in items)


def test_gsm8k_has_other_questions_to_learn_from(test_data: Path) -> None:
    task = find_generation_task("gsm8k")
    train = open_items(task, data_dir=test_data, split="train")
    assert len(train) == 7473
    asked = [item.example.prompt.messages[-1].text for item in train]
    held_out = {item.example.prompt.messages[-1].text for item in open_items(task, data_dir=test_data)}
    assert not held_out & set(asked)
    assert sum(tools_called(item.example.solution) == [] for item in train) < 0.02 * len(train)
    assert all(task.score(item.example, item.example.answer_text) == 1.0 for item in train[::50])
    with pytest.raises(UserError, match="humaneval has no questions to learn from"):
        open_items(find_generation_task("humaneval"), data_dir=test_data, split="train")
    with pytest.raises(UserError, match="gsm8k has no levels"):
        open_items(task, data_dir=test_data, levels=(1,))


def test_made_questions_come_by_split_and_level() -> None:
    task = find_generation_task("sums")
    train = open_items(task, data_dir=None, split="train", levels=(2, 4), limit=200)
    held_out = open_items(task, data_dir=None, levels=(2, 4), limit=200)
    assert {item.example.checks["level"] for item in train} == {2, 4}
    expressions = [
        {call.arguments["expression"] for item in items if (call := item.example.solution[0].tool_call)}
        for items in (train, held_out)
    ]
    assert all(len(found) > 190 for found in expressions)
    assert not expressions[0] & expressions[1]


def test_svamp_rows_of_both_kinds(test_data: Path) -> None:
    task = find_generation_task("svamp")
    items = open_items(task, data_dir=test_data)
    assert len(items) == 300
    assert all(task.score(item.example, f"So the answer is {item.example.answer}.") for item in items)
    assert not any(task.score(item.example, "It is 123456.") for item in items)
    published = {"Body": "Tom has 3 pens.", "Question": "He buys 2. How many?", "Answer": 5.0}
    example = svamp.example_of(published, "row 1")
    assert (example.prompt.messages[0].text, example.answer) == ("Tom has 3 pens. He buys 2. How many?", "5")
    for row, says in [({"Answer": 5}, "row 1 has no question"), ({**published, "Answer": "x"}, "answer 'x'")]:
        with pytest.raises(UserError, match=says):
            svamp.example_of(row, "row 1")


def test_humaneval_solutions_pass_in_the_sandbox_and_nothing_else(test_data: Path) -> None:
    if any(not found.is_active for found in protections()):
        pytest.skip("the sandbox does not hold on this kernel: code that was published is not run here")
    task = find_generation_task("humaneval")
    items = open_items(task, data_dir=test_data)
    assert len(items) == 164
    assert items[0].name == "HumanEval/0"
    for item in items[::9]:
        assert task.score(item.example, item.example.answer_text) == 1.0, item.name
    first = items[0].example
    bodies = {
        "the body alone": (first.answer, 1.0),
        "text around it": (f"Sure!\n{first.answer_text}\nI hope it helps.", 1.0),
        "a wrong body": ("    return True\n", 0.0),
        "leaving early": ("    pass\nimport sys\nsys.exit(0)\n", 0.0),
        "no code": ("I cannot write code.", 0.0),
        "without end": ("    pass\nwhile True: pass\n", 0.0),
    }
    for name, (text, score) in bodies.items():
        assert task.score(first, text) == score, name


def test_code_is_found_in_an_answer() -> None:
    row = {
        "task_id": "t/1",
        "prompt": "import math\n\n\ndef area(r):\n    '''Of a circle.'''\n",
        "entry_point": "area",
        "test": "def check(f):\n    assert f(1) > 3\n",
        "canonical_solution": "    return math.pi * r * r\n",
    }
    example = humaneval.example_of(row, "row 1")
    whole = "def area(r):\n    return math.pi * r * r\n"
    in_block = humaneval.code_of(example, f"```python\nprint(1)\n```\nand\n```\n{whole}```")
    assert in_block.startswith("import math")
    assert in_block.endswith(whole)
    assert humaneval.code_of(example, row["canonical_solution"]).startswith(row["prompt"])
    with pytest.raises(UserError, match="row 2 has no text 'test'"):
        humaneval.example_of({**row, "test": None}, "row 2")


def test_code_is_run_only_where_the_sandbox_holds() -> None:
    missing = tuple(found.name for found in protections() if not found.is_active)
    assert check_sandbox(insist=True) == missing
    if missing:
        with pytest.raises(UserError, match=f"does not stop {missing[0]}"):
            check_sandbox(insist=False)
    else:
        assert check_sandbox(insist=False) == ()


@pytest.mark.parametrize("name", [name for name, task in GENERATION_TASKS.items() if task.file is None])
def test_made_tasks_are_held_out_and_score_their_own_solutions(name: str) -> None:
    task = find_generation_task(name)
    items = open_items(task, data_dir=None, seed=3, limit=20)
    assert len({item.name for item in items}) == 20
    assert [item.example for item in items] == [
        item.example for item in open_items(task, data_dir=None, seed=3, limit=20)
    ]
    for item in items:
        assert task.score(item.example, item.example.answer_text, item.example.solution) == 1.0
        if name != "tool_choice":  # which an answer without a tool may get right
            assert (
                task.score(item.example, "Rather the wind outside.", (Message(role="assistant", text=""),))
                == 0.0
            )
    assert len(open_items(task, data_dir=None)) == MADE_ITEMS


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'gsm8' is no task of generation; did you mean gsm8k"):
        find_generation_task("gsm8")
    task = find_generation_task("gsm8k")
    with pytest.raises(UserError, match=r"has no gsm8k/test\.jsonl"):
        open_items(task, data_dir=tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        open_items(task, data_dir=tmp_path / "nowhere")
    file = tmp_path / "gsm8k.jsonl"
    for text, says in [
        ("\n", "no rows; a task needs at least one question"),
        ('{"question": "1+1?"}\n', 'row 1 has no texts "question" and "answer"'),
        ('{"question": "1+1?", "answer": "two"}\n', "row 1 does not end in ####"),
        ("{\n", "row 1 cannot be read: not JSON"),
    ]:
        file.write_text(text)
        with pytest.raises(UserError) as error:
            open_items(task, data_dir=tmp_path)
        assert says in str(error.value)
        assert str(file) in str(error.value)


def test_without_a_folder_questions_come_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pyarrow.table({"question": ["What is 6*7?"], "answer": ["6*7 = 42\n#### 42"]})
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet")
    files = {"main/test-00000-of-00001.parquet": (tmp_path / "test.parquet").read_bytes()}
    with serve(Hub(repo="openai/gsm8k", commits={"a" * 40: files})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        items = open_items(find_generation_task("gsm8k"), data_dir=None, cache=tmp_path / "cache")
        assert [item.example.answer for item in items] == ["42"]


# A real model that answers every question with 42, by a call of the calculator.


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    trained = open_trained(serving.write_run(tmp_path_factory.mktemp("talker")))
    engines = make_engines(trained, max_batch=4)
    with Assistant(engines, trained.tokenizer, registry=Registry([CalculatorTool()])) as assistant:
        yield Subject(
            assistant=assistant,
            tokenizer=trained.tokenizer,
            run=Path("nowhere"),
            step=trained.step,
            checkpoint="c" * 64,
            config="config",
        )


@pytest.fixture
def subject(talker: Subject, tmp_path: Path) -> Subject:
    return replace(talker, run=tmp_path)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A folder with three problems; the answer to the first two is 42."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"question": "What is 6*7?", "answer": "#### 42"},
        {"question": "Anna has 40 pens and gets 2. How many?", "answer": "40 + 2\n#### 42"},
        {"question": "What is 2+3?", "answer": "2+3 = <<2+3=5>>5\n#### 5"},
    ]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_answers_are_given_with_tools_scored_and_kept(subject: Subject, questions: Path) -> None:
    task = find_generation_task("gsm8k")
    items = open_items(task, data_dir=questions)
    settings = GenerationSettings(samples=2, ks=(1, 2), temperature=0.7)
    results = evaluate_generation(task, items, subject, settings)
    assert results == read_results(subject.run)
    assert [result.metric for result in results] == ["pass@1", "pass@2"]
    for result in results:
        assert result.value == pytest.approx(2 / 3)
        assert result.low < result.value < result.high
        assert (result.num_items, result.checkpoint, result.settings["config"]) == (3, "c" * 64, "config")
        assert result.counts["answers"] == 6
        assert (result.counts["truncated"], result.counts["no_room"]) == (0, 0)
        assert [line["score"] for line in read_items(subject.run, result)] == [1.0, 1.0, 0.0]
    first = read_items(subject.run, results[0])[0]
    assert first["prompt"] == [{"role": "user", "content": "What is 6*7?"}]
    assert first["expected"] == "42"
    assert [answer["answer"] for answer in first["answers"]] == [serving.AFTER_CALL] * 2
    assert (
        f"<|python_start|>{serving.CALL}<|python_end|><|output_start|>42<|output_end|>"
        in (first["answers"][0]["written"])
    )


def no_space(source: Path, target: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_evaluation_that_was_stopped_goes_on(
    subject: Subject, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = find_generation_task("gsm8k")
    items = open_items(task, data_dir=questions)
    settings = GenerationSettings(samples=2, temperature=0.7)
    asked: list[str] = []

    def score(example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        asked.append(example.answer)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return gsm8k.score(example, answer_text)

    watched = replace(task, score=score)
    with pytest.raises(KeyboardInterrupt):
        evaluate_generation(watched, items, subject, settings)
    assert not read_results(subject.run)
    (unfinished,) = subject.run.rglob("*.unfinished")
    # A kill may cut the last line, a disk may lose one.
    unfinished.write_text(unfinished.read_text() + '\0\0\0\n{"item": "3", "sam')
    kept = unfinished.read_text()
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", no_space)
        with pytest.raises(UserError, match=r"answers cannot be written"):
            evaluate_generation(watched, items, subject, settings)
    assert unfinished.read_text() == kept
    (result,) = evaluate_generation(watched, items, subject, settings)
    assert len(asked) == 4 + 3
    assert result.counts["kept_from_before"] == 3
    assert result.value == pytest.approx(2 / 3)
    assert not list(subject.run.rglob("*.unfinished"))


def test_answers_to_other_settings_are_not_taken_over(subject: Subject, questions: Path) -> None:
    task = find_generation_task("gsm8k")
    items = open_items(task, data_dir=questions)

    def failing(example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        if example.answer == "5":
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        evaluate_generation(replace(task, score=failing), items, subject, GenerationSettings())
    changes: list[dict[str, Any]] = [{"seed": 1}, {"max_tokens": 60}]
    for change in changes:
        (result,) = evaluate_generation(task, items, subject, GenerationSettings(**change))
        assert result.counts["kept_from_before"] == 0


def test_what_is_cut_off_and_what_has_no_room_are_counted(subject: Subject, questions: Path) -> None:
    task = find_generation_task("gsm8k")
    items = open_items(task, data_dir=questions)
    (cut,) = evaluate_generation(task, items, subject, GenerationSettings(max_tokens=4))
    assert (cut.counts["truncated"], cut.value) == (3, 0.0)
    row = {"question": "What is 6*7? " * 500, "answer": "#### 42"}
    (questions / "gsm8k.jsonl").write_text(json.dumps(row) + "\n")
    long = open_items(task, data_dir=questions)
    (crowded,) = evaluate_generation(task, long, subject, GenerationSettings())
    assert (crowded.counts["no_room"], crowded.value) == (1, 0.0)
    with pytest.raises(UserError, match="gsm8k has no question"):
        evaluate_generation(task, [], subject, GenerationSettings())
