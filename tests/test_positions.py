"""Bits per byte by place: the definition, computed from the logits of every token, and what is refused."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from one_layer import MODEL

from samosa_jax.config import MeshConfig
from samosa_jax.data.shard_writer import ShardWriter
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError
from samosa_jax.evals.positions import (
    Bucket,
    bits_in,
    buckets,
    document_batches,
    interval_of,
    long_documents,
    make_nats_by_place,
)
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.mesh import make_mesh

LENGTH = 32
TOKEN_BYTES = np.array([0, *(1 + i % 4 for i in range(49))], np.int32)
# Read at twice the context that it was made for.
NETWORK = Network.build(dataclasses.replace(MODEL, vocab_size=50, context_len=LENGTH // 2))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Documents of 33, 5, 80, 32 and 40 tokens, the first of which is special."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "shards"
    with ShardWriter.create(folder, vocab_size=50, bos_id=0, tokenizer_fingerprint="f") as writer:
        for length in (33, 5, 80, 32, 40):
            writer.add([0, *rng.integers(1, 50, size=length - 1).tolist()], split="val")
    return ShardSet.open(folder, split="val")


def test_buckets_double():
    assert [bucket.name for bucket in buckets(1_024)] == [
        *("0-32", "32-64", "64-128", "128-256", "256-512", "512-1024")
    ]
    assert buckets(100) == [
        Bucket(0, 3),
        *map(Bucket._make, [(3, 6), (6, 12), (12, 25), (25, 50), (50, 100)]),
    ]
    assert buckets(3) == [Bucket(0, 1), Bucket(1, 3)]


def test_documents_that_are_long_enough_are_chosen(held_out: ShardSet):
    assert long_documents(held_out, length=LENGTH, limit=9).tolist() == [0, 2, 4]
    assert long_documents(held_out, length=LENGTH, limit=2).tolist() == [0, 2]
    with pytest.raises(
        UserError, match=r"the longest of 5 held-out documents has 80 tokens, positions needs more than 80"
    ):
        long_documents(held_out, length=80, limit=9)


def test_it_is_what_the_definition_says(held_out: ShardSet):
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:2])
    params = jax.jit(NETWORK.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    documents = long_documents(held_out, length=LENGTH, limit=9)
    measure = make_nats_by_place(NETWORK, chunk_tokens=16, mesh=mesh)
    found: dict[str, list[dict[str, float]]] = {bucket.name: [] for bucket in buckets(LENGTH)}
    for batch in document_batches(held_out, documents, length=LENGTH, batch_rows=2, token_bytes=TOKEN_BYTES):
        nats = measure(params, batch.batch)
        for bucket in buckets(LENGTH):
            found[bucket.name] += bits_in(bucket, nats, batch, token_bytes=TOKEN_BYTES, source="x")
    place = np.arange(LENGTH, dtype=np.int32)[None]
    for number, document in enumerate(documents.tolist()):
        tokens = np.asarray(held_out.document(document)[: LENGTH + 1], np.int32)
        logits = jax.jit(NETWORK.logits)(
            params,
            tokens[None, :-1],
            k_lo=np.zeros_like(place),
            k_hi=place + 1,
            position=place,
            turn_position=place,
        )
        logprobs = np.asarray(jax.nn.log_softmax(logits[0]), np.float64)
        nats = -logprobs[np.arange(LENGTH), tokens[1:]]
        for bucket in buckets(LENGTH):
            record = found[bucket.name][number]
            assert record["item"] == f"x/{document}"
            assert record["bits"] == pytest.approx(
                nats[bucket.start : bucket.stop].sum() / math.log(2), rel=1e-4
            )
            assert record["bytes"] == TOKEN_BYTES[tokens[1 + bucket.start : 1 + bucket.stop]].sum()
    last = found[buckets(LENGTH)[-1].name]
    interval = interval_of(last)
    assert interval.value == pytest.approx(
        sum(one["bits"] for one in last) / sum(one["bytes"] for one in last)
    )
    assert interval.low <= interval.value <= interval.high


def test_the_folder_is_named_where_no_document_is_long_enough(tmp_path: Path):
    with ShardWriter.create(tmp_path / "x", vocab_size=50, bos_id=0, tokenizer_fingerprint="f") as writer:
        writer.add([0, 1, 2], split="val")
    with pytest.raises(UserError, match=f"{tmp_path / 'x'}: the longest of 1 held-out documents has 3"):
        long_documents(ShardSet.open(tmp_path / "x", split="val"), length=8, limit=9)
