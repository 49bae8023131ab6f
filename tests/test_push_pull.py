"""Runs, checkpoints and exports go to a hub on localhost and come back, through the real huggingface_hub."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import training_runs
from hub_server import Hub, serve
from huggingface_hub import constants

from samosa_jax import pull, push
from samosa_jax.command_line import parse_config
from samosa_jax.config import to_dict
from samosa_jax.data import hub as hub_module
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.trained import open_trained
from samosa_jax.training import background_push
from samosa_jax.training.background_push import BackgroundPush
from samosa_jax.training.run_folder import RunFolder, write_yaml

REPO = "anna/stories"
TOKEN = "hf_averysecrettoken"
FIRST = "a" * 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 4 and 8, as training leaves it."""
    out = tmp_path_factory.mktemp("runs")
    config = parse_config(training_runs.flags(data, out, {"name": "tiny"})).config
    tokenizer = Tokenizer.load(data / "tokenizer")
    network = Network.build(config.model, compute_dtype="float32")
    run = out / "tiny"
    for step in (4, 8):
        training_runs.save_run(run, config, tokenizer, network.init(jax.random.key(step)), step=step)
    folder = RunFolder(run)
    folder.keep_tokenizer(tokenizer)
    write_yaml(folder.config, to_dict(config))
    folder.metrics.write_text('{"step": 1}\n')
    folder.evals.write_text('{"step": 8}\n')
    folder.promotion.write_text("passed\n")
    items = folder.evaluated_items / "00000008"
    items.mkdir(parents=True)
    (items / "piqa.jsonl").write_text('{"item": "0", "score": 1.0}\n')
    (items / "gsm8k.unfinished").write_text("{}\n")
    (run / "lock").touch()
    (run / "checkpoints" / "00000012").mkdir()  # never finished
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs" / "tiny"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(hub_module, "PAUSE_S", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    with serve(Hub(repo=REPO, kind="models", commits={FIRST: {".gitattributes": b"x"}})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def head(hub: Hub) -> dict[str, bytes]:
    return next(iter(hub.commits.values()))


# There and back


