"""Tokenizing a stream on several processes: in order, with bounded memory, and no process left behind."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np

from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError

BATCH_CHARS = 1 << 17  # of text handed to a worker at a time
BATCH_DOCUMENTS = 256
MIN_BYTES_PER_WORKER = 8 << 20  # less text does not repay the start of a process

Item = TypeVar("Item")


def num_workers(asked: int, *, num_bytes: int) -> int:
    """Processes to use: as asked, or by cores and amount of input for 0."""
    if asked:
        return asked
    return max(1, min(os.cpu_count() or 1, num_bytes // MIN_BYTES_PER_WORKER))


def tokenized(
    items: Iterable[Item], tokenizer: Tokenizer, *, text_of: Callable[[Item], str], workers: int, dtype: str
) -> Generator[tuple[Item, np.ndarray], None, None]:
    """Every item with its tokens, `<|bos|>` first, in the order of the items.

    With one worker the calling process tokenizes. Otherwise at most two batches per worker are on their
    way, so that memory does not grow with the data. Close the iterator to end the processes.

    Args:
      dtype: of the token arrays.
    """
    batches = _batches(items, text_of)
    if workers == 1:
        for batch in batches:
            yield from zip(batch, _encode(tokenizer, [text_of(item) for item in batch], dtype), strict=True)
        return
    # Spawned, not forked: the caller may have threads, and a fork would copy their locks.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(tokenizer, dtype)
    )
    under_way: deque[tuple[list[Item], Future[list[np.ndarray]]]] = deque()
    try:
        for batch in batches:
            under_way.append((batch, pool.submit(_encode_in_worker, [text_of(item) for item in batch])))
            if len(under_way) > 2 * workers:
                yield from _first(under_way)
        while under_way:
            yield from _first(under_way)
    except BrokenProcessPool:
        raise UserError(
            "a tokenizing process was killed, most likely for want of memory; "
            "run the same command again with fewer --workers to go on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _first(
    under_way: deque[tuple[list[Item], Future[list[np.ndarray]]]],
) -> Iterator[tuple[Item, np.ndarray]]:
    batch, future = under_way.popleft()
    return zip(batch, future.result(), strict=True)


def _batches(items: Iterable[Item], text_of: Callable[[Item], str]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(text_of(item))
        if size >= BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, texts: list[str], dtype: str) -> list[np.ndarray]:
    result = []
    for ids in tokenizer.encode_batch(texts):
        tokens = np.empty(len(ids) + 1, dtype)
        tokens[0] = tokenizer.bos_id
        tokens[1:] = ids
        result.append(tokens)
    return result


# One per worker process, set when it starts: a tokenizer is far larger than the batches it works on.
_worker: tuple[Tokenizer, str] | None = None


def _start_worker(tokenizer: Tokenizer, dtype: str) -> None:
    global _worker
    _worker = (tokenizer, dtype)
    # Ctrl-C reaches the whole group; the parent alone decides what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent killed by SIGKILL cannot end its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_worker(texts: list[str]) -> list[np.ndarray]:
    if _worker is None:
        raise RuntimeError("_start_worker has not run in this process")
    tokenizer, dtype = _worker
    return _encode(tokenizer, texts, dtype)
