"""Measures how fast prepared shards become batches: tokens per second on one core, and memory.

    python scripts/bench_data.py                    # on shards of random tokens, made for the purpose
    python scripts/bench_data.py --data PREPARED    # on a folder written by `prepare`

Each case walks the same steps twice: `direct` builds batches in the caller's thread, `grain` takes them
from the reading thread of the training loop. Every case has a fresh process, held to one core where the
system can do that. One JSON line per case on stdout, then a table; the aim is 1 M tokens/s.
"""

import argparse
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from samosa_jax.config import SourceConfig
from samosa_jax.data.batch import Batch
from samosa_jax.data.pipeline import TrainPipeline
from samosa_jax.data.shard_writer import ShardWriter

VOCAB_SIZE = 32_768
BATCH_TOKENS = 65_536
DOCUMENTS_PER_SHARD = 8_192


def write_shards(folder: Path, *, num_documents: int, mean_tokens: int) -> Path:
    """Documents of random tokens; lengths spread like those of web text (log-normal, sigma 1)."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(mean_tokens) - 0.5, 1.0, num_documents).astype(int) + 1
    writer = ShardWriter.create(folder, vocab_size=VOCAB_SIZE, bos_id=0, tokenizer_fingerprint="random")
    for start in range(0, num_documents, DOCUMENTS_PER_SHARD):
        for length in lengths[start : start + DOCUMENTS_PER_SHARD]:
            tokens = rng.integers(1, VOCAB_SIZE, length, dtype=np.uint16)
            tokens[0] = 0
            writer.add(tokens)
        writer.commit()
    writer.finish()
    return folder


def direct(pipeline: TrainPipeline) -> Iterator[Batch]:
    step = 0
    while True:
        yield pipeline.batch(step)
        step += 1


def peak_megabytes() -> float:
    """Largest resident size of this process so far, mapped shards included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def measure(folder: Path, *, context_len: int, reader: str, num_steps: int) -> dict[str, str | int | float]:
    importlib.import_module("grain")  # its memory is not the pipeline's
    before = peak_megabytes()
    pipeline = TrainPipeline(
        [SourceConfig(path=str(folder))],
        batch_rows=BATCH_TOKENS // context_len,
        context_len=context_len,
        seed=0,
    )
    batches = direct(pipeline) if reader == "direct" else pipeline.batches()
    next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(num_steps):
        next(batches)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = num_steps * BATCH_TOKENS
    lengths = pipeline.sources[0].stream.shards.document_lengths
    return {
        "reader": reader,
        "context_len": context_len,
        "tokens_per_document": round(float(lengths.mean()), 1),
        "tokens_per_s": round(tokens / wall),
        "tokens_per_cpu_s": round(tokens / cpu),
        "peak_mb": round(peak_megabytes()),
        "peak_mb_grown": round(peak_megabytes() - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder written by `prepare`")
    parser.add_argument("--context-len", type=int, nargs="+", default=[512, 2_048])
    parser.add_argument("--num-steps", type=int, default=200)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    results = []
    one_by_one = ProcessPoolExecutor(
        max_workers=1, max_tasks_per_child=1, mp_context=multiprocessing.get_context("spawn")
    )
    with tempfile.TemporaryDirectory() as scratch, one_by_one as fresh_process:
        folders = [arguments.data]
        if arguments.data is None:
            sizes = {"short": (32_768, 200), "long": (16_384, 1_000)}  # stories, web pages
            folders = [
                fresh_process.submit(
                    write_shards, Path(scratch) / name, num_documents=count, mean_tokens=mean
                ).result()
                for name, (count, mean) in sizes.items()
            ]
        for folder in folders:
            for context_len, reader in itertools.product(arguments.context_len, ("direct", "grain")):
                case = fresh_process.submit(
                    measure, folder, context_len=context_len, reader=reader, num_steps=arguments.num_steps
                )
                results.append(case.result())
                print(json.dumps(results[-1]), flush=True)
    print("\n" + "  ".join(results[0]))
    for result in results:
        cells = [
            value if isinstance(value, str) else f"{value:>{len(name)},}" for name, value in result.items()
        ]
        print("  ".join(cells))


if __name__ == "__main__":
    main()
