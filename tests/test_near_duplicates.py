"""Copies at known similarities are found or left as the threshold says; the mathematics is what it claims."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.data.chat.near_duplicates import (
    BANDS,
    ROWS_PER_BAND,
    THRESHOLD,
    MinHash,
    NearDuplicates,
    Shingles,
    content_digest,
    jaccard,
    shingles,
    similarity,
)
from samosa_jax.data.chat.word_grams import WordHasher, gram_hashes, hash_messages, words

HASHER = WordHasher()


def talk(question: str, answer: str, system: str = "") -> Conversation:
    head = (Message(role="system", text=system),) if system else ()
    return Conversation(
        messages=(*head, Message(role="user", text=question), Message(role="assistant", text=answer))
    )


def of(conversation: Conversation) -> Shingles:
    return shingles(hash_messages(conversation, HASHER))


def pair_of_similarity(shared: int, own: int, random: np.random.Generator) -> tuple[Shingles, Shingles]:
    """Two sets with `shared` elements in common and `own` more each: Jaccard shared / (shared + 2 own)."""
    elements = np.unique(random.integers(0, 2**64 - 1, shared + 2 * own, np.uint64, endpoint=True))
    common, mine, yours = np.split(elements[random.permutation(len(elements))], [shared, shared + own])
    a, b = np.sort(np.concatenate([common, mine])), np.sort(np.concatenate([common, yours]))
    return Shingles(a, a[:0]), Shingles(b, b[:0])


@pytest.mark.parametrize(
    ("shared", "own", "found"),
    [(100, 0, True), (90, 5, True), (80, 10, True), (79, 10, False), (60, 20, False)],
)
def test_planted_pairs_are_found_from_the_threshold_on(shared: int, own: int, found: bool) -> None:
    random = np.random.default_rng(shared)
    hits = 0
    for _ in range(200):
        a, b = pair_of_similarity(shared, own, random)
        assert similarity(a, b) == shared / (shared + 2 * own)
        index: NearDuplicates[str] = NearDuplicates()
        assert index.add(a, "a") is None
        hits += (hit := index.add(b, "b")) is not None
        assert hit is None or hit == ("a", shared / (shared + 2 * own))
    assert hits == (200 if found else 0)


def detection_probability(similarity: float) -> float:
    """That a pair of this Jaccard similarity shares a band, and so is compared."""
    return 1 - (1 - similarity**ROWS_PER_BAND) ** BANDS


def test_bands_detect_as_often_as_their_formula_says() -> None:
    """Without verification at 0.5 and 0.7, where bands do miss pairs: the S-curve itself."""
    random = np.random.default_rng(7)
    for shared, own in ((100, 50), (70, 15), (30, 35)):
        expected = detection_probability(shared / (shared + 2 * own))
        found, trials = 0, 400
        for _ in range(trials):
            a, b = pair_of_similarity(shared, own, random)
            index: NearDuplicates[str] = NearDuplicates(threshold=0.0)
            index.add(a, "a")
            found += index.add(b, "b") is not None
        assert found / trials == pytest.approx(
            expected, abs=4 * (expected * (1 - expected) / trials) ** 0.5 + 0.005
        )
    assert detection_probability(THRESHOLD) > 0.9999
    assert len(MinHash().signature(np.arange(3, dtype=np.uint64))) == BANDS * ROWS_PER_BAND


@given(st.sets(st.integers(0, 2**64 - 1), max_size=40), st.sets(st.integers(0, 2**64 - 1), max_size=40))
def test_jaccard_is_that_of_sets(a: set[int], b: set[int]) -> None:
    found = jaccard(np.array(sorted(a), np.uint64), np.array(sorted(b), np.uint64))
    assert found == (len(a & b) / len(a | b) if a or b else 1.0)


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g"]), max_size=30), st.integers(1, 6))
def test_grams_are_equal_where_their_words_are(sequence: list[str], length: int) -> None:
    grams = gram_hashes(HASHER.hashes(" ".join(sequence)), length).tolist()
    spelled = [tuple(sequence[i : i + length]) for i in range(len(sequence) - length + 1)]
    assert len(grams) == len(spelled)
    for (gram, words_of_it), (other, other_words) in itertools.combinations(
        zip(grams, spelled, strict=True), 2
    ):
        assert (gram == other) == (words_of_it == other_words)


def test_words_ignore_case_and_punctuation() -> None:
    assert words("It's 3,5\u00a0Caf\u00c9s \u2014 don't!") == words("it s 3 5 caf\u00e9s don t")
    assert words("\uff21\uff22\uff23") == ["abc"]  # full-width letters
    assert words("\u4f60\u597d\u4e16\u754c ok") == ["\u4f60", "\u597d", "\u4e16", "\u754c", "ok"]
    assert words("  ...  ") == []


def test_hashes_do_not_change_between_processes() -> None:
    code = (
        "from samosa_jax.data.chat.word_grams import WordHasher;"
        "print(WordHasher().hashes('a tale of two').tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(HASHER.hashes("a tale of two").tolist())


LONG = " ".join(f"word{number}" for number in range(200))


def test_the_first_stays_and_edits_near_it_go() -> None:
    index: NearDuplicates[int] = NearDuplicates()
    edited = LONG.replace("word100", "other")
    texts = [LONG, edited, LONG.upper() + "!", " ".join(reversed(LONG.split())), edited]
    found = [index.add(of(talk("Say the words.", text)), number) for number, text in enumerate(texts)]
    assert [hit[0] if hit else None for hit in found] == [None, 0, 0, None, 0]


def test_two_questions_about_one_passage_are_no_copies() -> None:
    index: NearDuplicates[str] = NearDuplicates()
    first = of(talk(f"Who ruled? {LONG}", "It was the king who ruled."))
    second = of(talk(f"When was it? {LONG}", "It was in the year 1066."))
    assert jaccard(np.union1d(*first), np.union1d(*second)) > THRESHOLD
    assert index.add(first, "first") is None
    assert index.add(second, "second") is None
    assert index.add(of(talk(f"Who ruled then? {LONG}", "It was the king who ruled.")), "third") is not None


def test_two_ways_to_ask_with_one_answer_are_no_copies() -> None:
    index: NearDuplicates[str] = NearDuplicates()
    asked = ["Who are you?", "What is your name?", "WHO are you"]
    assert [index.add(of(talk(text, LONG)), text) for text in asked] == [None, None, (asked[0], 1.0)]


def test_the_whole_is_at_least_as_similar_as_the_less_similar_side() -> None:
    """Which is why looking for candidates by the whole misses no pair that is near on both sides."""
    random = np.random.default_rng(1)
    for _ in range(100):
        sizes = random.integers(1, 50, (2, 2)).tolist()
        asked, spoken = (pair_of_similarity(shared, own, random) for shared, own in sizes)
        a, b = (Shingles(asked[n].asked, spoken[n].asked) for n in range(2))
        assert jaccard(np.sort(np.concatenate(a)), np.sort(np.concatenate(b))) >= similarity(a, b)


def test_a_long_system_message_makes_nothing_alike() -> None:
    one, other = talk("Hi?", "Hello there.", LONG), talk("Bye?", "See you soon.", LONG)
    assert similarity(of(one), of(other)) == 0
    assert similarity(of(one), of(talk("Hi?", "Hello there."))) == 1


def test_an_empty_conversation_is_near_to_nothing() -> None:
    index: NearDuplicates[str] = NearDuplicates()
    assert [index.add(of(talk("?", "!")), name) for name in "ab"] == [None, None]


def test_digests_see_every_part_but_not_white_space_and_case() -> None:
    call = ToolCall("calculator", {"expression": "1+1"})
    base = Conversation(
        messages=(
            Message(role="user", text="What is 1+1?"),
            Message(role="assistant", text="It is 2.", think="Easy."),
        )
    )
    assert content_digest(talk("What is  1+1?\n", "IT is 2.")) == content_digest(
        talk("What is 1+1?", "It is 2.")
    )
    changed = [
        replace(base, messages=(base.messages[0], replace(base.messages[1], **change)))
        for change in ({"think": "Hard."}, {"think": None}, {"text": "It is two."}, {"tool_call": call})
    ]
    moved = talk("What is 1+1? It", "is 2.")
    assert len({content_digest(conversation) for conversation in (base, *changed, moved)}) == 6


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_the_same_conversations_give_the_same_result(seed: int) -> None:
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(["a", "b", "c"], 8)) for _ in range(20)]
    results = []
    for _ in range(2):
        index: NearDuplicates[int] = NearDuplicates()
        results.append([index.add(of(talk("Go", text)), number) for number, text in enumerate(texts)])
    assert results[0] == results[1]
