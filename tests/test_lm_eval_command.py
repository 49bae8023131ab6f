"""`samosa lm-eval`: the harness's files and table, a result for every number of it, refusals in one line."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip(
    "lm_eval", reason="lm_eval not found: pip install 'samosa-jax[lm-eval]' to test its adapter"
)

import jax
import lm_eval.tasks
import yaml
from lm_eval.tasks import TaskManager
from lm_eval_tasks import QUESTIONS, evaluate, write_run, write_tasks

from samosa_jax import lm_eval_harness as command
from samosa_jax.command_line import run
from samosa_jax.errors import UserError
from samosa_jax.evals.results import read_items, read_results
from samosa_jax.lm_eval_model import SamosaLM
from samosa_jax.trained import Trained, open_trained


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def trained(run_folder: Path) -> Trained:
    return open_trained(run_folder, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def model(trained: Trained) -> SamosaLM:
    return SamosaLM(trained)


@pytest.fixture
def own_tasks_only(monkeypatch: pytest.MonkeyPatch):
    """Without the harness's own tasks, whose 14 000 files take many seconds to look through."""
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False))


@pytest.mark.usefixtures("own_tasks_only")
def test_the_command(run_folder: Path, tasks: Path, model: SamosaLM, capsys: pytest.CaptureFixture[str]):
    """The harness's files, its table, and a result with an interval and items for every number of it."""
    command.main(
        [str(run_folder), "--tasks=my_group,my_texts,my_answers", f"--include_path={tasks}", "--max_batch=2"]
    )
    output = capsys.readouterr().out
    assert "| - my_choices" in output
    assert "9 results: " in output
    results = {(one.task, one.metric): one for one in read_results(run_folder)}
    expected = {
        *(
            (f"lm_eval/my_{task}", metric)
            for task in ("choices", "more_choices")
            for metric in ("acc", "acc_norm")
        ),
        ("lm_eval/my_group", "acc"),
        *(("lm_eval/my_texts", metric) for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")),
        ("lm_eval/my_answers", "exact_match"),
    }
    assert results.keys() == expected
    found = evaluate(model, tasks, "my_choices", "my_texts")
    for (task, metric), result in results.items():
        assert result.low <= result.value <= result.high
        assert result.settings["version"] == ("N/A" if task == "lm_eval/my_group" else 3.0)
        name = task.removeprefix("lm_eval/")
        if name in found["results"]:
            assert result.value == pytest.approx(found["results"][name][f"{metric},none"], rel=1e-6)
        if name != "my_group":
            assert len(read_items(run_folder, result)) == result.num_items
    group = results["lm_eval/my_group", "acc"]
    assert (group.num_items, group.items) == (7, "")
    choices = results["lm_eval/my_choices", "acc"]
    scores = [item["score"] for item in read_items(run_folder, choices)]
    assert choices.value == pytest.approx(sum(scores) / len(QUESTIONS))
    assert choices.counts == {"truncated_prompts": 3}
    assert not results["lm_eval/my_texts", "bits_per_byte"].higher_is_better
    (file,) = run_folder.glob("lm_eval/00000001/*/small/results_*.json")
    assert json.loads(file.read_text())["config"]["model_num_parameters"] == model._trained.num_params


@pytest.mark.usefixtures("own_tasks_only")
def test_data_that_is_not_there(run_folder: Path, tasks: Path, tmp_path: Path):
    task = yaml.safe_load((tasks / "choices.yaml").read_text())
    task["dataset_kwargs"]["data_files"] = {"test": str(tmp_path / "gone.jsonl")}
    (tmp_path / "choices.yaml").write_text(yaml.safe_dump(task))
    with pytest.raises(UserError, match=r"data of the tasks cannot be read: .*gone\.jsonl.*--include_path"):
        command.main([str(run_folder), "--tasks=my_choices", f"--include_path={tmp_path}"])


@pytest.mark.usefixtures("own_tasks_only")
@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--tasks=my_choice"], "my_choice is no task of the harness; did you mean my_choices"),
        (["--tasks=my_choices", "--model=hf"], "--model has no effect here: the model is the run"),
        (["--tasks=my_choices", "--batch_size=8"], "--batch_size has no effect here: .* --max_batch"),
        (["--limit=3"], "--tasks is missing"),
        (["--tasks=my_choices", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--tasks=my_choices", "--max_batch=0"], "--tensor and --max_batch must be at least 1"),
        (
            ["--tasks=my_choices", "--fewshot_as_multiturn"],
            "the harness cannot begin: When `fewshot_as_multi",
        ),
        (["--tasks=my_answers", "--gen_kwargs", "top_pp=1"], "top_pp=1 is nothing .* did you mean top_p"),
    ],
)
def test_what_the_command_refuses(
    run_folder: Path, tasks: Path, capsys: pytest.CaptureFixture[str], flags: list[str], problem: str
):
    with pytest.raises(SystemExit) as ended:
        run(command.main, [str(run_folder), f"--include_path={tasks}", *flags])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert_matches(problem, line)


def assert_matches(pattern: str, line: str) -> None:
    with pytest.raises(UserError, match=pattern):
        raise UserError(line)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit) as ended:
        run(command.main, ["runs/base", "--tasks=hellaswag"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'samosa-jax[lm-eval]'" in error


def test_help_is_of_both(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        run(command.main, ["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "--max_batch" in output
    assert "--num_fewshot" in output
