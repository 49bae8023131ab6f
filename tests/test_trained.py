"""Opening what training has left: which checkpoint, whose tokenizer, in which precision, on which devices."""

import dataclasses
import functools
import hashlib
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_runs

from samosa_jax.command_line import parse_config
from samosa_jax.config import Config, LoraConfig, MeshConfig
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.lora import Adapters, merge_lora
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.request import Prompt, Sampling
from samosa_jax.trained import make_engines, open_trained
from samosa_jax.training.checkpoint import SEAL

LORA = LoraConfig(rank=2, alpha=3.0, targets=("attention", "mlp/up"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Config:
    flags = {"name": "base", "model.smear": True, "model.model_dim": 32, "model.residual_scalars": True}
    return parse_config(training_runs.flags(data, tmp_path / "runs", flags)).config


def save(config: Config, step: int, params: Params, *, begun_with: str = "") -> Path:
    """A checkpoint as training writes it."""
    tokenizer = Tokenizer.load(Path(config.data.sources[0].path) / "tokenizer")
    run = Path(config.out_dir) / config.name
    return training_runs.save_run(run, config, tokenizer, params, step=step, data={"begun_with": begun_with})


def random_params(config: Config, seed: int) -> Params:
    return jax.jit(Network.build(config.model).init)(jax.random.key(seed))


def named(config: Config, name: str) -> Config:
    return dataclasses.replace(config, name=name)


def at_time(checkpoint: Path, seconds: float) -> None:
    os.utime(checkpoint / SEAL, (seconds, seconds))


def damage(checkpoint: Path) -> None:
    largest = max((checkpoint / "params").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_the_checkpoint_written_last_is_taken(config):
    runs = Path(config.out_dir)
    old = save(config, 30, random_params(config, 0))
    newer = save(config, 40, random_params(config, 1))
    other = save(named(config, "other"), 10, random_params(config, 2))
    for seconds, checkpoint in enumerate((old, other, newer)):
        at_time(checkpoint, 1_000_000 + seconds)
    newest = open_trained(None, runs=runs)
    assert (newest.name, newest.step, newest.folder, newest.notices) == ("base", 40, newer, ())
    assert newest.config == config
    assert newest.tokenizer.vocab_size == training_runs.VOCAB_SIZE
    jax.tree.map(np.testing.assert_array_equal, newest.params, random_params(config, 1))
    at_time(other, 2_000_000)
    assert open_trained(None, runs=runs).folder == other
    assert open_trained(runs / "base").step == 40
    assert open_trained(runs / "base", step=30).folder == old
    assert open_trained(old).folder == old

    damage(newer)
    passed = open_trained(runs / "base")
    assert passed.step == 30
    assert "has changed since it was written" in passed.notices[0]
    with pytest.raises(UserError, match=r"cannot be used: .* has changed since it was written"):
        open_trained(newer)
    with pytest.raises(UserError, match="cannot be used"):
        open_trained(runs / "base", step=40)


def test_large_parameters_are_kept_in_the_dtype_that_computes(config):
    save(config, 1, random_params(config, 0))
    trained = open_trained(Path(config.out_dir) / "base")
    assert trained.network.compute_dtype == "float32"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trained.params)} == {"float32"}

    network = Network.build(config.model, compute_dtype="bfloat16")
    as_on_accelerators = dataclasses.replace(trained, network=network)
    kept = as_on_accelerators.params
    assert kept["embedding"].dtype == kept["blocks"]["attention"]["query"].dtype == jnp.bfloat16
    assert kept["blocks"]["residual_scale"].dtype == jnp.float32
    tokens = jnp.arange(12, dtype=jnp.int32).reshape(1, 12)
    place = jnp.arange(12, dtype=jnp.int32)[None]
    inputs = {"k_lo": 0 * place, "k_hi": place + 1, "position": place, "turn_position": place}
    logits = jax.jit(functools.partial(network.logits, tokens=tokens, **inputs))
    np.testing.assert_array_equal(logits(kept), logits(trained.params))


@pytest.mark.parametrize("tensor", [1, 2])
def test_parameters_arrive_on_every_mesh_as_they_were_saved(config, tensor):
    params = random_params(config, 0)
    save(config, 1, params)
    trained = open_trained(Path(config.out_dir) / "base", devices=jax.devices()[2:6])
    mesh = make_mesh(MeshConfig(tensor=tensor), devices=trained.devices)
    placed = trained.params_on(mesh)
    jax.tree.map(np.testing.assert_array_equal, placed, params)
    assert all(leaf.devices() == set(trained.devices) for leaf in jax.tree.leaves(placed))
    query = placed["blocks"]["attention"]["query"]
    assert query.addressable_shards[0].data.size == query.size // tensor


def test_adapters_are_merged_into_the_base_they_began_with(config):
    base_params = random_params(config, 0)
    base = save(config, 5, base_params)
    lora_config = dataclasses.replace(
        config, name="lora", lora=LORA, init_from=str(Path(config.out_dir) / "base")
    )
    info = Adapters(Network.build(config.model).info, rank=LORA.rank, targets=LORA.targets).info
    adapters = jax.tree.map(
        lambda leaf: 0.1 * jax.random.normal(jax.random.key(leaf.num_params), leaf.shape), info
    )
    fingerprint = hashlib.sha256((base / SEAL).read_bytes()).hexdigest()
    save(lora_config, 9, adapters, begun_with=fingerprint)
    save(config, 6, random_params(config, 1))  # the base was trained further since
    trained = open_trained(Path(config.out_dir) / "lora")
    assert trained.base == base
    expected = merge_lora(base_params, adapters, scale=1.5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), trained.params, expected
    )
    changed = trained.params["blocks"]["attention"]["query"] != base_params["blocks"]["attention"]["query"]
    assert bool(changed.any())

    shutil.rmtree(base)
    with pytest.raises(UserError, match=r"adapters of a checkpoint that .* does not hold any more"):
        open_trained(Path(config.out_dir) / "lora")
    shutil.rmtree(Path(config.out_dir) / "base")
    with pytest.raises(UserError, match=r"adapters of .*, which is not there"):
        open_trained(Path(config.out_dir) / "lora")


