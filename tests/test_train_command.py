"""`samosa_jax.train` as a user meets it: what it prints, writes and refuses."""

import json
import subprocess
from pathlib import Path

import pytest
import training_runs

from samosa_jax import train
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.training.checkpoint import list_steps

SHORT = {
    "train.num_steps": 12,
    "train.device_batch_size": 1,
    "checkpoint.every_steps": 5,
    "log.every_steps": 4,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The out_dir of a finished run."""
    out_dir = tmp_path_factory.mktemp("finished")
    train.main(training_runs.flags(data, out_dir, SHORT | {"log.cost_per_hour": 3.0}))
    return out_dir


def test_a_run_leaves_everything_behind(finished: Path, data: Path):
    run = finished / "base"
    assert [line["step"] for line in training_runs.records(run / "metrics.jsonl")] == [*range(1, 13), 12]
    (evaluated,) = training_runs.records(run / "evals.jsonl")
    assert evaluated["step"] == 12
    assert evaluated["definition"] == 1
    assert 0 < evaluated["val/bpb"] < 8
    samples = training_runs.records(run / "samples.jsonl")
    assert [sample["prompt"] for sample in samples] == ["Once upon a time", "The president said"]
    assert list_steps(run / "checkpoints") == [10, 12]
    summary = training_runs.load_json(run / "summary.json")
    assert summary["steps"] == 12
    assert summary["tokens"] == 12 * 256
    assert summary["val_bpb"] == evaluated["val/bpb"]
    assert summary["cost"] == pytest.approx(summary["seconds"] * 3 / 3600)
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    (environment,) = training_runs.load_json(run / "environment.json")
    assert environment["device"]["count"] == 8
    assert environment["sources"].keys() == {str(data)}
    first, *_, last = training_runs.records(run / "metrics.jsonl")[:-1]
    assert "perf/tokens_per_sec" not in first  # it compiled
    assert last["perf/tokens_per_sec"] > 0
    assert last["train/loss"] < first["train/loss"]


def test_the_resolved_config_starts_the_same_run_again(finished: Path, capsys: pytest.CaptureFixture[str]):
    train.main([f"--config={finished / 'base' / 'config.yaml'}"])
    said = capsys.readouterr().out
    assert "step 12 of 12" in said
    assert "steps 12 of 12" in said
    assert len(training_runs.records(finished / "base" / "evals.jsonl")) == 1


def test_going_further_says_what_changed(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    subprocess.run(["cp", "-r", str(finished / "base"), str(tmp_path / "base")], check=True)
    longer = {"train.num_steps": 14, "log.tensorboard": True, "log.display": "live"}
    train.main(training_runs.flags(data, tmp_path, SHORT | longer))
    said = capsys.readouterr().out
    for part in (
        "device: 8 x cpu, mesh data=8 fsdp=1 tensor=1",
        "256 tokens per step, 32 per device in 1 x 1 rows of 32",
        "parameters: 47,104",
        "auto chose: compute_dtype float32, attention chunked (on cpu)",
        "100.0% of the rows",
        "stored in:",
        "step 12 of 14",
        "changed since that checkpoint: train.num_steps 12 -> 14",
        "steps 14 of 14",
    ):
        assert part in " ".join(said.split()), part  # wherever the terminal's width wraps it
    steps = [line["step"] for line in training_runs.records(tmp_path / "base" / "metrics.jsonl")]
    assert steps == [*range(1, 15), 14]
    assert list((tmp_path / "base" / "tensorboard").iterdir())


def test_dry_run_builds_all_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train.main([*training_runs.flags(tmp_path / "no-data", tmp_path / "runs", SHORT), "--dry-run"])
    said = capsys.readouterr().out
    for part in (
        "parameters: 47,104",
        "FLOPs per token",
        "bytes per device",
        "first step",
        "nothing was written",
    ):
        assert part in said
    assert list(tmp_path.iterdir()) == []


def test_explain_shows_formulas(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    train.main(["--model.depth=4", "--explain"])
    assert "parameters: " in capsys.readouterr().out


def refused(arguments: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        train.main(arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_resume_never_and_must(data: Path, finished: Path, tmp_path: Path):
    before = (finished / "base" / "metrics.jsonl").read_bytes()
    never = refused(training_runs.flags(data, finished, SHORT | {"checkpoint.resume": "never"}))
    assert "holds a run already" in never
    assert "another name" in never
    assert (finished / "base" / "metrics.jsonl").read_bytes() == before
    must = refused(training_runs.flags(data, tmp_path, SHORT | {"checkpoint.resume": "must"}))
    assert "has no whole checkpoint" in must
    assert not (tmp_path / "base").exists()


def test_another_model_is_refused_by_the_first_key_that_differs(data: Path, finished: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    message = refused(training_runs.flags(data, finished, SHORT | {"model.mlp_dim": 128, "seed": 1}))
    assert "model.mlp_dim is 128, but checkpoint" in message
    assert "00000012 was trained with 64" in message
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_other_text_is_refused(data: Path, finished: Path, tmp_path: Path):
    texts = [training_runs.make_text(seed) for seed in range(500, 620)]
    folder = data.parent / "tokenizer"
    training_runs.write_shards(
        tmp_path / "other", Tokenizer.load(folder), tokenizer_folder=folder, texts=texts
    )
    message = refused(training_runs.flags(tmp_path / "other", finished, SHORT))
    assert "not those the checkpoint was written with" in message


def test_another_tokenizer_is_refused(data: Path, finished: Path, tmp_path: Path):
    other = training_runs.write_dataset(tmp_path, vocab_size=520)
    message = refused(training_runs.flags(data, tmp_path, SHORT | {"tokenizer": tmp_path / "tokenizer"}))
    assert "is not the one that" in message
    assert "leave `tokenizer` empty" in message
    message = refused(training_runs.flags(other, tmp_path, SHORT))
    assert "model.vocab_size is 512" in message
    assert "set model.vocab_size=520" in message
    message = refused(training_runs.flags(other, finished, SHORT | {"model.vocab_size": 520}))
    assert "was trained with tokenizer" in message


def test_missing_and_truncated_data(data: Path, tmp_path: Path):
    assert "data.sources is empty" in refused([f"--out_dir={tmp_path}"])
    assert str(tmp_path / "nothing") in refused(training_runs.flags(tmp_path / "nothing", tmp_path, SHORT))
    subprocess.run(["cp", "-r", str(data), str(tmp_path / "short")], check=True)
    shard = next((tmp_path / "short").rglob("*.tokens.npy"))
    shard.write_bytes(shard.read_bytes()[:-2])
    message = refused(training_runs.flags(tmp_path / "short", tmp_path, SHORT))
    assert shard.name in message
    assert "truncated" in message
    assert not (tmp_path / "base").exists()


def test_a_mesh_that_the_batch_does_not_divide_over(data: Path, tmp_path: Path):
    message = refused(training_runs.flags(data, tmp_path, SHORT | {"train.device_batch_size": 2}))
    assert "train.device_batch_size" in message


def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path):
    done = training_runs.run(training_runs.flags(tmp_path / "nothing", tmp_path, SHORT))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_damaged_checkpoint_is_passed_over_by_the_command(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    subprocess.run(["cp", "-r", str(finished / "base"), str(tmp_path / "base")], check=True)
    seal = tmp_path / "base" / "checkpoints" / "00000012" / "seal.json"
    entries = json.loads(seal.read_text())
    next(iter(entries["files"].values()))["sha256"] = "0" * 64
    seal.write_text(json.dumps(entries))
    train.main(training_runs.flags(data, tmp_path, SHORT))
    said = capsys.readouterr().out
    assert "00000012 is passed over" in said
    assert "step 10 of 12" in said
    assert exact(tmp_path) == exact(finished)


def exact(out_dir: Path) -> list[tuple[object, ...]]:
    lines = training_runs.records(out_dir / "base" / "metrics.jsonl")
    return [(line["step"], line.get("train/loss"), line.get("val/bpb")) for line in lines]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see quiet_orbax
def test_a_full_disk_costs_the_run_nothing_but_checkpoints(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    try:
        message = refused(training_runs.flags(data, disk, SHORT | {"checkpoint.keep_last": 3}))
        said = capsys.readouterr().out
        assert "step 00012/12" in said
        assert "could not be written (No space left on device); the run goes on, checkpoint 5 stays" in said
        assert "the state after step 12 could not be saved" in message
        assert list_steps(disk / "base" / "checkpoints") == [5]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
