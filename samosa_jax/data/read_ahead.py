"""Batches built ahead of time in threads, in order."""

import sys
import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


def read_ahead(
    build: Callable[[int, threading.Event], T], *, start_step: int, num_threads: int, prefetch: int
) -> Generator[T, None, None]:
    """build(step, closed) of start_step and of all later steps, `prefetch` of them ahead of the reader.

    `close()` the generator, or let it go, to end the threads; `closed` is then set, for a build that waits.
    num_threads 0 builds in the reader's thread.
    """
    # Importing grain imports JAX, which those who only look at the data need not wait for.
    import grain

    closed = threading.Event()
    steps = grain.MapDataset.source(_Steps(build, closed))[start_step:]
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(prefetch, num_threads))
    iterator = iter(steps.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        closed.set()
        iterator.close()


class _Steps(Generic[T]):
    """A grain data source whose elements are whole batches: rows are packed with one read per source."""

    def __init__(self, build: Callable[[int, threading.Event], T], closed: threading.Event) -> None:
        self._build = build
        self._closed = closed

    def __len__(self) -> int:
        return sys.maxsize  # there is always a next step

    def __getitem__(self, index: int) -> T:
        return self._build(index, self._closed)
