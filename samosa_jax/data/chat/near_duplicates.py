"""Copies of conversations, exact and near: the first one is kept.

Near means a Jaccard similarity of at least 0.8 between the sets of 5-word shingles on both sides: of what the
user and the tools say, and of what the assistant says. Two questions about one long passage are no copies of
each other (of 234 pairs in Dolly that are near as a whole, 207 are such), nor are two ways to ask who someone
is when the answer is the same.

Candidates come from MinHash signatures of both sides together, cut into bands (Broder 1997,
https://doi.org/10.1109/SEQUEN.1997.666900; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter
3), and each is verified by its true similarity: nothing is dropped on an estimate. With 24 bands of 5 rows, a
pair of similarity s becomes a candidate with probability 1 - (1 - s**5)**24: 0.99993 at 0.8, 0.988 at 0.7,
0.53 at 0.5, 0.057 at 0.3.

What is held grows with the conversations kept: 8 bytes a word, and some 4 kB for the bands of each.
"""

import hashlib
from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from samosa_jax.data.chat.conversation import Conversation
from samosa_jax.data.chat.word_grams import HashedMessage, gram_hashes, mix

THRESHOLD = 0.8  # Jaccard similarity
SHINGLE_WORDS = 5
BANDS, ROWS_PER_BAND = 24, 5
_SEED = 2024

Key = TypeVar("Key", bound=Hashable)


def content_digest(conversation: Conversation) -> bytes:
    """16 bytes, the same for conversations whose messages differ in case and white space at most."""
    parts: list[str] = []
    for message in conversation.messages:
        call = message.tool_call.text() if message.tool_call else ""
        parts += (message.role, message.think or "", message.text, call)
    normalised = "\0".join(" ".join(part.split()) for part in parts).casefold()
    return hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Shingles(NamedTuple):
    """Sets of 5-word runs: (S,) uint64, sorted, each once. Of fewer than five words, all are the one run."""

    asked: np.ndarray  # of the user's and the tools' messages
    spoken: np.ndarray  # of the assistant's


def shingles(messages: Sequence[HashedMessage]) -> Shingles:
    """The shingles of a conversation."""
    return Shingles(
        *(
            _set_of_grams([message.hashes for message in messages if message.is_spoken == is_spoken])
            for is_spoken in (False, True)
        )
    )


def _set_of_grams(parts: Sequence[np.ndarray]) -> np.ndarray:
    word_hashes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    grams = gram_hashes(word_hashes, min(SHINGLE_WORDS, max(1, len(word_hashes))))
    grams.sort()
    is_first = np.ones(len(grams), bool)
    np.not_equal(grams[1:], grams[:-1], out=is_first[1:])
    return grams[is_first]


def similarity(a: Shingles, b: Shingles) -> float:
    """The lesser of the Jaccard similarities of both sides."""
    return min(jaccard(mine, other) for mine, other in zip(a, b, strict=True))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Shared elements over all elements of two sorted sets; 1 if both are empty."""
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    places = np.minimum(np.searchsorted(b, a), len(b) - 1)
    shared = int(np.count_nonzero(b[places] == a))
    return shared / (len(a) + len(b) - shared)


class MinHash:
    """Signatures whose equal entries estimate the Jaccard similarity."""

    def __init__(self, num_hashes: int = BANDS * ROWS_PER_BAND) -> None:
        random = np.random.default_rng(_SEED)
        bounds = np.iinfo(np.uint64)
        self._factors = random.integers(0, bounds.max, num_hashes, np.uint64, endpoint=True) | np.uint64(1)
        self._terms = random.integers(0, bounds.max, num_hashes, np.uint64, endpoint=True)

    def signature(self, elements: np.ndarray) -> np.ndarray:
        """(num_hashes,) uint64: the least of (S,) elements under each of the hash functions; S > 0."""
        # Blocks of elements keep the products inside the processor's cache.
        least = np.full(len(self._factors), np.iinfo(np.uint64).max)
        for start in range(0, len(elements), 256):
            block = elements[start : start + 256]
            hashed = self._factors[:, None] * block[None, :] + self._terms[:, None]
            np.minimum(least, hashed.min(axis=1), out=least)
        return least


class NearDuplicates(Generic[Key]):
    """The conversations kept so far, to be asked for one that is near to another."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._minhash = MinHash()
        self._buckets: dict[int, tuple[int, ...]] = {}  # of a band -> indices of conversations
        self._kept: list[tuple[Key, Shingles]] = []

    def add(self, new: Shingles, key: Key) -> tuple[Key, float] | None:
        """(key, similarity) of the earliest conversation that is near; None, and this one kept, without any.

        One without a single word is near to nothing, and not kept.
        """
        # Kept apart by the `~`, both sides together are at least as similar as the less similar of them:
        # no pair is missed for being looked for as a whole.
        whole = np.concatenate([new.asked, ~new.spoken])
        if not len(whole):
            return None
        bands = self._bands(whole)
        candidates = sorted({index for band in bands for index in self._buckets.get(band, ())})
        for index in candidates:
            other_key, other = self._kept[index]
            found = similarity(new, other)
            if found >= self._threshold:
                return other_key, found
        for band in bands:
            self._buckets[band] = (*self._buckets.get(band, ()), len(self._kept))
        self._kept.append((key, new))
        return None

    def _bands(self, elements: np.ndarray) -> list[int]:
        rows = self._minhash.signature(elements).reshape(BANDS, ROWS_PER_BAND)
        keys = np.arange(BANDS, dtype=np.uint64)  # equal rows of different bands are no match
        for column in rows.T:
            keys = mix(keys + column)
        return keys.tolist()
