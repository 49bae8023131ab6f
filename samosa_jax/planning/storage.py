"""What a run needs on disk: its data, in tokens and bytes, and its checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.config import CheckpointConfig, SourceConfig
from samosa_jax.data.shards import ShardSet


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Upper bounds: float32 numbers as they are; Orbax compresses, by a few percent."""

    one_bytes: int
    num_kept: int  # at the end of the run

    @property
    def peak_bytes(self) -> int:
        """With the one that is being written while all others are still there."""
        return self.one_bytes * (self.num_kept + 1)


@dataclass(frozen=True, kw_only=True)
class SourceNeed:
    """What the run takes of one prepared folder."""

    path: str
    tokens: int  # there are, to train on
    epochs: float  # that the run makes of them


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the run reads.

    Attributes:
        tokens: of all steps together.
        shard_bytes: of as many tokens, prepared; without the index of documents.
        sources: of those given, if any.
    """

    tokens: int
    shard_bytes: int
    sources: tuple[SourceNeed, ...]


def plan_checkpoints(config: CheckpointConfig, *, state_bytes: int, num_steps: int) -> Checkpoints:
    """`state_bytes` are those of parameters and moments together, over all devices."""
    every = config.every_steps
    saved = sorted({*(range(every, num_steps, every) if every else ()), num_steps})
    kept = set(saved[-config.keep_last :])
    if config.milestone_steps:
        kept |= {step for step in saved if step % config.milestone_steps == 0}
    return Checkpoints(one_bytes=state_bytes, num_kept=len(kept))


def plan_data(sources: Sequence[SourceConfig], *, tokens: int, vocab_size: int) -> Data:
    """Text, conversations alike. Raises UserError where a source named is not a prepared folder."""
    weights = sum(source.weight for source in sources)
    needs = []
    for source in sources:
        available = ShardSet.open(Path(source.path), split="train").num_tokens
        share = tokens * source.weight / weights
        needs.append(SourceNeed(path=source.path, tokens=available, epochs=share / available))
    return Data(tokens=tokens, shard_bytes=tokens * (2 if vocab_size <= 1 << 16 else 4), sources=tuple(needs))
