"""How varied synthesised text is: distinct prompts and 4-grams, and what one split has alone."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from samosa_jax.data.chat.conversation import Message

NGRAM = 4
_WORD = re.compile(r"\w+|[^\w\s]")


class VarietyCounter:
    """Counts over the messages of conversations as they go by."""

    def __init__(self) -> None:
        self.count = 0
        self._prompts: set[str] = set()
        self._prompt_ngrams: set[tuple[str, ...]] = set()
        self._ngrams: set[tuple[str, ...]] = set()

    def add(self, messages: Iterable[Message]) -> None:
        """All messages of one conversation."""
        self.count += 1
        asked: list[str] = []
        for message in messages:
            if message.role == "user":
                found = ngrams(message.text)
                asked.append(message.text)
                self._prompt_ngrams |= found
                self._ngrams |= found
            elif message.role == "assistant":
                self._ngrams |= ngrams(message.think or "")
                self._ngrams |= ngrams(message.text)
        self._prompts.add("\n".join(asked))

    def result(self) -> "Variety":
        return Variety(
            count=self.count,
            unique_prompts=len(self._prompts),
            unique_prompt_ngrams=len(self._prompt_ngrams),
            unique_ngrams=len(self._ngrams),
        )

    def share_not_in(self, other: "VarietyCounter") -> float:
        """Of the distinct 4-grams of these prompts, the share that the other's prompts do not have."""
        return len(self._prompt_ngrams - other._prompt_ngrams) / max(1, len(self._prompt_ngrams))

    def prompts_shared_with(self, other: "VarietyCounter") -> int:
        """How many prompts both have, to the letter."""
        return len(self._prompts & other._prompts)


@dataclass(frozen=True, kw_only=True)
class Variety:
    count: int
    unique_prompts: int
    unique_prompt_ngrams: int  # of what users say
    unique_ngrams: int  # of what users and assistants say, thoughts included


def ngrams(text: str) -> set[tuple[str, ...]]:
    """The distinct 4-grams of words and punctuation marks, in lower case."""
    words = _WORD.findall(text.lower())
    return set(zip(*(words[start:] for start in range(NGRAM)), strict=False))