def test_the_tokenizer_is_found_by_its_fingerprint(config, data, tmp_path, monkeypatch):
    """Beside the data, where the run was trained, in the run itself, or where it is said to be."""
    workplace = tmp_path / "workplace"
    shutil.copytree(data / "tokenizer", workplace / "data" / "tokenizer")
    source = dataclasses.replace(config.data.sources[0], path="data")
    relative = dataclasses.replace(
        config, out_dir="runs", data=dataclasses.replace(config.data, sources=(source,))
    )
    monkeypatch.chdir(workplace)
    save(relative, 1, random_params(config, 0))
    expected = Tokenizer.load(data / "tokenizer").fingerprint
    assert open_trained(None).tokenizer.fingerprint == expected
    monkeypatch.chdir(tmp_path)
    run = workplace / "runs" / "base"
    assert open_trained(run).tokenizer.fingerprint == expected

    shutil.rmtree(workplace / "data")
    with pytest.raises(UserError, match=r"which is in none of .*--tokenizer=FOLDER") as caught:
        open_trained(run)
    assert "\n" not in str(caught.value)
    assert open_trained(run, tokenizer=data / "tokenizer").tokenizer.fingerprint == expected
    shutil.copytree(data / "tokenizer", run / "tokenizer")
    assert open_trained(run).tokenizer.fingerprint == expected


def test_another_tokenizer_is_refused(config, tmp_path):
    save(config, 1, random_params(config, 0))
    training_runs.write_dataset(tmp_path / "other", vocab_size=520)
    with pytest.raises(UserError, match=r"is not the one that .* was trained with"):
        open_trained(Path(config.out_dir) / "base", tokenizer=tmp_path / "other" / "tokenizer")
    with pytest.raises(UserError, match=r"tokenizer folder .* does not exist"):
        open_trained(Path(config.out_dir) / "base", tokenizer=tmp_path / "nowhere")


def test_what_is_not_there_is_said_in_one_line(config, tmp_path):
    def refusal(path: Path | None, **options: object) -> str:
        with pytest.raises(UserError) as caught:
            open_trained(path, runs=tmp_path / "runs", **options)  # pyright: ignore
        return str(caught.value)

    assert "no run with a finished checkpoint under" in refusal(None)
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "neither a run with a finished checkpoint nor a checkpoint" in refusal(tmp_path)
    checkpoint = save(config, 7, random_params(config, 0))
    assert "it has those of 7" in refusal(tmp_path / "runs" / "base", step=8)
    assert "checkpoint of another step than 8" in refusal(checkpoint, step=8)
    (checkpoint / SEAL).unlink()
    assert "no run with a finished checkpoint under" in refusal(None)
    assert "it was never finished" in refusal(checkpoint)


def test_every_replica_gives_the_same_answer(config):
    save(config, 1, random_params(config, 0))
    trained = open_trained(Path(config.out_dir) / "base", devices=jax.devices()[:4])
    engines = make_engines(trained, max_batch=2, replicas=2, tensor=2)
    assert len(engines) == 2
    answers = []
    for engine in engines:
        prompt = Prompt.of_tokens(trained.tokenizer.encode("Anna sees the river"))
        (answer,) = engine.submit(prompt, Sampling(temperature=0, max_tokens=4), end_ids=())
        while engine.has_work:
            engine.step()
        answers.append(answer.tokens)
    assert len(answers[0]) == 4
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"replicas": 3}, "do not fill the 8 devices"),
        ({"max_batch": 0}, "max_batch is 0; it must be at least 1"),
        ({"context_len": 64}, "was trained with 32 tokens"),
        ({"tensor": 0}, "do not fill the 8 devices"),
    ],
)
def test_engines_that_cannot_be_are_refused(config, flags, says):
    save(config, 1, random_params(config, 0))
    trained = open_trained(Path(config.out_dir) / "base")
    with pytest.raises(UserError, match=says):
        make_engines(trained, **{"max_batch": 8, **flags})
