"""Bits per byte against the definition, computed from the logits of every token."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_layer import MODEL

from samosa_jax.config import MeshConfig
from samosa_jax.data.pipeline import validation_batches
from samosa_jax.data.shard_writer import ShardWriter
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError
from samosa_jax.evals.bits_per_byte import BitsPerByte, make_bits_per_byte
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.parallel.sharding import param_shardings

BOS = 0
VOCAB_SIZE = 50
TOKEN_BYTES = np.array([0, *(1 + i % 4 for i in range(VOCAB_SIZE - 1))], np.int32)
CONTEXT_LEN = 16
NETWORK = Network.build(dataclasses.replace(MODEL, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN))


@pytest.fixture(scope="module")
def params() -> Params:
    return jax.jit(NETWORK.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "shards"
    with ShardWriter.create(folder, vocab_size=VOCAB_SIZE, bos_id=BOS, tokenizer_fingerprint="f") as writer:
        for length in rng.integers(1, 40, size=12).tolist():
            writer.add([BOS, *rng.integers(1, VOCAB_SIZE, size=length).tolist()], split="val")
    return ShardSet.open(folder, split="val")


def measure(params: Params, held_out: ShardSet, mesh_config: MeshConfig, *, num_devices: int) -> BitsPerByte:
    mesh = make_mesh(mesh_config, devices=jax.devices()[:num_devices])
    batches = validation_batches(
        held_out, batch_rows=8, context_len=CONTEXT_LEN, token_bytes=TOKEN_BYTES, document_masking=True
    )
    placed = jax.device_put(params, param_shardings(NETWORK.info, mesh))
    return make_bits_per_byte(NETWORK, chunk_tokens=32, mesh=mesh)(placed, batches)


def test_it_is_what_the_definition_says(params: Params, held_out: ShardSet):
    logits_of = jax.jit(NETWORK.logits)
    stream = np.concatenate([held_out.document(i) for i in range(held_out.num_documents)]).astype(np.int32)
    nats, num_bytes, num_tokens = 0.0, 0, 0
    for start in range(0, len(stream) - 1, CONTEXT_LEN):
        row, targets = stream[start : start + CONTEXT_LEN], stream[start + 1 : start + CONTEXT_LEN + 1]
        row = np.pad(row[: len(targets)], (0, CONTEXT_LEN - len(targets)))
        place = np.arange(CONTEXT_LEN, dtype=np.int32)
        begin = np.maximum.accumulate(np.where(row == BOS, place, 0))
        logits = logits_of(
            params,
            row[None],
            k_lo=begin[None],
            k_hi=place[None] + 1,
            position=(place - begin)[None],
            turn_position=(place - begin)[None],
        )
        logprobs = np.asarray(jax.nn.log_softmax(logits[0]), np.float64)
        for i, target in enumerate(targets):
            if target != BOS:
                nats -= logprobs[i, target]
                num_bytes += int(TOKEN_BYTES[target])
                num_tokens += 1
    found = measure(params, held_out, MeshConfig(), num_devices=1)
    assert (found.num_tokens, found.num_bytes) == (num_tokens, num_bytes)
    assert found.num_tokens < len(stream) - 1  # special tokens were there, and left out
    assert found.value == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    assert found.definition == 1


def test_no_mesh_changes_it(params: Params, held_out: ShardSet):
    alone = measure(params, held_out, MeshConfig(), num_devices=1)
    spread = measure(params, held_out, MeshConfig(data=2, fsdp=2, tensor=2), num_devices=8)
    assert spread.nats == pytest.approx(alone.nats, rel=1e-5)
    assert (spread.num_tokens, spread.num_bytes) == (alone.num_tokens, alone.num_bytes)
    other = jax.tree.map(lambda leaf: leaf * 1.5, params)
    assert measure(other, held_out, MeshConfig(), num_devices=1).nats != pytest.approx(alone.nats, rel=1e-3)


def test_a_model_that_knows_nothing_needs_the_bits_of_a_uniform_guess(params: Params, held_out: ShardSet):
    ignorant = {**params, "head": jnp.zeros_like(params["head"])}
    found = measure(ignorant, held_out, MeshConfig(), num_devices=1)
    assert found.value == pytest.approx(math.log2(VOCAB_SIZE) * found.num_tokens / found.num_bytes, rel=1e-5)


def test_two_texts_add_up_by_their_bytes():
    total = BitsPerByte(nats=2.0, num_tokens=3, num_bytes=4) + BitsPerByte(
        nats=6.0, num_tokens=1, num_bytes=4
    )
    assert total.value == pytest.approx(8.0 / math.log(2) / 8)


def test_a_text_without_bytes_is_refused(params: Params, held_out: ShardSet):
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    silent = validation_batches(
        held_out, batch_rows=8, context_len=CONTEXT_LEN, token_bytes=np.zeros(VOCAB_SIZE, np.int32)
    )
    with pytest.raises(UserError, match="no token that stands for any byte"):
        make_bits_per_byte(NETWORK, chunk_tokens=32, mesh=mesh)(params, silent)
