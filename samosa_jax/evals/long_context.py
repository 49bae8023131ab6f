"""The two tasks of long texts on one checkpoint, as results in parts: by place, and by length."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.evals import needle, positions
from samosa_jax.evals.likelihood import Scorer
from samosa_jax.evals.recorder import Recorder
from samosa_jax.evals.results import TaskResult, mean_interval, write_items
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params

Progress = Callable[[int, int], None]  # items done, items to do


def evaluate_positions(
    name: str,
    recorder: Recorder,
    *,
    network: Network,
    params: Callable[[], Params],
    mesh: jax.sharding.Mesh,
    shards: Mapping[str, ShardSet],
    length: int,
    limit: int | None,
    batch_rows: int,
    token_bytes: np.ndarray,
    chunk_tokens: int,
    on_progress: Progress,
) -> tuple[list[TaskResult], bool]:
    """Bits per byte of every bucket of places, and whether they were there before.

    `limit` is documents of each folder; None: as many as MAX_TOKENS hold. Raises UserError where no held-out
    document is longer than `length` tokens.
    """
    started = time.perf_counter()
    limit = limit or max(1, positions.MAX_TOKENS // (length * len(shards)))
    documents = {
        folder: positions.long_documents(one, length=length, limit=limit) for folder, one in shards.items()
    }
    settings = {
        "data": {folder: one.fingerprint[:16] for folder, one in shards.items()},
        "documents": {folder: len(one) for folder, one in documents.items()},
        "context_len": length,
    }
    buckets = positions.buckets(length)
    tasks = {bucket: f"{name}/{bucket.name}" for bucket in buckets}
    kept = [recorder.find(task, "bpb", settings, positions.DEFINITION) for task in tasks.values()]
    if all(kept):
        return [one for one in kept if one is not None], True
    measure = positions.make_nats_by_place(network, chunk_tokens=chunk_tokens, mesh=mesh)
    records: dict[positions.Bucket, list[positions.Record]] = {bucket: [] for bucket in buckets}
    done, total = 0, sum(map(len, documents.values()))
    for folder, chosen in documents.items():
        batches = positions.document_batches(
            shards[folder], chosen, length=length, batch_rows=batch_rows, token_bytes=token_bytes
        )
        for found in batches:
            nats = measure(params(), found.batch)
            for bucket in buckets:
                records[bucket] += positions.bits_in(
                    bucket, nats, found, token_bytes=token_bytes, source=folder
                )
            done += len(found.documents)
            on_progress(done, total)
    results = [
        recorder.add(
            *(task, "bpb", positions.interval_of(records[bucket]), settings, positions.DEFINITION),
            *(len(records[bucket]), started, {}),
            items=write_items(recorder.run, step=recorder.step, task=task, items=records[bucket]),
            higher_is_better=False,
        )
        for bucket, task in tasks.items()
    ]
    return results, False


def evaluate_needle(
    name: str,
    recorder: Recorder,
    *,
    make_scorer: Callable[[], Scorer],
    tokenizer: Tokenizer,
    context_len: int,
    per_cell: int,
    seed: int,
    on_progress: Progress,
) -> tuple[list[TaskResult], bool]:
    """Accuracy over all lengths and of every length, and whether they were there before.

    Raises UserError for a context without room for a haystack.
    """
    started = time.perf_counter()
    lengths = needle.lengths_for(context_len)
    settings = {
        "context_len": context_len,
        "per_cell": per_cell,
        "seed": seed,
        "chance": 1 / needle.NUM_CHOICES,
    }
    tasks = {name: lengths, **{f"{name}/{length}": (length,) for length in lengths}}
    kept = [recorder.find(task, "accuracy", settings, needle.DEFINITION) for task in tasks]
    if all(kept):
        return [one for one in kept if one is not None], True
    scorer = make_scorer()
    items = list(needle.make_items(tokenizer, lengths=lengths, per_cell=per_cell, seed=seed))
    records = needle.score_items(items, scorer, on_progress=on_progress)
    results = []
    for task, of_lengths in tasks.items():
        own = [record for record in records if record["length"] in of_lengths]
        interval = mean_interval([record["score"] for record in own])
        results.append(
            recorder.add(
                *(task, "accuracy", interval, settings, needle.DEFINITION, len(own), started),
                needle.right_by_depth(own),
                items=write_items(recorder.run, step=recorder.step, task=task, items=own),
            )
        )
    return results, False
