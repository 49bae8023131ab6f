"""Rows of caches whose answers are finished, kept for prompts that begin with the same tokens."""

from collections import OrderedDict
from dataclasses import dataclass

import jax
import numpy as np

from samosa_jax.config import ModelConfig
from samosa_jax.model.cache import Cache, can_go_back

MIN_SHARED = 8  # tokens for which a copy is worth it


@dataclass(frozen=True)
class Kept:
    """A row that was read. tokens and turn_position are int32 (tokens,)."""

    tokens: np.ndarray
    turn_position: np.ndarray
    cache: Cache  # of one row; not to be donated

    @property
    def num_bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self.cache))

    def shared_with(self, tokens: np.ndarray, turn_position: np.ndarray) -> int:
        """Tokens at the beginning that are the same and stand in the same place of the same turn."""
        length = min(len(self.tokens), len(tokens))
        same = (self.tokens[:length] == tokens[:length]) & (
            self.turn_position[:length] == turn_position[:length]
        )
        return length if same.all() else int(same.argmin())


class PrefixStore:
    """Keeps rows up to a number of bytes; those not used for longest go first."""

    def __init__(self, config: ModelConfig, *, max_bytes: int) -> None:
        self._config = config
        self._max_bytes = max_bytes
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._next_id = 0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def keeps_anything(self) -> bool:
        return self._max_bytes > 0

    def find(self, tokens: np.ndarray, turn_position: np.ndarray) -> tuple[Kept | None, int]:
        """The row that holds most of the beginning of a prompt, and how many tokens of it."""
        best, shared = None, MIN_SHARED - 1
        for entry, kept in self._kept.items():
            found = self._usable(kept, tokens, turn_position)
            if found > shared:
                best, shared = entry, found
        if best is None:
            return None, 0
        self._kept.move_to_end(best)
        return self._kept[best], shared

    def num_shared(self, tokens: np.ndarray, turn_position: np.ndarray) -> int:
        """How many tokens `find` would give; changes nothing."""
        return max((self._usable(kept, tokens, turn_position) for kept in self._kept.values()), default=0)

    def add(self, kept: Kept) -> None:
        """Keeps a row, instead of any whose tokens it begins with and can be taken back to."""
        if kept.num_bytes > self._max_bytes:
            return
        for entry, other in list(self._kept.items()):
            length = len(other.tokens)
            if self._usable(kept, other.tokens, other.turn_position) == length:
                self._remove(entry)
        self._kept[self._next_id] = kept
        self._next_id += 1
        self.num_bytes += kept.num_bytes
        while self.num_bytes > self._max_bytes:
            self._remove(next(iter(self._kept)))

    def clear(self) -> None:
        """Forgets everything: what was read with other parameters is of no use."""
        self._kept.clear()
        self.num_bytes = 0

    def _usable(self, kept: Kept, tokens: np.ndarray, turn_position: np.ndarray) -> int:
        shared = kept.shared_with(tokens, turn_position)
        length, capacity = len(kept.tokens), kept.cache.capacity
        return shared if can_go_back(self._config, length=length, to=shared, capacity=capacity) else 0

    def _remove(self, entry: int) -> None:
        self.num_bytes -= self._kept.pop(entry).num_bytes
