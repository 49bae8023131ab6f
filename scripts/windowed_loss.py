"""Bits per byte by place of a model that reads no further back than it was trained to: what the text does.

    python scripts/windowed_loss.py runs/base data/long --length=16384 --limit=50

The same documents and buckets as `samosa evaluate --tasks=positions`, read in windows of the model's context
that overlap by half; of each but the first, the second half counts. Later text may be harder or easier: this
is what a longer context is measured against.
"""

import argparse
import math
from pathlib import Path

import jax
import numpy as np

from samosa_jax.config import MeshConfig
from samosa_jax.data.batch import Batch
from samosa_jax.data.shards import ShardSet
from samosa_jax.evals.positions import buckets, long_documents, make_nats_by_place
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.trained import open_trained


def windows(tokens: np.ndarray, context_len: int, token_bytes: np.ndarray) -> Batch:
    """All windows of one document of length + 1 tokens; targets that another window counts weigh nothing."""
    half = context_len // 2
    starts = np.arange(0, len(tokens) - context_len, half)
    rows = np.stack([tokens[start : start + context_len + 1] for start in starts])
    place = np.broadcast_to(np.arange(context_len, dtype=np.int32), (len(starts), context_len))
    counts = (place >= half) | (starts == 0)[:, None]
    return Batch(
        tokens=rows[:, :-1],
        targets=rows[:, 1:],
        weights=(counts & (token_bytes[rows[:, 1:]] > 0)).astype(np.float32),
        k_lo=np.zeros_like(place),
        k_hi=place + 1,
        position=place,
        turn_position=place,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True)
    flags = parser.parse_args()
    trained = open_trained(flags.run)
    context_len, half = trained.config.model.context_len, trained.config.model.context_len // 2
    assert flags.length % half == 0, f"--length must be a multiple of {half}"
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    params, token_bytes = trained.params_on(mesh), trained.tokenizer.token_bytes
    measure = make_nats_by_place(trained.network, chunk_tokens=trained.config.loss.chunk_tokens, mesh=mesh)
    shards = ShardSet.open(flags.data, split="val")
    bits, size = np.zeros(flags.length), np.zeros(flags.length)
    for document in long_documents(shards, length=flags.length, limit=flags.limit).tolist():
        tokens = np.asarray(shards.tokens(document, 0, flags.length + 1), np.int32)
        batch = windows(tokens, context_len, token_bytes)
        nats = measure(params, batch)
        # Target t of window w is place half * w + t of the document.
        places = half * np.arange(len(nats))[:, None] + batch.position
        np.add.at(bits, places, nats / math.log(2))
        np.add.at(size, places, token_bytes[batch.targets] * (batch.weights > 0))
    for bucket in buckets(flags.length):
        here = slice(bucket.start, bucket.stop)
        print(f"{bucket.name}: {bits[here].sum() / size[here].sum():.3f}")


if __name__ == "__main__":
    main()
