"""Metrics on their way to disk, and what is made of them: display, summary, plot."""

import errno
import importlib
import io
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from samosa_kernels import Device

from samosa_jax.errors import UserError
from samosa_jax.evals.plot import plot_loss, smooth
from samosa_jax.training import run_folder
from samosa_jax.training.display import (
    SPARKS,
    Progress,
    format_lr,
    format_seconds,
    make_display,
    sparkline,
)
from samosa_jax.training.environment import git_commit, peak_half_flops
from samosa_jax.training.metrics import (
    METRICS,
    JsonLines,
    TensorBoardWriter,
    WandbWriter,
    keep_json_lines,
    read_json_lines,
)
from samosa_jax.training.run_folder import RunFolder
from samosa_jax.training.summary import summarize


def train_record(step: int, loss: float | None, *, timed: bool = True, skipped: int = 0) -> dict[str, object]:
    record: dict[str, object] = {
        "step": step,
        "train/loss": loss,
        "train/tokens": 100 * step,
        "train/skipped": skipped,
        "perf/step_ms": 50.0,
    }
    return record | ({"perf/tokens_per_sec": 2_000.0} if timed else {})


def write_lines(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_lines_come_back_exactly_and_at_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path, say=pytest.fail)
    writer.write(1, {"train/loss": 0.1 + 0.2, "train/lr": math.nan})
    assert list(read_json_lines(path)) == [{"step": 1, "train/loss": 0.1 + 0.2, "train/lr": None}]
    writer.close()
    JsonLines(path, say=pytest.fail).write(2, {"train/loss": math.inf})
    assert [record["step"] for record in read_json_lines(path)] == [1, 2]


def test_a_name_that_is_not_declared_is_a_bug(tmp_path: Path):
    with pytest.raises(KeyError, match="train/los'"):
        JsonLines(tmp_path / "m", say=pytest.fail).write(1, {"train/los": 1.0})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_said_once_and_loses_nothing(tmp_path: Path):
    said: list[str] = []
    writer = JsonLines(Path("/dev/full"), say=said.append)
    writer.write(1, {"train/loss": 1.0})
    writer.write(2, {"train/loss": 2.0})
    assert len(said) == 1
    assert "No space left on device" in said[0]
    room = os.open(tmp_path / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(room, writer._file)  # the disk has room again
    writer.write(3, {"train/loss": 3.0})
    assert [record["step"] for record in read_json_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    writer.close()
    assert len(said) == 1


def test_a_torn_last_line_is_left_out_a_broken_one_is_named(tmp_path: Path):
    path = write_lines(tmp_path / "m.jsonl", [{"step": 1}, {"step": 2}])
    with path.open("a") as file:
        file.write('{"step": 3, "train/lo')
    assert [record["step"] for record in read_json_lines(path)] == [1, 2]
    path.write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(UserError, match="has a line that is not JSON"):
        list(read_json_lines(path))
    assert list(read_json_lines(tmp_path / "none")) == []


@given(st.integers(0, 12), st.integers(1, 12))
def test_cutting_back_leaves_what_a_run_killed_there_would_have(step: int, evaluated_every: int):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        lines: list[dict[str, object]] = []
        for done in range(1, 11):
            lines.append(train_record(done, 1.0))
            if done % evaluated_every == 0:
                lines.append({"step": done, "val/bpb": 1.0})
        write_lines(run.metrics, lines)
        write_lines(run.evals, [line for line in lines if "val/bpb" in line])
        run.cut_back(step)
        left = list(read_json_lines(run.metrics))
        assert [line["step"] for line in left if "train/loss" in line] == list(range(1, min(step, 10) + 1))
        evaluated = [done for done in range(1, 11) if done % evaluated_every == 0 and done < step]
        assert [line["step"] for line in left if "val/bpb" in line] == evaluated
        assert [line["step"] for line in read_json_lines(run.evals)] == evaluated


def test_keeping_lines_of_a_file_that_is_not_there(tmp_path: Path):
    assert keep_json_lines(tmp_path / "none", lambda record: True) == 0


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path):
    run = RunFolder(tmp_path / "runs" / "a")
    with run.locked(), pytest.raises(UserError, match="in use by another process"), run.locked():
        pass
    with run.locked():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"), RunFolder(tmp_path / "file" / "a").locked():
        pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocked = RunFolder(tmp_path / "a")
    (blocked.path / "lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"a cannot be written to \(Is a directory\)"), blocked.locked():
        pass

    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(run_folder.fcntl, "flock", no_locks)
    with (
        pytest.raises(UserError, match=r"b/lock cannot be locked \(Function not implemented\)"),
        RunFolder(tmp_path / "b").locked(),
    ):
        pass


def test_an_environment_file_that_was_torn_is_named(tmp_path: Path):
    run = RunFolder(tmp_path)
    run.note_start({"host": "a"}, step=0)
    run.note_start({"host": "b"}, step=7)
    starts = json.loads(run.environment.read_text(encoding="utf-8"))
    assert [start["from_step"] for start in starts] == [0, 7]
    run.environment.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"environment.json is not JSON .*move it away"):
        run.note_start({"host": "c"}, step=9)


def test_the_commit_is_that_of_tracked_sources(tmp_path: Path):
    """A package that is installed inside another project's checkout has no commit of its own."""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    sources, installed = tmp_path / "sources", tmp_path / "venv"
    for folder in (sources, installed):
        folder.mkdir()
        (folder / "a.py").write_text("")
    git("init", "--quiet")
    git("add", "sources")
    git("commit", "--quiet", "-m", "first")
    assert git_commit(sources) == git("rev-parse", "HEAD")
    assert git_commit(installed) is None
    (sources / "a.py").write_text("changed")
    assert git_commit(sources) == git("rev-parse", "HEAD") + "+changes"


def test_tensorboard_files_hold_the_same_values(tmp_path: Path):
    writer = TensorBoardWriter(tmp_path, first_step=1)
    writer.write(7, {"train/loss": 2.5, "val/bpb": 1.25})
    writer.close()
    event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
    found = {}
    data = next(tmp_path.iterdir()).read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    assert found == {("train/loss", 7): 2.5, ("val/bpb", 7): 1.25}


def test_wandb_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WandbWriter(tmp_path, project="p", name="n", config={})


def progress(step: int) -> Progress:
    return Progress(
        step=step,
        num_steps=20_000,
        loss=2.8741,
        lr=3e-4,
        tokens_per_sec=38_204.3,
        mfu=None,
        seconds_left=192.0,
        peak_bytes=1 << 30,
    )


def test_plain_lines():
    stream = io.StringIO()
    display = make_display("auto", every_steps=10, title="t", stream=stream)
    for step in (419, 420, 421):
        display.progress(progress(step))
    display.close()
    assert stream.getvalue() == "step 00420/20000  loss 2.874  lr 3.0e-4  tok/s 38204  eta 3m12s\n"


def test_live_panel_shows_the_figures_and_keeps_messages():
    stream = io.StringIO()
    display = make_display("live", every_steps=10, title="my run", stream=stream)
    display.say("a [bold]message[/bold] stays")
    display.validation(400, "val/bpb", 1.2345)
    display.progress(progress(420))
    display.sample(400, "Once", " upon [red]a time")
    display.close()
    text = stream.getvalue()
    for part in ("my run", "2.8741", "38,204", "420/20,000", "1.2345", "3m12s", "Once| upon [red]a time"):
        assert part in text
    assert "a [bold]message[/bold] stays" in text


def test_figures_are_formatted_for_people():
    assert [format_seconds(s) for s in (0.4, 59, 192, 7_500, 356_400)] == [
        "0s",
        "59s",
        "3m12s",
        "2h05m",
        "4d03h",
    ]
    assert [format_lr(lr) for lr in (3e-4, 0.02, 0.0)] == ["3.0e-4", "2.0e-2", "0.0e0"]
    assert sparkline([3.0, 2.0, math.nan, 1.0], width=3) == SPARKS[7] + SPARKS[4] + SPARKS[0]
    assert sparkline([], width=3) == ""
    assert len(sparkline(list(range(100)), width=10)) == 10


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H800", 989e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 5090", 209.5e12),
        ("Tesla V100-SXM2-16GB", 125e12),  # in float16, as it has no bfloat16
        ("Tesla T4", 65e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("Some new chip", None),
        ("cpu", None),
    ],
)
def test_peak_flops_of_known_and_unknown_devices(kind: str, flops: float | None):
    assert peak_half_flops(Device(platform="gpu", kind=kind)) == flops