def test_a_run_comes_back_whole(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    hub.exists = False
    push.main([str(run), REPO, "--private"])
    assert hub.is_private
    assert TOKEN in hub.tokens
    assert hub.messages == ["Push tiny, step 8"]
    assert contents(run) == before  # nothing is left in the run
    shutil.move(run, "elsewhere")
    pull.main([REPO])
    pulled = contents(Path("runs/stories"))
    assert pulled.pop(".gitattributes") == b"x"
    of_this_machine = ("lock", "evals/00000008/gsm8k.unfinished")
    assert pulled == {name: value for name, value in before.items() if name not in of_this_machine}
    assert {"PROMOTION", "evals/00000008/piqa.jsonl"} <= pulled.keys()
    assert not [path for path in Path("runs").iterdir() if path.name != "stories"]
    there, here = open_trained(Path("elsewhere")), open_trained(Path("runs/stories"))
    assert (here.step, here.tokenizer.fingerprint) == (8, there.tokenizer.fingerprint)
    jax.tree.map(np.testing.assert_array_equal, here.params, there.params)
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert any(name in hub.stored.values() for name in before.values())  # some files were large
    with pytest.raises(UserError, match=r"runs/stories exists.*--to"):
        pull.main([REPO])


def test_the_hub_holds_what_was_pushed_last(hub: Hub, run: Path) -> None:
    push.main([str(run), REPO])
    steps = {name.split("/")[1] for name in head(hub) if name.startswith("checkpoints/")}
    assert steps == {"00000004", "00000008"}
    push.main([str(run), REPO, "--newest_only", "--message=Only the newest"])
    steps = {name.split("/")[1] for name in head(hub) if name.startswith("checkpoints/")}
    assert steps == {"00000008"}
    assert hub.messages[-1] == "Only the newest"
    push.main([str(run / "checkpoints" / "00000004"), REPO, "--revision=early"])
    assert "checkpoints/00000004/seal.json" not in head(hub)
    pull.main([REPO, "--revision=early", "--to=early"])
    assert open_trained(Path("early")).step == 4
    pull.main([REPO, f"--revision={next(iter(hub.commits))}", "--to=newest"])
    assert open_trained(Path("newest")).step == 8


def test_a_checkpoint_alone_and_exports(hub: Hub, run: Path) -> None:
    alone = Path(shutil.copytree(run / "checkpoints" / "00000004", "alone"))
    push.main([str(alone), REPO])
    pull.main([REPO, "--to=back"])
    assert contents(alone).items() <= contents(Path("back")).items()
    hub.commits = {FIRST: {}}
    export = Path("export")
    export.mkdir()
    for name, value in (
        ("config.json", b"{}"),
        ("model.safetensors", b"w" * 5_000),
        ("README.md", b"# Hi\n"),
    ):
        (export / name).write_bytes(value)
    push.main([str(export), REPO])
    pull.main([REPO])
    assert contents(Path("exports/stories")) == contents(export)


def write_export(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in ("samosa.json", *names):
        (folder / name).write_bytes(f"{name} of {folder.name}".encode())
    return folder


def test_weights_of_an_older_export_do_not_stay_beside_the_new(hub: Hub) -> None:
    """transformers would load model.safetensors before it looks at an index."""
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    small = write_export(Path("small"), "config.json", "model.safetensors", "README.md")
    large = write_export(Path("large"), "config.json", "model.safetensors.index.json", *shards)
    gguf = write_export(Path("gguf"), "model.gguf")  # a .gguf has no config.json
    push.main([str(small), REPO])
    push.main([str(large), REPO])
    weights = {name for name in head(hub) if name.startswith("model")}
    assert weights == {"model.safetensors.index.json", *shards}
    push.main([str(gguf), REPO])
    assert {name for name in head(hub) if name.startswith("model")} == {*weights, "model.gguf"}
    push.main([str(small), REPO])
    assert {name for name in head(hub) if name.startswith("model")} == {"model.safetensors", "model.gguf"}


def test_other_folders_are_refused(hub: Hub, run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="does not exist; name the folder of a run, a checkpoint or an export"
    ):
        push.main(["nothing", REPO])
    with pytest.raises(UserError, match=r"neither a run with a finished checkpoint.*nor an export"):
        push.main([str(tmp_path), REPO])
    for name in ("stories", "a/b/c", "a b/c"):
        with pytest.raises(UserError, match="write OWNER/NAME"):
            push.main([str(run), name])
        with pytest.raises(UserError, match="write OWNER/NAME"):
            pull.main([name])
    damaged = next(
        path for path in (run / "checkpoints" / "00000008" / "params").rglob("*") if path.is_file()
    )
    damaged.unlink()
    with pytest.raises(UserError, match=r"checkpoints/00000008 cannot be used: params/.* is missing"):
        push.main([str(run), REPO])
    assert not hub.requests
    assert not list(run.glob(".pushing*"))


# What goes wrong


@pytest.mark.parametrize("status", [401, 403, 500])
def test_refusals_are_one_line(hub: Hub, run: Path, status: int) -> None:
    hub.exists = status == 403  # otherwise making it is refused
    hub.refuses_writes = status
    with pytest.raises(UserError) as caught:
        push.main([str(run), REPO])
    message = str(caught.value)
    assert message.startswith(REPO)
    assert "\n" not in message
    assert TOKEN not in message
    assert ("HF_TOKEN" in message) == (status != 500)
    num_tries = sum(method == "POST" for method, *_ in hub.requests)
    assert num_tries == (hub_module.ATTEMPTS if status == 500 else 1)
    assert list(hub.commits) == [FIRST]


def test_a_hub_that_is_down(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for command, arguments in ((push.main, [str(run), REPO]), (pull.main, [REPO])):
        with pytest.raises(UserError, match=f"^{REPO}: could not be .*check the network and HF_ENDPOINT"):
            command(arguments)
    assert not Path("runs/stories").exists()


def test_a_token_in_an_error_is_hidden(hub: Hub) -> None:
    def fail() -> None:
        raise ValueError(f"Bearer {TOKEN} is odd")

    with pytest.raises(UserError, match=r"Bearer \*\*\* is odd") as caught:
        hub_module.retry(REPO, fail)
    assert TOKEN not in str(caught.value)


def test_a_pull_goes_on_where_it_was(hub: Hub, run: Path) -> None:
    push.main([str(run), REPO, "--newest_only"])
    spoiled = max(head(hub), key=lambda name: len(head(hub)[name]))
    for name in (spoiled, "config.yaml"):  # large, and known by git's SHA-1 alone
        hub.spoils = name
        with pytest.raises(UserError, match=rf"{name}.*not what the hub's listing promised"):
            pull.main([REPO])
        assert not Path("runs/stories").exists()
    hub.spoils = None
    hub.requests.clear()
    hub.cut_after = 10
    pull.main([REPO])
    assert hub.downloads().count("config.yaml") >= 1
    assert len(set(hub.downloads())) < len(head(hub))  # not all of them once more
    assert open_trained(Path("runs/stories")).step == 8


def test_what_is_pulled_is_what_was_sealed(hub: Hub, run: Path) -> None:
    push.main([str(run), REPO, "--newest_only"])
    name = "checkpoints/00000008/run/metadata"
    head(hub)[name] = head(hub)[name].replace(b"tiny", b"mine")
    with pytest.raises(UserError, match=r"00000008 cannot be used: run/metadata has changed"):
        pull.main([REPO])
    assert not Path("runs/stories").exists()
    head(hub)["../evil"] = b"x"
    with pytest.raises(UserError, match=r"'\.\./evil', which lies outside"):
        pull.main([REPO])
    assert not Path("evil").exists()


# While training


def sealed(checkpoints: Path, step: int) -> None:
    folder = checkpoints / f"{step:08d}"
    folder.mkdir(parents=True)
    (folder / "seal.json").touch()


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_push, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(background_push, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(background_push, "LAST_PAUSE_SECONDS", 0.05)


def make_push(script: str, run: Path, said: list[str], *, every_steps: int = 10) -> BackgroundPush:
    return BackgroundPush(
        ["sh", "-c", script],
        name=REPO,
        checkpoints=run / "checkpoints",
        every_steps=every_steps,
        first_step=0,
        say=said.append,
    )


@pytest.mark.usefixtures("fast")
def test_the_newest_is_pushed_every_so_many_steps(tmp_path: Path) -> None:
    said: list[str] = []
    script = f"echo begun >> {tmp_path}/log; sleep 0.3; echo ended >> {tmp_path}/log"
    log = tmp_path / "log"
    with make_push(script, tmp_path, said) as pushing:
        sealed(tmp_path / "checkpoints", 5)
        time.sleep(0.2)
        assert not log.exists()  # too early
        sealed(tmp_path / "checkpoints", 10)
        wait_until(log.exists)
        sealed(tmp_path / "checkpoints", 20)
        sealed(tmp_path / "checkpoints", 30)
        wait_until(lambda: pushing.pushed_step == 30)
        sealed(tmp_path / "checkpoints", 33)
        pushing.finish(seconds=10)
        assert pushing.pushed_step == 33
    assert log.read_text().split() == ["begun", "ended"] * 3  # one at a time; 20 was passed over
    assert said == [f"pushing step 33 to {REPO}, for at most 10 s"]


@pytest.mark.usefixtures("fast")
def test_problems_are_told_once_and_pass(tmp_path: Path) -> None:
    said: list[str] = []
    complain = 'echo "error: down, try $$" >&2; exit 2'
    script = f"echo x >> {tmp_path}/tries; test -e {tmp_path}/well && exit 0; {complain}"
    with make_push(script, tmp_path, said) as pushing:
        sealed(tmp_path / "checkpoints", 10)
        wait_until(lambda: (tmp_path / "tries").exists() and (tmp_path / "tries").read_text().count("x") >= 3)
        (tmp_path / "well").touch()
        wait_until(lambda: pushing.pushed_step == 10)
    assert len(said) == 2
    assert said[0].startswith(f"WARNING: step 10 could not be pushed to {REPO} (down, try ")
    assert said[1] == f"step 10 is on {REPO}: pushing works again"


@pytest.mark.usefixtures("fast")
def test_an_upload_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_push, "GRACE_SECONDS", 0.2)
    said: list[str] = []
    script = f"trap '' TERM; echo $$ > {tmp_path}/process; while true; do sleep 0.05; done"
    with make_push(script, tmp_path, said) as pushing:
        sealed(tmp_path / "checkpoints", 10)
        wait_until(lambda: (tmp_path / "process").exists() and (tmp_path / "process").read_text().strip())
        begun = time.monotonic()
        pushing.finish(seconds=0.5)
        assert time.monotonic() - begun < 3
    assert f"step 10 is not on {REPO}; `samosa push {tmp_path} {REPO}`" in said[-1]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "process").read_text()), 0)
    failing = make_push("exit 3", tmp_path, said)
    begun = time.monotonic()
    with failing:
        failing.finish(seconds=60)
    assert time.monotonic() - begun < 5  # gives up long before
    assert any("exit code 3" in line for line in said)


