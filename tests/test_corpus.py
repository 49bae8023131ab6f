"""The embedded corpus is deterministic, mixed as promised, varied, and its stories are sound English."""

import random
import re
from itertools import islice

import pytest

from samosa_jax.data import corpus, stories
from samosa_jax.data.stories.words import NUMBERS

STORIES = list(islice(corpus.stories(), 2_000))


def test_documents_are_a_function_of_the_seed() -> None:
    first = list(corpus.documents(seed=3, max_bytes=100_000))
    assert first == list(corpus.documents(seed=3, max_bytes=100_000))
    assert not set(first) & set(corpus.documents(seed=4, max_bytes=100_000))
    shorter = list(corpus.documents(seed=3, max_bytes=50_000))
    assert 10 < len(shorter) < len(first)
    assert shorter == first[: len(shorter)]


def test_documents_fill_the_budget_in_the_promised_mixture() -> None:
    documents = list(corpus.documents(max_bytes=500_000))
    total = sum(len(document.encode()) for document in documents)
    assert 500_000 - corpus.MAX_DOCUMENT_BYTES <= total <= 500_000
    told = set(STORIES)
    share = sum(len(document.encode()) for document in documents if document in told) / total
    assert abs(share - corpus.STORY_FRAC) < 0.05
    assert 0.7 <= corpus.STORY_FRAC <= 0.8


def test_python_texts_are_documentation_and_sources() -> None:
    texts = list(corpus.python_texts())
    assert len(texts) > 200
    assert len(texts) == len(set(texts))
    assert any(text.startswith('"""') and "\nimport " in text for text in texts)  # a source
    assert any("\n\nfunction " in text for text in texts)  # docstrings
    assert all(text.strip() and len(text.encode()) <= corpus.MAX_DOCUMENT_BYTES + 1 for text in texts)
    assert texts != list(corpus.python_texts(seed=1))
    assert sorted(texts) != texts
    assert re.fullmatch(r"\w+ 3\.\d+\.\S+", corpus.python_version())


def test_stories_go_on_when_python_has_nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "python_texts", lambda *, seed: iter(["only one\n"]))
    documents = list(corpus.documents(max_bytes=30_000))
    assert documents.count("only one\n") == 1
    assert len(documents) > 20


@pytest.mark.parametrize("number", range(len(stories.PLOTS)))
def test_every_plot_can_be_told_in_many_ways(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stories, "PLOTS", stories.PLOTS[number : number + 1])
    told = {stories.tell_story(random.Random(i)) for i in range(100)}
    assert len(told) == 100
    lengths = [len(text.split()) for text in told]
    assert min(lengths) > 60
    assert max(lengths) < 400


def test_stories_are_distinct_and_varied() -> None:
    assert len(set(STORIES)) == len(STORIES)
    grams = set()
    for story in STORIES:
        words = re.findall(r"[\w']+|[^\w\s]", story)
        grams.update(zip(words, words[1:], words[2:], words[3:], words[4:], strict=False))
    assert len(grams) > 100_000
    assert len({story.split(".")[0] for story in STORIES}) > 1_000  # openings


FAULTS = {
    "markup left": r"[{}\[\]|#]",
    "space before punctuation": r" [,.!?;]",
    "two spaces": r"  ",
    "a before a vowel": r"\b[Aa] [aeiou](?!ne\b)",
    "an before a consonant": r"\b[Aa]n [^aeiouAEIOU]",
    "word twice": r"\b([a-z]+) \1\b",
    "sentence in lower case": r"[^!?.][.!?] \"?[a-z]",
    "paragraph in lower case": r"(?:^|\n)\"?[a-z]",
    "doubled punctuation": r"[,.!?]{2}",
    "no end": r"(?<![.!?\"\n])\n",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_stories_have_no_fault_of_form(fault: str) -> None:
    pattern = re.compile(FAULTS[fault])
    found = [
        story[max(0, at.start() - 30) : at.end() + 30] for story in STORIES if (at := pattern.search(story))
    ]
    assert not found, found[:5]


def test_the_fault_patterns_find_faults() -> None:
    wrong = "it was A apple  {x} , the the end.. Then. so it an pear"
    assert not [fault for fault, pattern in FAULTS.items() if not re.search(pattern, wrong + "\n")]


def test_quotation_marks_are_balanced() -> None:
    for story in STORIES:
        for paragraph in story.split("\n\n"):
            assert paragraph.count('"') % 2 == 0, paragraph


def test_sums_are_right() -> None:
    value = {word: number for number, word in enumerate(NUMBERS)}
    taken = [re.search(r"\"(\w+) take away (\w+) is (\w+),", story) for story in STORIES]
    given = [re.search(r"have (\w+)\. If I give you (\w+), I still have (\w+)\.", story) for story in STORIES]
    sums = [match.groups() for match in [*taken, *given] if match]
    assert len(sums) > 50
    for total, part, rest in sums:
        assert value[total.lower()] - value[part] == value[rest] > 0


def test_pronouns_agree_with_the_hero() -> None:
    """Where a plot has a single child and the first pronoun follows the name, it is the right one."""
    checked = 0
    for story in STORIES:
        match = re.search(r"there (?:was|lived) a \w+ (girl|boy) named \w+\. (He|She|His|Her)\b", story)
        if match:
            checked += 1
            assert (match[1] == "girl") == (match[2] in ("She", "Her")), match.group()
    assert checked > 100
