"""Text as hashes of its word n-grams: what near duplicates and overlap with evaluation sets compare.

Words are runs of letters and digits, case and punctuation aside (NFKC, casefolded); of Chinese, Japanese and
Korean, which write no spaces, every character is a word. Hashes are 64-bit and the same on every machine.
"""

import hashlib
import re
import unicodedata
from typing import NamedTuple

import numpy as np

from samosa_jax.data.chat.conversation import Conversation

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_KEPT_WORDS = 1 << 20  # some 100 MB of words with their hashes; then begun anew
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word is lost; not 1, so that their order counts


def words(text: str) -> list[str]:
    """The words that are compared, in order."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class WordHasher(dict[str, bytes]):
    """Word -> 64-bit hash, remembered, as most words of a text have been seen before."""

    def __missing__(self, word: str) -> bytes:
        if len(self) >= _KEPT_WORDS:
            self.clear()
        self[word] = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return self[word]

    def hashes(self, text: str) -> np.ndarray:
        """(number of words,) uint64."""
        return np.frombuffer(b"".join(map(self.__getitem__, words(text))), "<u8")


class HashedMessage(NamedTuple):
    """A message as its words: of its thought, its text and its call, in this order."""

    is_spoken: bool  # by the assistant
    text: str
    hashes: np.ndarray  # (words,) uint64


def hash_messages(conversation: Conversation, hasher: WordHasher) -> list[HashedMessage]:
    """All messages but the system's: a data set often gives all its conversations one long system message,
    which would make them all alike."""
    hashed: list[HashedMessage] = []
    for message in conversation.messages:
        if message.role != "system":
            call = message.tool_call.text() if message.tool_call else ""
            text = "\n".join(filter(None, (message.think, message.text, call)))
            hashed.append(HashedMessage(message.role == "assistant", text, hasher.hashes(text)))
    return hashed


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 after which every bit depends on all (the finisher of SplitMix64).

    Source: Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def gram_hashes(word_hashes: np.ndarray, length: int) -> np.ndarray:
    """(words - length + 1,) uint64: a hash of every run of `length` words; empty where there are fewer."""
    count = len(word_hashes) - length + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    grams = word_hashes[:count].astype(np.uint64)
    for offset in range(1, length):
        grams *= _FACTOR
        grams += word_hashes[offset : offset + count]
    return mix(grams)
