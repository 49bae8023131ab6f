"""Which documents are held out for validation: a matter of their content and a seed, never of their place.

A document is a candidate when a hash of (content, seed) falls below a threshold. So appended text moves no
document from one split to the other, and copies of a document always fall on the same side.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from samosa_jax.data.manifest import Split
from samosa_jax.data.sources import Document
from samosa_jax.errors import UserError

DEFAULT_VAL_FRAC = 0.01


@dataclass(frozen=True, kw_only=True)
class ValidationRule:
    """With `val_documents` alone, the threshold is chosen so that exactly so many are held out."""

    val_documents: int | None = None  # hold out at most so many, over all generations
    val_frac: float | None = None  # share of documents that are candidates
    seed: int = 0

    def __post_init__(self) -> None:
        if self.val_documents is not None and self.val_documents < 0:
            raise UserError(f"--val-documents is {self.val_documents}; it must not be negative")
        if self.val_frac is not None and not 0 <= self.val_frac < 1:
            raise UserError(f"--val-frac is {self.val_frac}; it must be at least 0 and below 1, e.g. 0.01")
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f"--seed is {self.seed}; it must lie in 0..{(1 << 63) - 1}")

    def key(self, digest: int) -> int:
        """A number in 0..2^64 - 1 for a document, uniform over documents."""
        data, seed = digest.to_bytes(8, "little"), self.seed.to_bytes(8, "little")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=seed).digest())

    @property
    def fixed_threshold(self) -> int | None:
        """The threshold, where it does not depend on the documents."""
        if self.val_documents == 0:
            return 0
        if self.val_frac is not None:
            return int(self.val_frac * 2**64)
        return int(DEFAULT_VAL_FRAC * 2**64) if self.val_documents is None else None


def threshold_for(rule: ValidationRule, digests: Iterable[int], *, count: int) -> int | None:
    """The threshold below which exactly `count` distinct documents fall; None when all of them would."""
    # A heap of negated keys: the largest of the smallest `count` keys stands in front.
    heap: list[int] = []
    chosen: set[int] = set()
    met_more = False
    for digest in digests:
        key = rule.key(digest)
        if key in chosen:
            continue
        met_more = met_more or len(heap) == count
        if len(heap) < count:
            heapq.heappush(heap, -key)
            chosen.add(key)
        elif key < -heap[0]:
            chosen.discard(-heapq.heappushpop(heap, -key))
            chosen.add(key)
    return -heap[0] + 1 if met_more else None


def with_split(
    documents: Iterable[Document], rule: ValidationRule, *, threshold: int, held_out: set[int]
) -> Iterator[tuple[Document, Split]]:
    """Every document with its split; `held_out`, the hashes of the validation documents, grows."""
    split_of = splitter(rule, threshold=threshold, held_out=held_out)
    for document in documents:
        yield document, split_of(document.digest)


def splitter(rule: ValidationRule, *, threshold: int, held_out: set[int]) -> Callable[[int], Split]:
    """A function of a document's hash that says where it belongs; `held_out` grows by the hashes held out."""
    most = float("inf") if rule.val_documents is None else rule.val_documents

    def split_of(digest: int) -> Split:
        if (digest in held_out or len(held_out) < most) and rule.key(digest) < threshold:
            held_out.add(digest)
            return "val"
        return "train"

    return split_of
