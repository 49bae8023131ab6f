"""Which prepared data a run reads."""

import math
from dataclasses import dataclass

from samosa_jax.config.checks import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One prepared dataset in the mixture."""

    path: str  # a folder written by `prepare`
    weight: float = 1.0  # share of rows among the sources; of conversations: how often an epoch shows each

    def __post_init__(self) -> None:
        require(bool(self.path), "data.sources has an empty path; name a folder written by `samosa prepare`")
        require(
            0 < self.weight < math.inf,
            f"data.sources weight of {self.path} is {self.weight}; it must be positive and finite",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which token shards to train on. Order is a function of (seed, step) alone."""

    sources: tuple[SourceConfig, ...] = ()
    document_masking: bool = True  # attention stays inside a document
    wait_for_shards: bool = False  # train while `prepare` still writes the later shards
    num_threads: int = 1  # reading and packing threads per process
    prefetch_batches: int = 4

    def __post_init__(self) -> None:
        require_at_least(1, self, "data", "num_threads prefetch_batches")
        paths = [source.path for source in self.sources]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        require(twice is None, f"data.sources names {twice} more than once; give it one entry and one weight")
