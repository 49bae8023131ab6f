"""Runs, checkpoints and exports go to a hub on localhost and come back, through the real huggingface_hub."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import training_runs
from hub_server import Hub
from pushed_runs import FIRST, REPO, TOKEN

from samosa_jax import pull, push
from samosa_jax.data import hub as hub_module
from samosa_jax.errors import UserError
from samosa_jax.trained import open_trained

pytest_plugins = ["pushed_runs"]


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


def test_a_checkpoint_between_minibatches_takes_its_rollout_along(hub: Hub, run: Path) -> None:
    """Without it, what is pulled could not be gone on with."""
    trained = open_trained(run)
    tokenizer, params = trained.tokenizer, trained.params
    for step in (9, 10):
        stored = {"rollout": {"step": 8, "sha256": "0" * 64}}
        training_runs.save_run(run, trained.config, tokenizer, params, step=step, data=stored)
    rollouts = run / "rollouts"
    rollouts.mkdir()
    for step in (4, 8):
        (rollouts / f"{step:08d}.npz").write_bytes(b"answers")
    push.main([str(run), REPO])
    assert [name for name in head(hub) if name.startswith("rollouts/")] == ["rollouts/00000008.npz"]
    pull.main([REPO])
    assert Path("runs/stories/rollouts/00000008.npz").read_bytes() == b"answers"
    for step in (9, 10):
        shutil.rmtree(run / "checkpoints" / f"{step:08d}")
    push.main([str(run), REPO])
    assert not [name for name in head(hub) if name.startswith("rollouts/")]


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


def test_the_command_says_it_in_one_line(hub: Hub, run: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "samosa_jax.push", str(run.parent), REPO], capture_output=True, text=True
    )
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert json.dumps(TOKEN) not in found.stderr