def test_summary_reads_the_whole_run(tmp_path: Path):
    lines = [train_record(step, 10.0 - step, timed=step != 1, skipped=0) for step in range(1, 6)]
    lines += [train_record(6, None, skipped=1), {"step": 6, "val/bpb": 1.5}]
    summary = summarize(
        write_lines(tmp_path / "m.jsonl", lines),
        num_steps=6,
        seconds=7_200,
        cost_per_hour=3.0,
        checkpoint=None,
    )
    assert (summary.steps, summary.tokens, summary.skipped_steps) == (6, 600, 1)
    assert summary.final_loss == pytest.approx(7.0)
    assert summary.val_bpb == 1.5
    assert summary.tokens_per_sec == pytest.approx(2_000)
    assert summary.cost == 6.0
    assert "validation 1.5000 bits per byte" in summary.lines()[0]
    assert "1 non-finite" in summary.lines()[1]


def test_the_plot_shows_both_curves(tmp_path: Path):
    lines = [train_record(step, 6 / step**0.5) for step in range(1, 201)]
    blue = plot_and_read(tmp_path, lines)
    both = plot_and_read(tmp_path, [*lines, {"step": 100, "val/bpb": 1.9}, {"step": 200, "val/bpb": 1.2}])
    nothing = plot_and_read(tmp_path, [train_record(1, None)])
    assert count_color(blue, (0.12, 0.47, 0.71)) > 500
    assert count_color(blue, (1.0, 0.5, 0.05)) == 0
    assert count_color(both, (1.0, 0.5, 0.05)) > 200
    assert count_color(nothing, (0.12, 0.47, 0.71)) < count_color(blue, (0.12, 0.47, 0.71))


def plot_and_read(folder: Path, lines: list[dict[str, object]]):
    plot_loss(write_lines(folder / "m.jsonl", lines), folder / "loss.png", title="t")
    return image.imread(folder / "loss.png")


def count_color(picture, rgb: tuple[float, float, float]) -> int:
    return int((abs(picture[..., :3] - rgb).max(axis=-1) < 0.03).sum())


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_smoothing_stays_inside_and_keeps_the_length(values: list[float]):
    smoothed = smooth(values)
    assert len(smoothed) == len(values)
    assert smoothed.min() >= min(values) - 1e-6
    assert smoothed.max() <= max(values) + 1e-6


def test_every_metric_says_what_it_is():
    assert all(len(meaning) > 10 and "/" in name for name, meaning in METRICS.items())
