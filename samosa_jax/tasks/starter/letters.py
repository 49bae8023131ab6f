"""Letters of a word: counting one of them, counting all, spelling. The thought writes the word out.

1  words of up to five letters      2  up to eight      3  longer ones
"""

import random
from collections.abc import Sequence
from functools import cache

from samosa_jax.data.chat.conversation import Message
from samosa_jax.tasks.scoring import final_spelling, gives_number
from samosa_jax.tasks.starter.words import made_up_name, spliced, story_words
from samosa_jax.tasks.task import (
    Example,
    GeneratedTask,
    Split,
    Wordings,
    answered,
    draw_in_split,
    split_of,
)
from samosa_jax.tasks.words import WORDS

NO_WORD_SHARE = 0.5
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class StarterLettersTask(GeneratedTask):
    """Counts are right if the last number is, spellings if the last run of single letters is."""

    name = "starter_letters"
    levels = (1, 2, 3)

    def __init__(self, levels: Sequence[int] = ()) -> None:
        """levels: those to take; empty: all. Every word of them is taken as often."""
        self._levels = tuple(levels) or self.levels

    def compose(self, draw: random.Random, split: Split) -> Example:
        word = draw_in_split(split, lambda: self._word(draw, split))
        kind = draw.choice(("one", "one", "all", "spell", "spell"))
        question, think, answer, gives = {"one": _count_one, "all": _count_all, "spell": _spell}[kind](
            draw, split, word
        )
        said = "-".join(word) if gives == "spelling" else answer
        return Example(
            conversation=answered(question, think=think, answer=_sentence(gives, said)),
            answer=answer,
            checks={"level": level_of(word), "gives": gives, "word": word},
        )

    def _word(self, draw: random.Random, split: Split) -> str:
        """A word to ask about. The held-out ones seldom stand in stories; half of the others are made up, so
        that what is learnt is the pieces that words are made of, and not the words."""
        if split == "train" and draw.random() < NO_WORD_SHARE:
            while level_of(word := _no_word(draw)) not in self._levels:
                pass
            return word
        return draw.choice(_words(split, self._levels))

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        if example.checks["gives"] == "number":
            return float(gives_number(answer_text, example.answer))
        return float(final_spelling(answer_text) == example.answer)


def _no_word(draw: random.Random) -> str:
    """A made-up name, two short words together, parts of two words, or a word with a letter doubled."""
    kind = draw.choice(("name", "compound", "spliced", "doubled"))
    if kind == "name":
        return made_up_name(draw).lower()
    if kind == "compound":
        short = _words("train", (1,))
        return draw.choice(short) + draw.choice(short)
    words = _words("train", StarterLettersTask.levels)
    if kind == "spliced":
        return spliced(draw, words)
    word = draw.choice(words)
    at = draw.randrange(len(word))
    return word[:at] + word[at] + word[at:]


@cache
def _words(split: Split, levels: tuple[int, ...]) -> tuple[str, ...]:
    words = WORDS if split == "heldout" else tuple(dict.fromkeys((*WORDS, *story_words())))
    # Not only when drawn: parts of these words go into those that are made up.
    return tuple(word for word in words if level_of(word) in levels and split_of(word) == split)


def level_of(word: str) -> int:
    """1 to 3, by the number of letters."""
    return 1 + (len(word) > 5) + (len(word) > 8)


def _count_one(draw: random.Random, split: Split, word: str) -> tuple[str, str, str, str]:
    letter = draw.choice(word) if draw.random() < 0.85 else draw.choice(ALPHABET)
    count = word.count(letter)
    seen = 0
    steps = []
    for at in word:
        seen += at == letter
        steps.append(f"{at}{seen}" if at == letter else at)
    return (
        COUNT_ONE.pick(draw, split).format(word=word, letter=letter),
        f"I look for {letter}: {' '.join(steps)}. That is {count}.",
        str(count),
        "number",
    )


def _count_all(draw: random.Random, split: Split, word: str) -> tuple[str, str, str, str]:
    numbered = " ".join(f"{letter}{number}" for number, letter in enumerate(word, start=1))
    return COUNT_ALL.pick(draw, split).format(word=word), f"I count: {numbered}.", str(len(word)), "number"


def _spell(draw: random.Random, split: Split, word: str) -> tuple[str, str, str, str]:
    return SPELL.pick(draw, split).format(word=word), f"I spell: {' '.join(word)}.", word, "spelling"


def _sentence(gives: str, said: str) -> str:
    return (
        f"It is spelled {said}." if gives == "spelling" else f"There {'is' if said == '1' else 'are'} {said}."
    )


COUNT_ONE = Wordings(
    train=(
        *("How many {letter} are in {word}?", "How many {letter}'s are in {word}?"),
        *("Count the letter {letter} in {word}.", "How often is {letter} in the word {word}?"),
        *("How many times does {letter} appear in {word}?", "How many letters {letter} does {word} have?"),
        *('How many "{letter}" are there in "{word}"?', "Number of {letter} in {word}, please."),
        *("Count every {letter} in {word}.", "In the word {word}, how many {letter} do you find?"),
        *("Please tell me how many {letter} {word} has.", "Can you count the {letter} in {word}?"),
        *("The letter {letter}: how often is it in {word}?", "How many times do I write {letter} in {word}?"),
        *("How often does {word} have the letter {letter}?", "How often do I see {letter} in {word}?"),
        *("Do you find {letter} in {word}? How many?", 'The word "{word}": count the {letter} in it.'),
        *("I want to know how many {letter} are in the word {word}.", "{word}: how many {letter}?"),
    ),
    heldout=(
        *(
            "How many times is the letter {letter} in {word}?",
            "Can you tell me how many {letter} are in {word}?",
        ),
        *("Please count every {letter} in the word {word}.", "How often do you find {letter} in {word}?"),
        *('The word "{word}": how many {letter} does it have?',),
    ),
)
COUNT_ALL = Wordings(
    train=(
        *("How many letters are in {word}?", "How many letters does {word} have?", "How long is {word}?"),
        *("Count the letters of {word}.", "How many letters has the word {word}?"),
        *('Count all letters in "{word}".', "Number of letters in {word}?", "How long is the word {word}?"),
        *("Please count the letters in {word}.", "Of how many letters is {word} made?"),
        *("Can you tell me how long {word} is?", "Count up all that {word} is made of."),
        *("Can you say how many letters {word} has?", "Could you count {word} for me?"),
    ),
    heldout=(
        *("Can you count all the letters of {word}?", "How many letters are there in the word {word}?"),
        *("Please tell me how many letters {word} has.",),
    ),
)
SPELL = Wordings(
    train=(
        *("Spell {word}.", "How do you spell {word}?", "Please spell {word}.", 'Spell the word "{word}".'),
        *("What are the letters of {word}?", "How is {word} spelled?", "Can you spell {word}?"),
        *("Write {word} letter by letter.", "Spell {word} for me.", "Tell me the letters of {word}."),
        *("I cannot spell {word}. Help me.", "Which letters are in {word}, one by one?"),
    ),
    heldout=(
        *("Please tell me how to spell {word}.", "Can you spell the word {word} for me?"),
        *("Help me spell {word}, letter by letter.", "How do I spell {word}?"),
    ),
)
