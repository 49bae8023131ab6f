"""The search engine in memory: exact scores, ranking, passages, scripts, and files that cannot be read."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.errors import UserError
from samosa_jax.rollout.tools.local_index import K1, B, Document, LocalIndex, best_passage, terms_of


def index_of(*contents: str) -> LocalIndex:
    return LocalIndex(
        [Document(title="", url=f"doc:{at}", content=content) for at, content in enumerate(contents)]
    )


def test_bm25_of_three_documents_is_as_worked_out_by_hand():
    index = index_of("apple banana apple", "banana cherry", "cherry cherry date egg")
    average = (3 + 2 + 4) / 3

    def weight(tf: int, length: int, having: int) -> float:
        idf = math.log(1 + (3 - having + 0.5) / (having + 0.5))
        return idf * tf / (tf + K1 * (1 - B + B * length / average))

    found = index.search("Apple, cherry!", 3, 1.0)
    expected = {
        "doc:0": weight(tf=2, length=3, having=1),
        "doc:1": weight(tf=1, length=2, having=2),
        "doc:2": weight(tf=2, length=4, having=2),
    }
    assert {result.url: pytest.approx(result.score, rel=1e-12) for result in found} == expected
    assert [result.url for result in found] == ["doc:0", "doc:2", "doc:1"]
    # The same with numbers: idf(apple) = ln(1 + 2.5 / 1.5), average length 3, so 2 / (2 + 1.2).
    assert found[0].score == pytest.approx(0.980829253 * 0.625)
    both = index.search("banana apple", 1, 1.0)[0]
    assert both.score == pytest.approx(weight(2, 3, 1) + weight(1, 3, 2), rel=1e-12)


def test_ranking_prefers_more_mentions_rarer_words_and_shorter_documents():
    def order(query: str, *contents: str) -> list[str]:
        return [result.url for result in index_of(*contents).search(query, 10, 1.0)]

    assert order("tea", "tea milk milk", "tea tea milk", "milk milk milk") == ["doc:1", "doc:0"]
    assert order("tea rare", "tea a", "tea b", "rare c", "tea d")[0] == "doc:2"
    assert order("tea", "tea and a long story about something else", "tea time")[0] == "doc:1"


def test_equal_scores_keep_the_order_of_the_documents():
    index = index_of(*["same words here"] * 50)
    found = index.search("words", 7, 1.0)
    assert [result.url for result in found] == [f"doc:{at}" for at in range(7)]


def test_a_title_is_searched_too():
    index = LocalIndex([Document(title="Seoul", url="a", content="A city."), *index_of("nothing").documents])
    assert [result.url for result in index.search("seoul", 3, 1.0)] == ["a"]


@pytest.mark.parametrize("query", ["", "   ", "?!", "unknown", "_"])
def test_queries_without_a_known_word_find_nothing(query: str):
    assert index_of("some words", "more words").search(query, 3, 1.0) == []
    assert LocalIndex([]).search(query, 3, 1.0) == []


def test_words_are_found_in_any_script_case_and_unicode_form():
    index = index_of("Straße nach Zürich", "हिन्दी में समाचार", "東京の天気は晴れ", "Ｆｕｌｌ width", "café")
    for query, url in [
        ("STRASSE", "doc:0"),
        ("zu\u0308rich", "doc:0"),
        ("हिन्दी", "doc:1"),
        ("天気", "doc:2"),
        ("full", "doc:3"),
        ("CAFE\u0301", "doc:4"),
    ]:
        assert [result.url for result in index.search(query, 3, 1.0)] == [url], query
    assert terms_of("हिन्दी") == ["हिन्दी"]


words = st.sampled_from(["tea", "milk", "sugar", "cup", "pot"])
collections = st.lists(st.lists(words, max_size=8).map(" ".join), min_size=1, max_size=12)


@given(collections, st.lists(words, max_size=4).map(" ".join), st.integers(1, 12))
@settings(max_examples=60)
def test_search_agrees_with_the_formula_word_by_word(contents: list[str], query: str, max_results: int):
    tokens = [content.split() for content in contents]
    average = max(1.0, float(np.mean([len(words) for words in tokens])))
    scores = []
    for document in tokens:
        score = 0.0
        for term in sorted(set(query.split())):
            having = sum(term in other for other in tokens)
            if tf := document.count(term):
                idf = math.log(1 + (len(tokens) - having + 0.5) / (having + 0.5))
                score += idf * tf / (tf + K1 * (1 - B + B * len(document) / average))
        scores.append(score)
    found = index_of(*contents).search(query, max_results, 1.0)
    matching = sum(score > 0 for score in scores)
    assert len(found) == min(max_results, matching)
    assert [result.score for result in found] == pytest.approx(sorted(scores, reverse=True)[: len(found)])
    for result in found:
        assert result.score == pytest.approx(scores[int(result.url.removeprefix("doc:"))])


def test_the_passage_that_fits_best_is_shown():
    filler = "Nothing of note happened there. " * 40
    text = f"{filler}The mayor of Elmsworth is Iris Holm. She took over in spring. {filler}"
    shown = index_of(text).search("mayor Elmsworth", 1, 1.0)[0].content
    assert shown.startswith("The mayor of Elmsworth is Iris Holm. She took over")
    assert len(shown) <= 600


@given(st.text(alphabet="ab .!?\n。", max_size=200), st.integers(1, 40))
def test_a_passage_is_part_of_the_text_and_short(text: str, max_chars: int):
    passage = best_passage(text, {"a": 1.0, "ab": 2.0}, max_chars)
    assert len(passage) <= max_chars
    assert passage.replace(" ", "") in "".join(text.split())
    assert bool(passage) == bool(text.strip())


def test_documents_come_from_jsonl_or_a_folder(tmp_path: Path):
    rows = tmp_path / "pages.jsonl"
    rows.write_text('{"title": "Tea", "url": "u1", "content": "Green tea."}\n\n', encoding="utf-8")
    assert LocalIndex.open(rows).search("green", 3, 1.0)[0].url == "u1"
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.md").write_text("# Chai\n\nMilk and tea.\n")
    (folder / "deep" / "a.txt").write_text("Only a line about coffee")
    (folder / "empty.txt").write_text("\n")
    (folder / "image.png").write_bytes(b"\x89PNG")
    index = LocalIndex.open(folder)
    assert index.documents == (
        Document(title="Chai", url="b.md", content="Milk and tea."),
        Document(title="Only a line about coffee", url="deep/a.txt", content="Only a line about coffee"),
    )


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.jsonl", b'{"title": "a", "url": "b", "content": "c"}\nnot json\n', "row 2 is no JSON"),
        ("a.jsonl", b"[1]\n", "row 1 is no JSON object"),
        ("a.jsonl", b'{"title": "a", "url": null}\n', "'url', 'content'"),
        ("a.jsonl", b"\xff\xfe\n", "UTF-8"),
        ("a.jsonl", b"\n", "no rows"),
        ("folder/a.txt", b"\xff\xfe\n", "a.txt: not UTF-8"),
        ("folder/a.pdf", b"%PDF", "no .txt or .md file"),
    ],
)
def test_documents_that_cannot_be_read_are_named(tmp_path: Path, name: str, data: bytes, complaint: str):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(UserError, match=complaint):
        LocalIndex.open(tmp_path / name.split("/")[0])
    with pytest.raises(UserError, match="not found"):
        LocalIndex.open(tmp_path / "absent")


def test_twenty_thousand_documents_are_indexed_and_searched(capsys: pytest.CaptureFixture[str]):
    draw = np.random.default_rng(0)
    picks = np.minimum(draw.zipf(1.3, size=(20_000, 40)), 50_000)
    documents = [
        Document(title=f"Page {at}", url=f"doc:{at}", content=" ".join(f"w{word}" for word in row))
        for at, row in enumerate(picks)
    ]
    start = time.perf_counter()
    index = LocalIndex(documents)
    built = time.perf_counter()
    found = index.search("w3 w7 w19999 page 12345", 3, 1.0)
    searched = time.perf_counter()
    with capsys.disabled():
        print(f"\n20 000 documents: indexed in {built - start:.2f} s, searched in {searched - built:.4f} s")
    assert len(found) == 3
    assert found[0].url == "doc:12345"
