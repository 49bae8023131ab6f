"""The script of the whole pipeline: every line of the large run is one that its command takes."""

import itertools
import subprocess
from pathlib import Path

import pytest

from samosa_jax import (
    command_line,
    evaluate,
    export,
    filter_conversations,
    prepare,
    prepare_chat,
    report,
    synthesize,
    train_tokenizer,
)
from samosa_jax.command_line import parse_dataclass
from samosa_jax.evals.catalog import open_catalog, select

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "speedrun.sh"

FLAGS = {
    ("train_tokenizer",): (train_tokenizer.TrainTokenizerFlags, ()),
    ("prepare",): (prepare.PrepareFlags, ()),
    ("prepare", "filter"): (filter_conversations.FilterFlags, ("input",)),
    ("prepare", "synth"): (synthesize.SynthFlags, ("name",)),
    ("prepare", "chat"): (prepare_chat.ChatFlags, ("input",)),
    ("evaluate",): (evaluate.EvaluateFlags, ("run",)),
    ("export",): (export.ExportFlags, ("run",)),
    ("report",): (report.ReportFlags, ("run",)),
}


def said_by(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script with a `python` that writes down what it is called with, and does nothing."""
    shim = folder / "bin" / "python"
    shim.parent.mkdir()
    shim.write_text(f"#!/bin/sh\nprintf '%s\\037' \"$@\" >> {folder}/calls\necho >> {folder}/calls\n")
    shim.chmod(0o755)
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=folder,
        env={"PATH": f"{shim.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [(), ("--tiny",)], ids=["eight GPUs", "tiny"])
def test_every_line_is_one_that_its_command_takes(arguments: tuple[str, ...], tmp_path: Path):
    done = said_by(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    calls = [line.split("\037")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert all(call[:2] == ["-m", "samosa_jax"] for call in calls)
    trained = []
    for _, _, command, *argv in calls:
        if command == "train":
            trained.append(command_line.parse_config(argv).config)
            continue
        name = (command, argv[0]) if (command, argv[0]) in FLAGS else (command,)
        cls, positional = FLAGS[name]
        flags = parse_dataclass(argv[len(name) - 1 :], cls, description="", positional=positional)
        if isinstance(flags, evaluate.EvaluateFlags):
            catalog = open_catalog([Path(table) for table in flags.tables])
            assert select(catalog, flags.tasks)
    assert [config.stage for config in trained] == ["pretrain", "midtrain", "sft", "dpo", "grpo"]
    # Each begins with the one before, and reads what an earlier line has prepared.
    for before, config in itertools.pairwise(trained):
        assert config.init_from == f"runs/{before.name}"
    prepared = {call[call.index("--out") + 1] for call in calls if "--out" in call}
    assert {source.path for config in trained for source in config.data.sources} <= prepared


def test_a_flag_it_does_not_know_is_named(tmp_path: Path):
    done = said_by(tmp_path, "--tinny")
    assert (done.returncode, done.stderr) == (2, "speedrun: found '--tinny'; expected nothing, or --tiny\n")
    assert not (tmp_path / "calls").exists()
