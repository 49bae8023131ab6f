"""A run with two checkpoints, and a hub on localhost to push it to."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
import training_runs
from hub_server import Hub, serve
from huggingface_hub import constants

from samosa_jax.command_line import parse_config
from samosa_jax.config import to_dict
from samosa_jax.data import hub as hub_module
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.model.gpt import Network
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
