"""The quickstart's steps: each is a line that its command takes, and a stopped one goes on where it was.

That it trains a model that passes its gate is shown by running it, which continuous integration does.
"""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from samosa_jax import (
    command_line,
    evaluate,
    export,
    prepare,
    prepare_chat,
    quickstart,
    quickstart_steps,
    report,
    synthesize,
    train_tokenizer,
)
from samosa_jax.command_line import parse_dataclass
from samosa_jax.errors import UserError
from samosa_jax.evals import gates
from samosa_jax.evals.catalog import open_catalog, select
from samosa_jax.evals.probes import load_suite
from samosa_jax.quickstart_overview import overview
from samosa_jax.quickstart_steps import STEPS, Settings, steps

FLAGS = {
    ("train_tokenizer",): (train_tokenizer.TrainTokenizerFlags, ()),
    ("prepare",): (prepare.PrepareFlags, ()),
    ("prepare", "synth"): (synthesize.SynthFlags, ("name",)),
    ("prepare", "chat"): (prepare_chat.ChatFlags, ("input",)),
    ("evaluate",): (evaluate.EvaluateFlags, ("run",)),
    ("export",): (export.ExportFlags, ("run",)),
    ("report",): (report.ReportFlags, ("run",)),
}
TEN = Settings(
    name="quickstart",
    text=(),
    minutes=10,
    config=quickstart_steps.CONFIGS / "quickstart.yaml",
    vocab_size=0,
    persona="",
    gate=quickstart.GATES[0][1],
    seed=0,
    exports=True,
)


PRESETS = ("quickstart", "nanolm_10m", "samosa_d24", "samosa_d32")


@pytest.mark.parametrize(
    ("minutes", "preset"), [*((1, name) for name in PRESETS), *((m, PRESETS[0]) for m in (3, 10, 60))]
)
def test_every_step_is_one_that_its_command_takes(minutes: float, preset: str):
    trained = []
    config = quickstart_steps.CONFIGS / f"{preset}.yaml"
    settings = dataclasses.replace(TEN, minutes=minutes, config=config, text=("my.txt",), seed=3)
    for step in steps(settings):
        words = tuple(itertools.takewhile(str.isidentifier, step.argv[:2]))
        if words[0] == "train":
            parsed = command_line.parse_config(step.argv[1:])
            trained.append(parsed.config)
            continue
        key = next(words[:length] for length in (2, 1) if words[:length] in FLAGS)
        kind, positional = FLAGS[key]
        parse_dataclass(step.argv[len(key) :], kind, description="", positional=positional)
    assert [config.stage for config in trained] == ["pretrain", "midtrain", "sft", "dpo", "grpo"]
    assert all(config.seed == 3 for config in trained)
    assert all(config.schedule.warmup_steps <= config.train.num_steps for config in trained)
    for config in trained[1:]:  # which take the model, and its context, from the base
        rows = config.train.batch_tokens / trained[0].model.context_len
        assert rows % 8 == 0, "eight devices share the rows"
    assert [config.init_from for config in trained[1:]] == [f"runs/{config.name}" for config in trained[:-1]]


def test_minutes_scale_what_is_trained():
    half = dataclasses.replace(TEN, minutes=5)
    for stage in STEPS:
        assert half.num_steps(stage) < TEN.num_steps(stage) == STEPS[stage]
    assert dataclasses.replace(TEN, minutes=60).num_steps("sft") > 5 * STEPS["sft"]


def test_gates_and_tasks_are_there():
    catalog = open_catalog()
    suite = load_suite(quickstart_steps.RECIPES / "probes")
    assert suite.pages is None
    asked = select(catalog, [f"starter_{skill}" for skill in quickstart_steps.SKILLS]).tasks
    for _, path in quickstart.GATES:
        gate = gates.load(path)
        assert set(select(catalog, gate.tasks).tasks) <= {*asked, "probes"}


def test_a_stopped_quickstart_goes_on_with_the_same_settings_alone(tmp_path: Path):
    path = tmp_path / "quickstart.json"
    first = quickstart.Journal(path, TEN)
    first.add("tokenizer", 2.04)
    again = quickstart.Journal(path, TEN)
    assert again.seconds == {"tokenizer": 2.0}
    with pytest.raises(UserError, match=r"begun with minutes 10, found 3; give --name"):
        quickstart.Journal(path, dataclasses.replace(TEN, minutes=3))


