"""One choice of tile sizes for one kernel, and what a kernel demands of it."""

from dataclasses import dataclass
from typing import NamedTuple


class _Operands(NamedTuple):
    """What a kernel has in shared memory: tiles of (queries or keys, head_dim) in the dtype of the inputs."""

    held: str  # the side whose tile it keeps while it walks over tiles of the other: "queries" or "keys"
    num_held: int  # operands of that side: q, dout or k, v
    num_streamed: int  # operands of the other side, of which `stages` tiles are in flight
    vectors: int = 0  # float32 or int32 values that come with each streamed row


KERNELS: dict[str, _Operands] = {
    "triton_forward": _Operands(held="queries", num_held=1, num_streamed=2),
    "triton_dq": _Operands(held="queries", num_held=2, num_streamed=2),
    "triton_dkv": _Operands(held="keys", num_held=2, num_streamed=2),
    "triton_decode": _Operands(held="queries", num_held=1, num_streamed=2),
    "hopper_forward": _Operands(held="queries", num_held=1, num_streamed=2),
    "hopper_dq": _Operands(held="queries", num_held=2, num_streamed=2),
    "hopper_dkv": _Operands(held="keys", num_held=2, num_streamed=2, vectors=4),
}
ITEM_BYTES = {"bfloat16": 2, "float32": 4}

ROWS_PER_WARP = 16  # a warpgroup of four has the 64 rows of a wgmma accumulator
SWIZZLED_ROW = 64  # values of a row of an operand as it lies in shared memory
DECODE_ROWS = 16  # the query heads of a group, padded to the rows of a tensor-core product


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Tiles of a kernel. ValueError on what no kernel could run; `check` knows what one kernel demands."""

    queries: (
        int  # in a tile; of a Hopper kernel: of all its consumer warpgroups together where it tiles queries
    )
    keys: int  # in a tile
    stages: int  # tiles in flight
    warps: int  # that compute; of a Hopper kernel: 4 per consumer warpgroup

    def __post_init__(self) -> None:
        for name in ("queries", "keys"):
            value = getattr(self, name)
            if value < 16 or value % 16:
                raise ValueError(f"tuning {name} is {value}; it must be a positive multiple of 16")
        if not 1 <= self.stages <= 8:
            raise ValueError(f"tuning stages is {self.stages}; it must lie in 1..8")
        if self.warps not in (1, 2, 4, 8, 12, 16):
            raise ValueError(f"tuning warps is {self.warps}; it must be one of 1, 2, 4, 8, 12, 16")

    def check(self, kernel: str) -> None:
        """ValueError, saying why, if that kernel of KERNELS cannot run with these tiles at any head width."""
        if kernel not in KERNELS:
            raise ValueError(f"no kernel {kernel!r}; there are {', '.join(KERNELS)}")
        if kernel.startswith("hopper"):
            held = KERNELS[kernel].held
            rows = getattr(self, held)
            if self.warps not in (8, 12):
                raise ValueError(f"tuning warps of {kernel} is {self.warps}; it must be 8 or 12")
            if rows != ROWS_PER_WARP * self.warps:
                raise ValueError(
                    f"tuning {held} of {kernel} is {rows} with {self.warps} warps; "
                    f"it must be 64 for every 4 warps: {ROWS_PER_WARP * self.warps}"
                )
            streamed = "keys" if held == "queries" else "queries"
            if getattr(self, streamed) % SWIZZLED_ROW:
                raise ValueError(
                    f"tuning {streamed} of {kernel} is {getattr(self, streamed)}; "
                    f"it must be a multiple of {SWIZZLED_ROW}"
                )
            return
        for name in ("queries", "keys", "warps"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"tuning {name} of {kernel} is {value}; it must be a power of two")
        if kernel == "triton_decode" and self.queries != DECODE_ROWS:
            raise ValueError(f"tuning queries of {kernel} is {self.queries}; it must be {DECODE_ROWS}")

    def shared_bytes(self, kernel: str, *, head_dim: int, dtype: str) -> int:
        """Shared memory of a block of threads: the held tiles and `stages` of each streamed one.

            item * head_dim * (num_held * held + num_streamed * stages * streamed)
            + 4 * vectors * stages * streamed

        Without barriers, results on their way out and alignment, under 4 KiB in a Hopper kernel. What Triton
        uses is its compiler's choice, often a stage less or a tile of scores more: an estimate.
        """
        operands = KERNELS[kernel]
        held, streamed = self.queries, self.keys
        if operands.held == "keys":
            held, streamed = streamed, held
        rows = operands.num_held * held + operands.num_streamed * self.stages * streamed
        return ITEM_BYTES[dtype] * head_dim * rows + 4 * operands.vectors * self.stages * streamed
