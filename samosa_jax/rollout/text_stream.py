"""Text out of bytes that arrive token by token: whole characters only, and nothing of a stop string."""

import codecs
from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

Source = TypeVar("Source")


class StreamedText(NamedTuple, Generic[Source]):
    text: str
    sources: tuple[Source, ...]  # what the text came from, each once, with the first of its text


class TextStream(Generic[Source]):
    """Joined, what it gives out is what decoding all bytes at once gives (malformed ones read U+FFFD), up to
    the stop string that is complete first; of several that are complete with the same character, the longest.

    Text that may yet become a stop string is held back.

    Attributes:
        has_stopped: a stop string was found; whatever follows is ignored.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Raises ValueError for a stop string that is empty."""
        if not all(stop):
            raise ValueError("a stop string is empty; it must have a character")
        self.has_stopped = False
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._num_given = 0  # characters
        self._sources: deque[tuple[int, Source]] = deque()  # by the first character it may be part of

    def push(self, data: bytes, source: Source) -> StreamedText[Source]:
        """What is certain once these bytes are known; `source` comes back with the text made of them."""
        if self.has_stopped:
            return StreamedText("", ())
        self._sources.append((self._num_given + len(self._held), source))
        return self._advance(self._decoder.decode(data))

    def flush(self) -> StreamedText[Source]:
        """The rest: no more bytes follow."""
        if self.has_stopped:
            return StreamedText("", ())
        found = self._advance(self._decoder.decode(b"", final=True))
        if self.has_stopped:
            return found
        rest, self._held = self._held, ""
        self._num_given += len(rest)
        left = tuple(source for _, source in self._sources)
        self._sources.clear()
        return StreamedText(found.text + rest, found.sources + left)

    def _advance(self, more: str) -> StreamedText[Source]:
        self._held += more
        if not self._stop:
            return self._give(len(self._held))
        # A match begins in what is held, as all that could have begun one before was held back.
        ends = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if ends:
            self.has_stopped = True
            return self._give(min(ends)[1])
        return self._give(len(self._held) - self._num_undecided())

    def _num_undecided(self) -> int:
        """Characters at the end that a stop string begins with."""
        return max(
            (
                length
                for stop in self._stop
                for length in range(1, min(len(stop), len(self._held) + 1))
                if self._held.endswith(stop[:length])
            ),
            default=0,
        )

    def _give(self, length: int) -> StreamedText[Source]:
        text, self._held = self._held[:length], self._held[length:]
        self._num_given += length
        sources: list[Source] = []
        while self._sources and self._sources[0][0] < self._num_given:
            sources.append(self._sources.popleft()[1])
        return StreamedText(text, tuple(sources))
