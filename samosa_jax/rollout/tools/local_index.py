"""A search engine in memory over the user's own documents: a web search that needs no network.

Ranking is BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009): each
distinct term t of the query adds

    idf(t) * tf / (tf + K1 * (1 - B + B * length / average_length))
    idf(t) = log(1 + (N - n_t + 0.5) / (n_t + 0.5))

with tf the times t stands in the document, n_t the documents that have it, and N all documents. The 1 inside
the logarithm (as in Lucene) keeps a term that most documents have from counting against them.
"""

import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samosa_jax.errors import UserError
from samosa_jax.rollout.tools.web_search import SearchResult

K1 = 1.2
B = 0.75
SNIPPET_CHARS = 600
TEXT_SUFFIXES = (".txt", ".md")

# Scripts written without blanks are indexed by the character. Vowel signs and other marks, which \w leaves
# out, belong to the word that they stand in.
_UNSPACED = "\u0e01-\u0e30\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u200c\u200d"
_TERM = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])(?:[^\W_]|[{_MARKS}]))+")
_SENTENCE = re.compile(r"\S.*?(?:[.!?][\"')\]]*(?=\s|$)|[。！？।]|\n\s*\n|$)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Document:
    title: str
    url: str
    content: str


class LocalIndex:
    """An inverted index over documents; a SearchBackend.

    Equal scores keep the order in which the documents were given.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = tuple(documents)
        self._term_ids: dict[str, int] = {}
        terms, owners, counts = array("i"), array("i"), array("i")
        lengths = np.zeros(len(self.documents), np.float64)
        for owner, document in enumerate(self.documents):
            found = Counter(terms_of(f"{document.title}\n{document.content}"))
            lengths[owner] = found.total()
            for term, count in found.items():
                terms.append(self._term_ids.setdefault(term, len(self._term_ids)))
                owners.append(owner)
                counts.append(count)
        term_of_posting = np.frombuffer(terms, np.int32)
        order = np.argsort(term_of_posting, kind="stable")
        frequency = np.bincount(term_of_posting, minlength=len(self._term_ids))
        self._idf = np.log1p((len(self.documents) - frequency + 0.5) / (frequency + 0.5))
        self._starts = np.concatenate([[0], np.cumsum(frequency)])
        self._owners = np.frombuffer(owners, np.int32)[order]
        tf = np.frombuffer(counts, np.int32)[order].astype(np.float64)
        average = max(1.0, float(lengths.mean())) if len(lengths) else 1.0
        saturation = K1 * (1 - B + B * lengths / average)
        self._weights = self._idf[term_of_posting[order]] * tf / (tf + saturation[self._owners])

    @classmethod
    def open(cls, path: Path) -> "LocalIndex":
        """From JSONL rows {"title", "url", "content"}, or a folder of .txt and .md files at any depth.

        A file's title is its first line and its url its path inside the folder.

        Raises:
          UserError: nothing there, a row or a file that cannot be read (named), or no document at all.
        """
        if not path.exists():
            raise UserError(f"{path}: not found; give a JSONL file or a folder of text files to search in")
        documents = tuple(_files_of(path) if path.is_dir() else _rows_of(path))
        if not documents:
            wanted = f"no {' or '.join(TEXT_SUFFIXES)} file" if path.is_dir() else "no rows"
            raise UserError(f"{path}: {wanted} to search in")
        return cls(documents)

    def search(self, query: str, max_results: int, timeout_s: float) -> list[SearchResult]:
        """Documents with at least one term of the query, best first; content is the passage that fits best.

        It never waits, so `timeout_s` does not matter.
        """
        terms = sorted(set(terms_of(query)) & self._term_ids.keys())
        scores = np.zeros(len(self.documents), np.float64)
        for term in terms:
            postings = slice(*self._starts[self._term_ids[term] :][:2])
            scores[self._owners[postings]] += self._weights[postings]
        matching = np.flatnonzero(scores)
        best = matching[np.argsort(-scores[matching], kind="stable")][:max_results]
        weights = {term: float(self._idf[self._term_ids[term]]) for term in terms}
        return [
            SearchResult(
                title=self.documents[at].title,
                url=self.documents[at].url,
                content=best_passage(self.documents[at].content, weights),
                score=float(scores[at]),
            )
            for at in best
        ]


def terms_of(text: str) -> list[str]:
    """The words of a text as the index knows them, whatever their case and Unicode form."""
    return _TERM.findall(unicodedata.normalize("NFKC", text).casefold())


def best_passage(text: str, weights: dict[str, float], max_chars: int = SNIPPET_CHARS) -> str:
    """The run of whole sentences, `max_chars` long at most, whose distinct terms weigh most.

    It begins with a sentence that has a term, where there is one; the first run of equals is taken. A
    sentence that is longer is taken apart between words.
    """
    pieces = [piece for sentence in _SENTENCE.findall(text) for piece in _split(sentence, max_chars)]
    found = [weights.keys() & terms_of(piece) for piece in pieces]
    best, best_weight = "", -1.0
    for start in [at for at, terms in enumerate(found) if terms] or range(len(pieces)):
        stop, length = start, -1
        while stop < len(pieces) and length + 1 + len(pieces[stop]) <= max_chars:
            length += 1 + len(pieces[stop])
            stop += 1
        weight = sum(weights[term] for term in sorted(set().union(*found[start:stop])))
        if weight > best_weight:
            best, best_weight = " ".join(pieces[start:stop]), weight
    return best


def _split(sentence: str, max_chars: int) -> Iterator[str]:
    """In pieces of `max_chars` at most, broken at blanks where there are any."""
    rest = " ".join(sentence.split())
    while len(rest) > max_chars:
        space = rest.rfind(" ", 1, max_chars + 1)
        end = space if space > 0 else max_chars
        yield rest[:end]
        rest = rest[end:].lstrip()
    if rest:
        yield rest


def _rows_of(path: Path) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _document(line, f"{path}: row {number}")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from None


def _document(line: str, where: str) -> Document:
    expected = 'expected {"title": ..., "url": ..., "content": ...}, three texts'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where} is no JSON; {expected}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is no JSON object; {expected}")
    wrong = [name for name in ("title", "url", "content") if not isinstance(row.get(name), str)]
    if wrong:
        raise UserError(f"{where} has no text under {', '.join(map(repr, wrong))}; {expected}")
    return Document(title=row["title"], url=row["url"], content=row["content"])


def _files_of(folder: Path) -> Iterator[Document]:
    for path in sorted(found for found in folder.rglob("*") if found.suffix.lower() in TEXT_SUFFIXES):
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise UserError(
                f"{path}: not UTF-8 text; save it as UTF-8 or take it out of the folder"
            ) from None
        title, _, content = text.partition("\n")
        if text:
            name = path.relative_to(folder).as_posix()
            yield Document(title=title.lstrip("# ").strip(), url=name, content=content.strip() or text)