def test_another_gate_judges_anew(tmp_path: Path):
    path = tmp_path / "quickstart.json"
    first = quickstart.Journal(path, TEN)
    first.refuse()
    for title in ("evaluate dpo", quickstart_steps.JUDGEMENT):
        first.add(title, 1.0)
    same = quickstart.Journal(path, TEN)
    assert same.was_refused
    assert quickstart_steps.JUDGEMENT in same.seconds
    other = quickstart.Journal(path, dataclasses.replace(TEN, gate=quickstart.GATES[1][1]))
    assert not other.was_refused
    assert list(other.seconds) == ["evaluate dpo"]
    (judging,) = [step for step in steps(TEN) if step.title == quickstart_steps.JUDGEMENT]
    assert any(flag.startswith("--gate=") for flag in judging.argv)


def test_the_vocabulary_may_change_until_there_is_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "quickstart.json"
    quickstart.Journal(path, TEN).add("conversations", 1.0)
    smaller = dataclasses.replace(TEN, vocab_size=700)
    quickstart.Journal(path, smaller).add("preferences", 1.0)
    TEN.tokenizer.mkdir(parents=True)
    with pytest.raises(UserError, match="begun with vocab_size 700, found 0; give --name"):
        quickstart.Journal(path, TEN)
    assert quickstart.Journal(path, smaller).seconds == {"conversations": 1.0, "preferences": 1.0}


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="--vocab-size is -5; it must be positive"):
        dataclasses.replace(TEN, vocab_size=-5)
    with pytest.raises(UserError, match="--minutes is 0; expected at least 1"):
        dataclasses.replace(TEN, minutes=0)
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        dataclasses.replace(TEN, config=Path("nowhere.yaml"))


def test_the_overview_reads_what_runs_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    base = Path(TEN.run("base"))
    base.mkdir(parents=True)
    (base / "evals.jsonl").write_text(json.dumps({"step": 1, "val/bpb": 1.25}) + "\n")
    rewarded = Path(TEN.run("grpo"))
    rewarded.mkdir()
    shares = (0.7, 0.72, 0.754)
    passed = [
        {"step": 1, "eval/pass@1": 0.5, "by_task": {"starter_letters": {"pass@1": share}}} for share in shares
    ]
    (rewarded / "evals.jsonl").write_text("".join(json.dumps(one) + "\n" for one in passed))
    table = overview(TEN, {"tokenizer": 2.0, "base": 61.0, "report": 3.0})
    rows = {row[0]: row[1:] for row in zip(*(column.cells for column in table.columns), strict=True)}
    assert len(rows["time"]) == len(STEPS)
    assert rows["time"][0] == "1m01s"
    assert rows["bits per byte of text"] == ("1.25", "", "", "", "")
    assert rows["sums"] == ("",) * len(STEPS)
    assert rows["letters of long words, sampled"] == ("", "", "", "", "70% to 75%")
    assert table.caption == "1m06s in all"


def test_what_installs_pytorch_is_said_whole(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "EXPORTS_WITH", ("no_such_package",))
    with pytest.raises(UserError):
        quickstart.main(["--text", "nowhere.txt"])
    assert "pip install 'samosa-jax[torch]'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--minuts", "3"], "unrecognized arguments: --minuts 3; `samosa quickstart --help`"),
        (["--minutes", "soon"], "argument --minutes: invalid float value: 'soon'"),
        (["--text", "nowhere.txt"], r"nowhere\.txt: no such file"),
        (["--minutes", "nan"], "--minutes is nan; expected at least 1"),
        (["--minutes", "inf"], "--minutes is inf; expected at least 1"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--name", "a/b"], "--name is 'a/b'; it is a part of names"),
        (["--config", __file__], r"test_quickstart\.py.*(not valid YAML|the file is)"),
        (["--gate", __file__], r"test_quickstart\.py: no gate can be read from it|expected a list"),
    ],
)
def test_wrong_flags_are_one_line_and_leave_nothing(
    argv: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=complaint):
        quickstart.main(argv)
    assert not list(tmp_path.iterdir())
