"""The few sizes that arrays on the device have, so that few programs are compiled and none again."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Grain:
    """How finely sizes are told apart."""

    batch_factor: int  # between numbers of rows
    min_capacity: int  # tokens that a row has room for
    capacity_factor: int
    prompt_factor: int  # between tokens of whole prompts read at once


# A CPU computes what rests in a batch and reads all the room of a row. An accelerator waits for the weights
# whatever the batch, reads only the keys in range, and compiles for longer.
GRAINS = {"cpu": Grain(batch_factor=4, min_capacity=128, capacity_factor=2, prompt_factor=2)}
COARSE = Grain(batch_factor=8, min_capacity=2048, capacity_factor=4, prompt_factor=4)
MIN_TOKENS = 32  # read at once
PIECE_FACTOR = 4  # between tokens read after others, for each of the capacities


@dataclass(frozen=True)
class Buckets:
    """Rising sizes, each list ending with the largest that is needed."""

    batches: tuple[int, ...]  # rows decoded together
    capacities: tuple[int, ...]  # tokens that a row has room for
    prompts: tuple[int, ...]  # tokens of whole prompts, read in one go
    pieces: tuple[int, ...]  # tokens read after others

    @classmethod
    def of(
        cls, *, platform: str, max_batch: int, context_len: int, max_read: int, rows_multiple: int
    ) -> "Buckets":
        """For a device; more than one row are a multiple of rows_multiple, the devices they go over."""
        grain = GRAINS.get(platform, COARSE)
        batches = rising(1, max_batch, grain.batch_factor)
        longest = min(max_read, context_len)
        return cls(
            batches=tuple(sorted({b if b == 1 else -(-b // rows_multiple) * rows_multiple for b in batches})),
            capacities=tuple(rising(grain.min_capacity, context_len, grain.capacity_factor)),
            prompts=tuple(rising(MIN_TOKENS, longest, grain.prompt_factor)),
            pieces=tuple(rising(MIN_TOKENS, longest, PIECE_FACTOR)),
        )

    def batch_for(self, num_rows: int) -> int:
        return fitting(self.batches, num_rows)

    def capacity_for(self, num_tokens: int) -> int:
        """No row has more tokens than the largest capacity holds."""
        return fitting(self.capacities, min(num_tokens, self.capacities[-1]))

    def prompt_for(self, num_tokens: int) -> int:
        return fitting(self.prompts, num_tokens)

    def piece_for(self, num_tokens: int) -> int:
        return fitting(self.pieces, num_tokens)

    def pieces_within(self, capacity: int) -> tuple[int, ...]:
        """Of the sizes of pieces those that something can need which fits into so much room."""
        smaller = (0, *self.pieces)
        return tuple(size for size, last in zip(self.pieces, smaller, strict=False) if last < capacity)


def rising(smallest: int, largest: int, factor: int) -> list[int]:
    """Powers of the factor times the smallest, and the largest at the end."""
    sizes = []
    while smallest < largest:
        sizes.append(smallest)
        smallest *= factor
    return [*sizes, largest]


def fitting(sizes: Sequence[int], needed: int) -> int:
    """The smallest of the rising sizes that is large enough."""
    return next(size for size in sizes if size >= needed)


def platform_of(mesh: jax.sharding.Mesh) -> str:
    """Of its devices: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform
