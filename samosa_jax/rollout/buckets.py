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


# A CPU computes what rests in a batch and reads all the room of a row. An accelerator waits for the weights
# whatever the batch, reads only the keys in range, and compiles for longer.
GRAINS = {"cpu": Grain(batch_factor=4, min_capacity=128, capacity_factor=2)}
COARSE = Grain(batch_factor=8, min_capacity=2048, capacity_factor=4)
MIN_CHUNK = 32  # tokens of a prompt read at once; the next size is four times as large


@dataclass(frozen=True)
class Buckets:
    """Rising sizes, each list ending with the largest that is needed."""

    batches: tuple[int, ...]  # rows decoded together
    capacities: tuple[int, ...]  # tokens that a row has room for
    chunks: tuple[int, ...]  # tokens of a prompt read at once

    @classmethod
    def of(
        cls, *, platform: str, max_batch: int, context_len: int, max_chunk: int, rows_multiple: int
    ) -> "Buckets":
        """For a device; more than one row are a multiple of rows_multiple, the devices they go over."""
        grain = GRAINS.get(platform, COARSE)
        batches = rising(1, max_batch, grain.batch_factor)
        return cls(
            batches=tuple(sorted({b if b == 1 else -(-b // rows_multiple) * rows_multiple for b in batches})),
            capacities=tuple(rising(grain.min_capacity, context_len, grain.capacity_factor)),
            chunks=tuple(rising(MIN_CHUNK, min(max_chunk, context_len), 4)),
        )

    def batch_for(self, num_rows: int) -> int:
        return fitting(self.batches, num_rows)

    def capacity_for(self, num_tokens: int) -> int:
        """No row has more tokens than the largest capacity holds."""
        return fitting(self.capacities, min(num_tokens, self.capacities[-1]))

    def chunk_for(self, num_tokens: int) -> int:
        return fitting(self.chunks, num_tokens)


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
