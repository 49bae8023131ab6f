"""Words for verse, with their syllables counted, and the rules that verse is checked by.

Syllables are those of a dictionary's hyphenation for speech (fire and hour count as one).
"""

import re

_BY_SYLLABLES: dict[int, dict[str, str]] = {
    1: {
        "noun": "moon snow wind rain frog leaf stone stream crow pine star cloud bell path wave owl",
        "adjective": "cold pale bright slow old soft deep still",
        "verb": "drifts falls waits sleeps sings turns glows fades rests",
    },
    2: {
        "noun": "river mountain sparrow garden petal shadow ocean willow candle lantern morning harbour "
        "meadow heron",
        "adjective": "quiet silver hidden gentle golden ancient lonely faded patient",
        "verb": "listens wanders lingers trembles returns whispers settles",
    },
    3: {
        "noun": "butterfly nightingale waterfall",
        "adjective": "delicate forgotten",
        "verb": "disappears remembers",
    },
}
# Ends of lines: a place or a time, all of whose words are counted below.
PLACES: dict[int, tuple[str, ...]] = {
    3: ("in the dark", "by the sea", "through the pines", "at first light", "in the frost", "on the lake"),
    4: ("under the moon", "over the hill", "after the rain", "before the dawn", "beyond the fields"),
    5: ("along the still shore", "between two mountains", "in the cold morning", "above the dark trees"),
}
_SMALL_WORDS: dict[int, str] = {
    1: "the a in by at on and through first light dark sea pines frost lake moon hill rain dawn fields "
    "shore two trees still cold",
    2: "under over after before beyond along between above morning mountains",
}
NOUNS: dict[str, int] = {
    word: count for count, kinds in _BY_SYLLABLES.items() for word in kinds["noun"].split()
}
ADJECTIVES: dict[str, int] = {
    word: count for count, kinds in _BY_SYLLABLES.items() for word in kinds["adjective"].split()
}
VERBS: dict[str, int] = {
    word: count for count, kinds in _BY_SYLLABLES.items() for word in kinds["verb"].split()
}
SYLLABLES: dict[str, int] = (
    NOUNS | ADJECTIVES | VERBS | {word: n for n, words in _SMALL_WORDS.items() for word in words.split()}
)

# Words that rhyme with each other, group by group.
RHYMES: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split())
    for group in (
        "light night bright sight flight kite",
        "day play way away stay grey",
        "tree sea free bee tea me",
        "rain train again lane Spain plain pane",
        "moon tune spoon soon June balloon noon",
        "star far guitar jar car",
        "snow slow glow go know row",
        "bread said red bed instead head",
        "cat hat mat flat that sat",
        "town brown down crown clown gown",
        "pie sky high why fly shy try",
        "stew blue new knew view queue shoe grew",
        "hill still until will thrill",
        "Nice ice rice twice price spice",
        "Ghent went spent bent tent",
    )
)


def syllables_of(line: str) -> int | None:
    """Syllables of a line by the word list; None if a word is not in it."""
    counts = [SYLLABLES.get(word.lower()) for word in re.findall(r"[A-Za-z']+", line)]
    return None if None in counts else sum(count for count in counts if count is not None)


def is_haiku(text: str) -> bool:
    """Three lines of 5, 7 and 5 syllables, in words whose syllables are known."""
    return [syllables_of(line) for line in text.strip().splitlines()] == [5, 7, 5]


def rhyme(first: str, second: str) -> bool:
    """Whether the last words of two lines differ and stand in one group of rhymes."""
    last, other = _last_word(first), _last_word(second)
    return last != other and any(last in group and other in group for group in RHYMES)


def is_couplet(text: str) -> bool:
    """Two lines that rhyme."""
    lines = text.strip().splitlines()
    return len(lines) == 2 and rhyme(*lines)


def is_limerick(text: str) -> bool:
    """Five lines that rhyme a a b b a."""
    lines = text.strip().splitlines()
    return (
        len(lines) == 5
        and rhyme(lines[0], lines[1])
        and rhyme(lines[2], lines[3])
        and rhyme(lines[0], lines[4])
        and rhyme(lines[1], lines[4])
    )


def is_joke(text: str) -> bool:
    """Two lines, a question and what it leads to."""
    lines = text.strip().splitlines()
    return len(lines) == 2 and lines[0].endswith("?") and len(lines[1]) >= 10


def _last_word(line: str) -> str:
    words = re.findall(r"[A-Za-z']+", line)
    return words[-1] if words else ""
