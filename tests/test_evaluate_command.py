"""`samosa evaluate`: results on disk at once, nothing done twice, what is missing named, gates that stop."""

import io
import json
from pathlib import Path
from typing import Any

import jax
import pytest
import training_runs
from rich.console import Console

from samosa_jax import evaluate
from samosa_jax.command_line import parse_config
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals import prompts
from samosa_jax.evals.promotion import read_promotion
from samosa_jax.evals.results import TaskResult, append_result, read_items, read_results
from samosa_jax.model.gpt import Network

QUESTIONS = [
    {"query": f"Anna sees {what}", "choices": ["a house", "the river", "two apples"], "gold": number % 3}
    for number, what in enumerate(["today", "Tom", "at home", "the king", "a teacher", "stars"] * 2)
]
TABLE = """
prefix: own/
tasks:
  - {name: seen, kind: multiple_choice, local: [seen], ranked_by: [sum, bytes], baseline: 33}
  - {name: shown, kind: multiple_choice, local: [seen], shots: 2}
  - {name: gone, kind: multiple_choice, local: [gone]}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with first parameters, a table of tasks, and their file."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = training_runs.write_dataset(folder)
    flags = training_runs.flags(data, folder / "runs", {"name": "tiny", "model.context_len": 128})
    config = parse_config(flags).config
    network = Network.build(config.model)
    params = jax.jit(network.init)(jax.random.key(0))
    tokenizer = Tokenizer.load(folder / "tokenizer")
    training_runs.save_run(folder / "runs" / "tiny", config, tokenizer, params)
    (folder / "own.yaml").write_text(TABLE)
    (folder / "seen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return folder


@pytest.fixture
def run(trained: Path) -> Path:
    run = trained / "runs" / "tiny"
    (run / "evals.jsonl").unlink(missing_ok=True)
    (run / "PROMOTION").unlink(missing_ok=True)
    return run


def call(trained: Path, *flags: str) -> None:
    run, own = trained / "runs" / "tiny", trained / "own.yaml"
    evaluate.main([str(run), f"--tables={own}", f"--data_dir={trained}", *flags])


def test_results_are_added_and_nothing_is_done_twice(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(trained, "--tasks=own/seen,own/shown,bpb")
    first = read_results(run)
    assert [(one.task, one.metric) for one in first] == [
        ("bpb", "bpb"),
        ("own/seen", "accuracy"),
        ("own/seen", "accuracy_norm"),
        ("own/shown", "accuracy"),
    ]
    assert len({one.checkpoint for one in first}) == 1
    for one in first:
        items = read_items(run, one)
        assert one.low <= one.value <= one.high
        if one.task != "bpb":
            assert one.num_items == 12
            assert one.value == pytest.approx(sum(item["score"] for item in items) / 12)
    bpb = first[0]
    items = read_items(run, bpb)
    nats, num_bytes = (sum(item[name] for item in items) for name in ("nats", "bytes"))
    assert bpb.value == pytest.approx(nats / 0.6931471805599453 / num_bytes)
    # A uniform guess among 512 tokens; words of two to seven bytes.
    assert 1 < bpb.value < 5
    said = capsys.readouterr().out
    assert "programs compiled" in said
    assert "items/s" in said
    assert "95 % interval" in said
    call(trained, "--tasks=own/seen,own/shown,bpb")
    assert read_results(run) == first
    assert ", of 20" in capsys.readouterr().out
    call(trained, "--tasks=own/seen", "--again")
    assert len(read_results(run)) == 6
    assert [one.value for one in read_results(run)[4:]] == [one.value for one in first[1:3]]


def test_other_settings_or_data_are_another_result(trained: Path, run: Path) -> None:
    call(trained, "--tasks=own/shown")
    call(trained, "--tasks=own/shown", "--limit=4")
    call(trained, "--tasks=own/shown", "--limit=100")  # all of them, which is there
    call(trained, "--tasks=own/shown", "--seed=7")
    whole, few, other = read_results(run)
    assert (whole.num_items, few.num_items, other.num_items) == (12, 4, 12)
    assert (few.settings["limit"], whole.settings["limit"]) == (4, None)
    assert (whole.settings["seed"], other.settings["seed"]) == (1234, 7)
    rows = (trained / "seen.jsonl").read_text()
    try:
        (trained / "seen.jsonl").write_text(rows + json.dumps(QUESTIONS[0]) + "\n")
        call(trained, "--tasks=own/shown")
    finally:
        (trained / "seen.jsonl").write_text(rows)
    assert [one.num_items for one in read_results(run)] == [12, 4, 12, 13]


def test_a_stopped_evaluation_goes_on(trained: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from samosa_jax import evaluation

    real, asked = evaluation.run_task, []

    def stop_at_second(task: Any, *args: Any, **options: Any) -> Any:
        asked.append(task.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(task, *args, **options)

    monkeypatch.setattr(evaluation, "run_task", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        call(trained, "--tasks=own/seen,own/shown")
    assert {one.task for one in read_results(run)} == {"own/seen"}
    call(trained, "--tasks=own/seen,own/shown")
    assert asked == ["seen", "shown", "shown"]
    assert [one.task for one in read_results(run)] == ["own/seen", "own/seen", "own/shown"]


def test_a_group_names_what_is_missing(trained: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(trained, "--tasks=own")
    said = capsys.readouterr().out
    assert "own/gone: left out" in said
    assert "has no gone.jsonl" in said
    with pytest.raises(UserError, match=r"has no gone\.jsonl, the questions of gone"):
        call(trained, "--tasks=own/gone")


def test_core_without_all_of_its_tasks_is_partial(
    trained: Path, run: Path, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The last --data_dir counts.
    flags = ("--tasks=core/copa,core/winograd,core", "--limit=6", f"--data_dir={test_data}")
    call(trained, *flags)
    (core,) = [one for one in read_results(run) if one.task == "core"]
    assert core.metric == "centered_partial"
    missing = {f"core/{name}" for name in ("hellaswag", "hellaswag_zeroshot", "jeopardy", "squad", "coqa")}
    assert set(core.settings["missing"]) == missing
    assert len(core.settings["tasks"]) == 17
    assert core.value == pytest.approx(sum(core.settings["tasks"].values()) / 17, abs=1e-5)
    assert core.num_items == 17 * 6
    assert "core is partial" in capsys.readouterr().out
    count = len(read_results(run))
    call(trained, *flags)
    assert len(read_results(run)) == count


def test_a_gate_stops_with_three(trained: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = trained / "gate.yaml"
    gate.write_text("conditions:\n  - {task: own/shown, at_least: 1.01}\n  - {task: bpb, at_most: 9}\n")
    with pytest.raises(SystemExit) as stopped:
        call(trained, f"--gate={gate}")
    assert stopped.value.code == 3
    assert "STOP" in capsys.readouterr().out
    refused = read_promotion(run)
    assert refused is not None
    assert not refused.passed
    gate.write_text("conditions:\n  - {task: own/shown, at_least: 0}\n  - {task: bpb, at_most: 9}\n")
    call(trained, f"--gate={gate}")
    passed = read_promotion(run)
    assert passed is not None
    assert passed.passed


def test_a_gate_judges_what_was_just_evaluated(trained: Path, run: Path) -> None:
    """And not a luckier result of fewer questions, which somebody has added since."""
    call(trained, "--tasks=own/shown")
    (whole,) = read_results(run)
    assert whole.value < 1
    lucky = {
        "value": 1.0,
        "low": 0.2,
        "high": 1.0,
        "num_items": 1,
        "settings": {**whole.settings, "limit": 1},
    }
    append_result(run, TaskResult(**{**vars(whole), **lucky}))
    gate = trained / "gate.yaml"
    gate.write_text("conditions:\n  - {task: own/shown, at_least: 0.99}\n")
    with pytest.raises(SystemExit) as stopped:
        call(trained, f"--gate={gate}")
    assert stopped.value.code == 3
    refused = read_promotion(run)
    assert refused is not None
    assert not refused.passed


def test_the_seed_of_examples_is_that_of_the_prompts() -> None:
    assert evaluate.SHOTS_SEED == prompts.SHOTS_SEED


def test_chatcore_takes_what_was_answered_in_words(trained: Path, run: Path, test_data: Path) -> None:
    from samosa_jax.evals.aggregates import CHATCORE_BASELINES
    from samosa_jax.evals.catalog import open_catalog
    from samosa_jax.evaluation import Evaluation
    from samosa_jax.trained import open_trained

    flags = ("--limit=4", f"--data_dir={test_data}")
    call(trained, "--tasks=chat", *flags)
    call(trained, "--tasks=spelling", "--limit=2", "--max_tokens=4")
    results = read_results(run)
    assert [(one.task, one.metric) for one in results] == [
        ("chat/arc_easy", "accuracy"),
        ("chat/arc_challenge", "accuracy"),
        ("chat/mmlu", "accuracy"),
        ("spelling", "pass@1"),
    ]
    settings = evaluate.settings_of(evaluate.EvaluateFlags())
    evaluation = Evaluation(open_trained(run), open_catalog(), settings)
    combined = evaluation.combine("chatcore", CHATCORE_BASELINES, results)
    assert combined is not None
    assert combined.metric == "centered_partial"
    assert combined.settings["missing"] == ["gsm8k", "humaneval"]
    centred = [(one.value - 0.25) / 0.75 for one in results[:3]] + [results[3].value]
    assert combined.value == pytest.approx(sum(centred) / 4)


def test_reasons_are_shown_with_their_brackets() -> None:
    out = io.StringIO()
    reason = "pip install 'samosa-jax[torch]'; data/[/b] is no file"
    evaluate.say_what_is_missing([], {"mmlu": reason}, Console(file=out, width=200))
    assert out.getvalue() == f"left out mmlu: {reason}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks=arc_esay"], "'arc_esay' is no task; did you mean arc_easy"),
        (["--tasks=core/hellaswg"], "did you mean core/hellaswag"),
        (["--tasks=zzz"], "'zzz' is no task; there are"),
        (["--limit=0"], "--limit=0; expected 1 or more"),
        (["--samples=0"], "must be at least 1"),
        (["--temperature=-1"], "--temperature=-1.0 --max_tokens=0; expected a temperature from 0 to 100"),
        (["--max_tokens=-1"], "--max_tokens=-1; expected"),
        (["--gate=gone.yaml"], "gone.yaml"),
        (["--step=77"], "no finished checkpoint of step 77"),
    ],
)
def test_bad_input_is_one_line(trained: Path, run: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        call(trained, "--tasks=own/seen", *flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (run / "evals.jsonl").exists()


def test_results_of_another_checkpoint_do_not_count(trained: Path, run: Path) -> None:
    call(trained, "--tasks=own/shown")
    (own,) = read_results(run)
    (run / "evals.jsonl").unlink()
    append_result(run, TaskResult(**{**vars(own), "checkpoint": "0" * 64}))
    call(trained, "--tasks=own/shown")
    assert [one.checkpoint for one in read_results(run)] == ["0" * 64, own.checkpoint]


def test_the_list_names_every_group(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(trained, "--list")
    said = capsys.readouterr().out
    for name in (
        "core:",
        "benchmarks:",
        "chat:",
        "generation:",
        "chatcore:",
        "own:",
        "all:",
        "mmlu",
        "gsm8k",
    ):
        assert name in said


def test_long_texts_are_evaluated_in_parts_and_beyond_the_context(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(trained, "--tasks=long_context", "--limit=1", "--context_len=64")
    first = read_results(run)
    places = [f"positions/{name}" for name in ("0-2", "2-4", "4-8", "8-16", "16-32", "32-64")]
    assert [one.task for one in first] == [*places, "needle", "needle/64"]
    assert not any(one.higher_is_better for one in first[:6])
    assert first[0].settings["context_len"] == 64
    assert all(len(read_items(run, one)) == one.num_items for one in first)
    assert (first[6].num_items, first[6].metric, first[6].settings["chance"]) == (5, "accuracy", 1 / 8)
    assert sum(first[6].counts.values()) == first[6].value * 5
    # A part stands for the whole, and nothing is done twice.
    call(trained, "--tasks=positions/4-8,needle/64", "--limit=1", "--context_len=64")
    assert read_results(run) == first
    capsys.readouterr()
    call(trained, "--tasks=needle", "--limit=1", "--context_len=256")  # twice what it was trained with
    assert [one.task for one in read_results(run)[8:]] == ["needle", "needle/64", "needle/128", "needle/256"]
    with pytest.raises(UserError, match=r"the longest of 20 .* positions needs more than 4096"):
        call(trained, "--tasks=positions", "--context_len=4096")
    with pytest.raises(UserError, match=r"--context_len=0; expected 1 or more"):
        call(trained, "--tasks=positions", "--context_len=0")
