"""A small prepared dataset and the tiniest run on it, for tests of training as users start it."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from samosa_jax.config import Config, to_dict
from samosa_jax.data import tokenizer_training
from samosa_jax.data.shard_writer import ShardWriter
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.data.tokenizer_training import TokenizerOptions, draw_sample
from samosa_jax.model.params import Params
from samosa_jax.training.checkpoint import Checkpointer, CheckpointRecord, step_folder
from samosa_jax.training.state import TrainState

VOCAB_SIZE = 512
WORDS = (
    ["Anna", "Tom", "grandmother", "the dog", "the king", "a teacher", "my friend", "an old man"],
    ["sees", "finds", "likes", "carries", "paints", "opens", "follows", "remembers", "forgets", "sells"],
    ["a house", "the river", "two apples", "the letter", "a green door", "many stars", "the bread"],
    ["in the morning", "near the forest", "at home", "under the bridge", "today", "after the rain"],
)

TINY = {
    "model.vocab_size": VOCAB_SIZE,
    "model.context_len": 32,
    "model.num_layers": 2,
    "model.model_dim": 32,
    "model.num_heads": 2,
    "model.num_kv_heads": 1,
    "model.head_dim": 16,
    "model.mlp_dim": 64,
    "train.num_steps": 60,
    "train.batch_tokens": 256,
    "train.device_batch_size": 2,
    "schedule.warmup_steps": 4,
    "loss.chunk_tokens": 64,
    "eval.every_steps": 0,
    "eval.max_tokens": 512,
    "sample.every_steps": 0,
    "sample.max_tokens": 8,
    "checkpoint.every_steps": 0,
}


def make_text(seed: int) -> str:
    rng = random.Random(seed)
    sentences = [" ".join(rng.choice(words) for words in WORDS) for _ in range(rng.randint(3, 12))]
    return ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) + "."


def write_dataset(folder: Path, *, vocab_size: int = VOCAB_SIZE) -> Path:
    """A prepared folder `data` of 300 training and 20 validation documents, with its tokenizer."""
    texts = [make_text(seed) for seed in range(320)]
    sample = draw_sample(texts, max_bytes=1 << 20, seed=0)
    tokenizer = tokenizer_training.train(sample, TokenizerOptions(vocab_size=vocab_size), inputs=["made up"])
    tokenizer_training.write(tokenizer, folder / "tokenizer")
    write_shards(folder / "data", tokenizer, tokenizer_folder=folder / "tokenizer", texts=texts)
    return folder / "data"


def write_shards(
    folder: Path, tokenizer: Tokenizer, *, tokenizer_folder: Path, texts: list[str], finish: bool = True
) -> None:
    """The first 20 texts are for validation. Unfinished shards look as if `prepare` were still at work."""
    writer = ShardWriter.create(
        folder,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_dir=tokenizer_folder,
    )
    for index, text in enumerate(texts):
        tokens = [tokenizer.bos_id, *tokenizer.encode(text)]
        writer.add(tokens, split="val" if index < 20 else "train", text=text.encode())
        if index == 150:
            writer.commit()
    if finish:
        writer.finish()
    else:
        writer.commit()


def flags(data: Path, out_dir: Path, overrides: Mapping[str, object]) -> list[str]:
    """The command line of the tiny run, with overrides."""
    values = {"data": data, "out_dir": out_dir, **TINY, **overrides}
    return [
        f"--{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in values.items()
    ]


def environment(*, num_devices: int = 1) -> dict[str, str]:
    """Of a process: CPU devices of its own number; the tests' compilation cache and flags of XLA."""
    count = "--xla_force_host_platform_device_count="
    flags = re.sub(rf"{count}\d+", f"{count}{num_devices}", os.environ["XLA_FLAGS"])
    return {**os.environ, "XLA_FLAGS": flags}


def start(arguments: list[str], *, num_devices: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "samosa_jax.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(num_devices=num_devices),
    )


def run(arguments: list[str], *, num_devices: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "samosa_jax.train", *arguments],
        capture_output=True,
        text=True,
        env=environment(num_devices=num_devices),
        timeout=300,
    )


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def stored_arrays(folder: Path) -> dict[str, np.ndarray]:
    """What Orbax has stored in a folder, by path."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        shapes = reader.metadata(folder).item_metadata.tree
        restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        tree = reader.restore(folder, restore_args=restore_args)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def save_run(
    run: Path,
    config: Config,
    tokenizer: Tokenizer,
    params: Params,
    *,
    step: int = 1,
    data: Mapping[str, object] | None = None,
) -> Path:
    """Leaves a model's parameters in the folder of a run, as training does; returns the checkpoint."""
    record = CheckpointRecord(
        step=step,
        config=to_dict(config),
        tokenizer=tokenizer.fingerprint,
        data=dict(data or {}),
        mesh={},
        versions={},
        seconds_trained=0.0,
    )
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(step=zero + step, params=params, opt_state=optax.EmptyState(), bad_steps=zero)
    checkpoints = run / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    saver = Checkpointer(checkpoints, keep_last=9, milestone_steps=0, newest_good=step, say=problems.append)
    saver.save(state, record)
    saver.wait()
    assert not problems
    return step_folder(checkpoints, step)