@pytest.mark.usefixtures("fast")
def test_a_slow_hub_costs_bounded_time(hub: Hub, run: Path) -> None:
    hub.seconds_per_write = 60.0
    said: list[str] = []
    pushing = BackgroundPush(
        [sys.executable, "-m", "samosa_jax.push", str(run), REPO, "--newest_only"],
        name=REPO,
        checkpoints=run / "checkpoints",
        every_steps=8,
        first_step=0,
        say=said.append,
    )
    with pushing:
        wait_until(lambda: any(method == "POST" for method, *_ in hub.requests), seconds=60)
        assert list(run.glob(".pushing*"))
        begun = time.monotonic()
        pushing.finish(seconds=0.2)
    assert time.monotonic() - begun < 10
    assert not list(run.glob(".pushing*"))
    assert list(hub.commits) == [FIRST]
    assert f"WARNING: step 8 is not on {REPO}" in said[-1]
    assert open_trained(run).step == 8


def train(data: Path, out: Path, hub: Hub, **overrides: object) -> subprocess.CompletedProcess[str]:
    values = {"name": "pushed", "train.num_steps": 12, "checkpoint.every_steps": 6}
    values |= {"train.push_to": REPO, "train.push_every": 6} | overrides
    assert os.environ["HF_ENDPOINT"] == hub.endpoint
    return training_runs.run(training_runs.flags(data, out, values))


def test_training_pushes_and_does_not_mind_a_refusal(hub: Hub, data: Path, tmp_path: Path) -> None:
    hub.exists = False
    good = train(data, tmp_path / "good", hub)
    assert hub.is_private
    assert hub.messages[-1] == "Push pushed, step 12"
    pull.main([REPO])
    assert open_trained(Path("runs/stories")).step == 12
    hub.refuses_writes = 401
    refused = train(data, tmp_path / "refused", hub)
    assert refused.stdout.count("could not be pushed") == 1
    assert f"step 12 is not on {REPO}; `samosa push" in refused.stdout
    losses = []
    for name, found in (("good", good), ("refused", refused)):
        assert found.returncode == 0, found.stdout + found.stderr
        assert TOKEN not in found.stdout + found.stderr
        folder = tmp_path / name / "pushed"
        assert TOKEN not in (folder / "push.log").read_text()
        assert not list(folder.glob(".pushing*"))
        records = training_runs.records(folder / "metrics.jsonl")
        losses.append([record["train/loss"] for record in records if "train/loss" in record])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_the_command_says_it_in_one_line(hub: Hub, run: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "samosa_jax.push", str(run.parent), REPO], capture_output=True, text=True
    )
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert json.dumps(TOKEN) not in found.stderr
