"""Letters: spelling words, backwards too, counting one letter, counting all of them; graded by length.

Models see tokens, not letters, so the thought writes the word out before anything is counted.

1  words of up to five letters      3  up to nine
2  up to seven                      4  longer ones
"""

import random
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Message
from samosa_jax.tasks.scoring import final_spelling, gives_number
from samosa_jax.tasks.task import (
    Example,
    GeneratedTask,
    Split,
    Wordings,
    answered,
    draw_in_split,
    with_level,
)
from samosa_jax.tasks.words import WORDS


class SpellingTask(GeneratedTask):
    """Counts are right if the final number is, spellings if the last run of single letters is."""

    name = "spelling"
    levels = (1, 2, 3, 4)

    def __init__(self, levels: Sequence[int] = ()) -> None:
        """levels: those to take; empty: all. Every word of them is taken as often."""
        self._words = [word for word in WORDS if not levels or level_of(word) in levels]

    def compose(self, draw: random.Random, split: Split) -> Example:
        word = draw_in_split(split, lambda: draw.choice(self._words))
        make = draw.choice((_count_one, _count_one, _count_one, _count_all, _spell, _spell_backwards))
        return with_level(make(draw, split, word), level_of(word))

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        if example.checks["gives"] == "number":
            return float(gives_number(answer_text, example.answer))
        return float(final_spelling(answer_text) == example.answer)


def level_of(word: str) -> int:
    """1 to 4, by the number of letters."""
    return 1 + sum(len(word) > longest for longest in (5, 7, 9))


def _count_one(draw: random.Random, split: Split, word: str) -> Example:
    # Mostly letters that are there, rather those that repeat; now and then one that is not.
    letter = draw.choice(
        word + word + "".join(sorted(word, key=word.count))[-2:] + "aeioulrst"[len(word) % 9]
    )
    count = word.count(letter)
    steps: list[str] = []
    for at in word:
        found = sum(step.startswith(f"{letter} ") for step in steps)
        steps.append(f"{at} ({found + 1})" if at == letter else at)
    opening = draw.choice(_COUNT_THOUGHTS).format(word=word, letter=letter, spelled="-".join(word))
    think = (
        f"{opening} {', '.join(steps)}. {'So the tally stands at' if count else 'No hit, so I have'} {count}."
    )
    times = "time" if count == 1 else "times"
    return Example(
        conversation=answered(
            _COUNT_ONE.pick(draw, split).format(word=word, letter=letter),
            think=think,
            answer=f'The letter "{letter}" is found in the word "{word}" {count} {times}.',
        ),
        answer=str(count),
        checks={"gives": "number", "kind": "count_one", "word": word, "letter": letter},
    )


def _count_all(draw: random.Random, split: Split, word: str) -> Example:
    numbered = ", ".join(f"{number} {letter}" for number, letter in enumerate(word, start=1))
    return Example(
        conversation=answered(
            _COUNT_ALL.pick(draw, split).format(word=word),
            think=f'I number the letters of "{word}" from the first to the last one: {numbered}.',
            answer=f'Counted one by one, the number of letters in "{word}" is {len(word)}.',
        ),
        answer=str(len(word)),
        checks={"gives": "number", "kind": "count_all", "word": word},
    )


def _spell(draw: random.Random, split: Split, word: str) -> Example:
    halves = f"{word[: len(word) // 2]} and {word[len(word) // 2 :]}"
    return Example(
        conversation=answered(
            _SPELL.pick(draw, split).format(word=word),
            think=(
                f'I take "{word}" apart into {halves} and then name every single letter of both parts '
                "in order."
            ),
            answer=f'Letter by letter, the word "{word}" is spelled {"-".join(word)}.',
        ),
        answer=word,
        checks={"gives": "spelling", "kind": "spell", "word": word},
    )


def _spell_backwards(draw: random.Random, split: Split, word: str) -> Example:
    return Example(
        conversation=answered(
            _BACKWARDS.pick(draw, split).format(word=word),
            think=(
                f'Forwards the letters of "{word}" are {", ".join(word)}. Now I read that list from the '
                "right end to the left end, one letter at a time."
            ),
            answer=f'From the last letter to the first, "{word}" reads {"-".join(reversed(word))}.',
        ),
        answer=word[::-1],
        checks={"gives": "spelling", "kind": "spell_backwards", "word": word},
    )


_COUNT_THOUGHTS = (
    'I spell it out and keep a tally of every "{letter}":',
    "The word is {spelled}. Going through it one letter at a time, counting each {letter}:",
    'To count "{letter}" safely I write {word} letter by letter:',
)
_COUNT_ONE = Wordings(
    train=(
        'How many times does the letter "{letter}" appear in "{word}"?',
        "How many {letter}'s are in {word}?",
        "Count the letter {letter} in the word {word}.",
        'In the word "{word}", how often do you find the letter "{letter}"?',
        "How many letters {letter} does {word} have?",
        "Number of {letter} in {word}, please.",
        "If I write {word}, how many times do I write {letter}?",
        'Please tell me the count of "{letter}" in "{word}".',
    ),
    heldout=(
        "Looking at the spelling of {word}, what is the tally for {letter}?",
        "My daughter asks how frequently {letter} shows up inside the word {word}.",
        'Check "{word}" for the character "{letter}"; what number do you reach?',
    ),
)
_COUNT_ALL = Wordings(
    train=(
        'How many letters are in the word "{word}"?',
        "How long is the word {word}, in letters?",
        "Count all the letters of {word}.",
        "Does {word} have many letters? Tell me how many.",
    ),
    heldout=("I want to paint {word} on a sign. For what number of letters must I plan?",),
)
_SPELL = Wordings(
    train=(
        'Spell the word "{word}".',
        "How do you spell {word}?",
        "Please spell {word} letter by letter.",
        "Write {word} with a dash between the letters.",
        "What are the letters of {word}, one by one?",
    ),
    heldout=(
        "Over the phone I must dictate {word}. Which letters do I say?",
        "Break {word} into single characters.",
    ),
)
_BACKWARDS = Wordings(
    train=(
        'Spell "{word}" backwards.',
        "What is {word} when written from back to front?",
        "Reverse the letters of {word}.",
        "Can you write {word} in reverse?",
    ),
    heldout=("Read {word} in a mirror: which letters come, starting from its end?",),
)
