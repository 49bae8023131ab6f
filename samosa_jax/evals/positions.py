"""Bits per byte by place in a long document: whether a model makes anything of what stands far before.

Every held-out document that is long enough is read once from its beginning, and its bits are counted in
buckets of places that double: 0-512, 512-1024, 1024-2048, ... A model that uses its context gets better from
bucket to bucket, or stays as it is; one that is read beyond what it can do gets worse. Texts themselves
change with the place as well, so compare models at the same place before places of one model.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samosa_jax.data.batch import Batch
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError
from samosa_jax.evals.intervals import Interval, ratio_interval
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.sharding import batch_sharding
from samosa_jax.training.losses import batch_cross_entropy

POSITIONS = "positions"
DEFINITION = 1  # goes up when the same model and text would give another number
MAX_TOKENS = 2_000_000  # read of all documents, where no limit is given
NUM_DOUBLINGS = 5  # the first bucket is 1/32 of what is read

Record = dict[str, Any]  # of a document, for `results.write_items`


class LongDocuments(NamedTuple):
    """Beginnings of documents, a row each."""

    batch: Batch  # rows beyond the documents are padding
    documents: np.ndarray  # int64, their numbers


class Bucket(NamedTuple):
    """Targets after place `start`, up to `stop`."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.start}-{self.stop}"


def buckets(length: int) -> list[Bucket]:
    """Of `length` places; each but the first begins at twice the place of the one before."""
    inner = [length >> shift for shift in range(NUM_DOUBLINGS, 0, -1) if length >> shift]
    return [Bucket(*pair) for pair in itertools.pairwise((0, *inner, length))]


def long_documents(shards: ShardSet, *, length: int, limit: int) -> np.ndarray:
    """The numbers of the first `limit` documents with a target at each of `length` places.

    Raises UserError if there is none.
    """
    lengths = np.asarray(shards.document_lengths)
    found = np.flatnonzero(lengths > length)
    if not len(found):
        raise UserError(
            f"{shards.folder}: the longest of {len(lengths)} held-out documents has "
            f"{max(lengths, default=0)} tokens, {POSITIONS} needs more than {length}; name longer text with "
            "--bpb_data, or read less with --context_len"
        )
    return found[:limit]


def document_batches(
    shards: ShardSet, documents: np.ndarray, *, length: int, batch_rows: int, token_bytes: np.ndarray
) -> Iterator[LongDocuments]:
    """The first `length` tokens of these documents; targets that stand for no bytes weigh nothing."""
    place = np.arange(length, dtype=np.int32)
    for start in range(0, len(documents), batch_rows):
        here = documents[start : start + batch_rows]
        rows = np.zeros((batch_rows, length + 1), np.int32)
        rows[: len(here)] = [shards.tokens(int(document), 0, length + 1) for document in here]
        is_document = (np.arange(batch_rows) < len(here))[:, None]
        position = np.broadcast_to(place, (batch_rows, length))
        weights = (token_bytes[rows[:, 1:]] > 0) & is_document
        yield LongDocuments(
            Batch(
                tokens=rows[:, :-1],
                targets=rows[:, 1:],
                weights=weights.astype(np.float32),
                k_lo=np.zeros_like(position),
                k_hi=np.where(is_document, position + 1, 0).astype(np.int32),
                position=position,
                turn_position=position,
            ),
            here,
        )


def make_nats_by_place(
    network: Network, *, chunk_tokens: int, mesh: jax.sharding.Mesh
) -> Callable[[Params, Batch], np.ndarray]:
    """A function of (parameters, batch) -> -ln p of every target times its weight, float32 (B, T)."""
    sharding = batch_sharding(mesh)

    @jax.jit
    def nats(params: Params, batch: Batch) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            weights = jnp.asarray(batch.weights)
            loss = batch_cross_entropy(network, params, batch, z_loss=0.0, chunk_tokens=chunk_tokens)
            return loss.token_nll * weights

    def by_place(params: Params, batch: Batch) -> np.ndarray:
        put = jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)
        return np.asarray(jax.device_get(nats(params, put)))

    return by_place


def bits_in(
    bucket: Bucket, nats: np.ndarray, found: LongDocuments, *, token_bytes: np.ndarray, source: str
) -> list[Record]:
    """A record for each document, with bits, bytes and, as its score, bits per byte; `source` names it."""
    here = slice(bucket.start, bucket.stop)
    num_bytes = token_bytes[found.batch.targets[:, here]] * (found.batch.weights[:, here] > 0)
    records = []
    for row, document in enumerate(found.documents.tolist()):
        bits = float(nats[row, here].sum(dtype=np.float64)) / math.log(2)
        size = int(num_bytes[row].sum())
        records.append(
            {"item": f"{source}/{document}", "score": bits / max(size, 1), "bits": bits, "bytes": size}
        )
    return records


def interval_of(records: Sequence[Record]) -> Interval:
    """Bits per byte of these records together, bootstrapped over documents."""
    return ratio_interval([one["bits"] for one in records], [one["bytes"] for one in records])
