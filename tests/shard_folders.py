"""Prepared folders for tests of what reads them: real shards, of documents whose every token is unique."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samosa_jax.data.shard_writer import ShardWriter

BOS = 0
MAX_LENGTH = 100
VOCAB_SIZE = 100_000  # above 65 536: uint32

Lengths = Sequence[Sequence[Sequence[int]]]  # generations of shards of documents, in tokens


def document(number: int, length: int) -> np.ndarray:
    """`<|bos|>`, then tokens that no other document number has."""
    return np.array([BOS, *range(number * MAX_LENGTH + 1, number * MAX_LENGTH + length)])


def write_folder(
    folder: Path,
    lengths: Lengths,
    *,
    validation: Sequence[int] = (),
    first_number: int = 0,
    tokenizer_fingerprint: str = "a" * 64,
) -> Path:
    """Writes generations of shards of documents, of the given lengths, after the validation documents."""
    writer = ShardWriter.create(
        folder, vocab_size=VOCAB_SIZE, bos_id=BOS, tokenizer_fingerprint=tokenizer_fingerprint
    )
    number = first_number
    for length in validation:
        writer.add(document(number, length), split="val")
        number += 1
    for index, generation in enumerate(lengths):
        if index:
            writer.begin_generation()
        for shard in generation:
            for length in shard:
                writer.add(document(number, length))
                number += 1
            writer.commit()
        writer.finish()
    return folder


def random_lengths(seed: int, *, shape: Sequence[Sequence[int]]) -> Lengths:
    """Document lengths from 1 to 40; shape gives the documents of each shard of each generation."""
    rng = np.random.default_rng(seed)
    return [[rng.integers(1, 41, count).tolist() for count in generation] for generation in shape]
