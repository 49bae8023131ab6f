"""What a run needs on disk: its data, in tokens and bytes, and its checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.config import CheckpointConfig, SourceConfig
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError


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


def plan_data(sources: Sequence[SourceConfig], *, tokens: int, vocab_size: int, by_epoch: bool) -> Data:
    """What `tokens` tokens of these sources are, padding counted among them.

    `by_epoch`: weights say how often an epoch shows each source, as those of conversations do; otherwise what
    share of the rows it has.

    Raises UserError where a source is no prepared folder, or holds nothing to train on.
    """
    available = [_tokens_to_train_on(source.path) for source in sources]
    shares = [
        source.weight * (count if by_epoch else 1) for source, count in zip(sources, available, strict=True)
    ]
    needs = [
        SourceNeed(path=source.path, tokens=count, epochs=tokens * share / sum(shares) / count)
        for source, count, share in zip(sources, available, shares, strict=True)
    ]
    return Data(tokens=tokens, shard_bytes=tokens * (2 if vocab_size <= 1 << 16 else 4), sources=tuple(needs))


def _tokens_to_train_on(path: str) -> int:
    count = ShardSet.open(Path(path), split="train").num_tokens
    if not count:
        raise UserError(f"{path} holds no tokens to train on; prepare more text, or hold less of it out")
    return count
