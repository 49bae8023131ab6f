"""Trains a tokenizer: draws a bounded sample of documents, counts its words, lets sentencepiece merge them.

The result is a function of the corpus and the options alone. Memory is bounded by the sample and by
MAX_WORDS distinct words, because sentencepiece is given words with their counts and not the text.
"""

import hashlib
import heapq
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import sentencepiece

from samosa_jax.data.tokenizer import (
    BOS,
    SPECIAL_TOKENS,
    UNSAFE,
    WORD,
    SentencePieceTokenizer,
    Tokenizer,
    escape,
)
from samosa_jax.errors import UserError

MIN_VOCAB_SIZE = 512  # specials, 256 bytes and ASCII take 371
MAX_VOCAB_SIZE = 65_536  # ids fit in uint16 shards
MAX_WORDS = 2_000_000
BLOCK_CHARS = 1 << 16  # longer documents are sampled in blocks, so that one book cannot be the whole sample
MAX_WORD_CHARS = 256  # text without spaces is counted in slices
WHITESPACE_RUNS = tuple(character * length for character in "\n\t" for length in (1, 2, 3, 4))
PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    vocab_size: int = 32_768  # special tokens and bytes included
    max_bytes: int = 200_000_000  # of the sample
    seed: int = 0  # which documents make the sample
    split_digits: bool = True  # every digit is a token of its own
    character_coverage: float = 0.9995  # share of characters with a token of their own; the rest are bytes

    def __post_init__(self) -> None:
        if not MIN_VOCAB_SIZE <= self.vocab_size <= MAX_VOCAB_SIZE:
            raise UserError(
                f"--vocab-size is {self.vocab_size}; it must lie in {MIN_VOCAB_SIZE}..{MAX_VOCAB_SIZE}"
            )
        if self.max_bytes < 1:
            raise UserError(f"--max-bytes is {self.max_bytes}; it must be at least 1")
        if not 0 < self.character_coverage <= 1:
            raise UserError(
                f"--character-coverage is {self.character_coverage}; it must lie above 0 and up to 1"
            )


@dataclass(frozen=True, kw_only=True)
class TextSize:
    documents: int
    bytes: int
    characters: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    blocks: list[str]  # in the order of the corpus
    size: TextSize
    corpus_size: TextSize
    corpus_sha256: str  # over every document of the corpus, in its order

    def describe(self) -> str:
        """For example "sampled 35.1 MB of 35.7 MB, 19,000 of 19,458 documents"."""
        size, corpus = self.size, self.corpus_size
        return (
            f"sampled {size.bytes / 1e6:,.1f} MB of {corpus.bytes / 1e6:,.1f} MB, "
            f"{size.documents:,} of {corpus.documents:,} documents"
        )


def draw_sample(documents: Iterable[str], *, max_bytes: int, seed: int) -> Sample:
    """One pass, holding at most about max_bytes of text; uniform over blocks, the same on every machine.

    Every block has a pseudo-random rank given by (seed, its place in the corpus); the lowest ranks that
    fit are the sample.
    """
    digest = hashlib.sha256()
    kept: list[tuple[int, int, int, bytes]] = []  # heap of (-rank, document, block, text)
    kept_bytes = num_documents = num_bytes = num_characters = 0
    for num_documents, document in enumerate(documents, start=1):
        encoded = document.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
        num_bytes += len(encoded)
        num_characters += len(document)
        for block, start in enumerate(range(0, len(document), BLOCK_CHARS)):
            whole = len(document) <= BLOCK_CHARS
            text = (
                encoded if whole else document[start : start + BLOCK_CHARS].encode("utf-8", "surrogatepass")
            )
            heapq.heappush(kept, (-_rank(seed, num_documents, block), num_documents, block, text))
            kept_bytes += len(text)
            while kept_bytes > max_bytes:
                kept_bytes -= len(heapq.heappop(kept)[3])
    kept.sort(key=lambda item: item[1:3])
    blocks = [escape(text) for *_, text in kept]
    size = TextSize(
        documents=len({document for _, document, _, _ in kept}),
        bytes=kept_bytes,
        characters=sum(map(len, blocks)),
    )
    corpus_size = TextSize(documents=num_documents, bytes=num_bytes, characters=num_characters)
    return Sample(blocks=blocks, size=size, corpus_size=corpus_size, corpus_sha256=digest.hexdigest())


def _rank(seed: int, document: int, block: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{document}/{block}".encode(), digest_size=8).digest())


@dataclass(frozen=True, kw_only=True)
class WordCounts:
    counts: dict[str, int]
    num_words: int  # counted
    num_dropped: int  # of them forgotten, the rarest, to stay under the bound


def count_words(blocks: Iterable[str], *, max_words: int = MAX_WORDS) -> WordCounts:
    """Counts what merges can be made of: words with the spaces before them, and runs of spaces."""
    counts: Counter[str] = Counter()
    num_words = num_dropped = 0
    for block in blocks:
        words = list(_mergeable_words(block))
        num_words += len(words)
        counts.update(words)
        threshold = 1
        while len(counts) > max_words:
            rare = [word for word, count in counts.items() if count <= threshold]
            num_dropped += sum(counts.pop(word) for word in rare)
            threshold *= 2
    return WordCounts(counts=counts, num_words=num_words, num_dropped=num_dropped)


def _mergeable_words(text: str) -> Iterator[str]:
    for word in WORD.findall(text):
        if word[0] in "\n\t" or UNSAFE.match(word):
            continue  # these have tokens of their own from the start
        for start in range(0, len(word), MAX_WORD_CHARS):
            yield word[start : start + MAX_WORD_CHARS]


def train_model(counts: dict[str, int], options: TokenizerOptions) -> bytes:
    """A serialized sentencepiece model. Raises UserError if the text cannot fill the vocabulary."""
    if not counts:
        raise UserError("the input has no text to train a tokenizer on; give --input files with text in them")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{count}" for word, count in sorted(counts.items())),
            input_format="tsv",
            model_writer=model,
            model_type="bpe",
            vocab_size=options.vocab_size,
            hard_vocab_limit=False,  # the size is checked below, where the mend can be named
            character_coverage=options.character_coverage,
            required_chars=PRINTABLE_ASCII,
            byte_fallback=True,
            split_digits=options.split_digits,
            allow_whitespace_only_pieces=True,
            max_sentencepiece_length=24,
            max_sentence_length=16 * MAX_WORD_CHARS,  # bytes; nothing counted is longer
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            bos_id=1,
            bos_piece=BOS,
            eos_id=-1,
            pad_id=-1,
            control_symbols=[name for name in SPECIAL_TOKENS if name != BOS],
            user_defined_symbols=list(WHITESPACE_RUNS),
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"no tokenizer of {options.vocab_size} tokens can be made of this text ({error}); "
            "raise --vocab-size or lower --character-coverage"
        ) from error
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    if found < options.vocab_size:
        mend = f"give more text or --vocab-size {found}" if found >= MIN_VOCAB_SIZE else "give more text"
        raise UserError(
            f"the text is too small for --vocab-size {options.vocab_size}: it gives {found} tokens; {mend}"
        )
    return model.getvalue()


def train(sample: Sample, options: TokenizerOptions, *, inputs: list[str]) -> Tokenizer:
    """The tokenizer, with `meta` saying what it was made of. Raises UserError as `train_model` does."""
    words = count_words(sample.blocks)
    meta: dict[str, object] = {
        "corpus": {"inputs": inputs, "sha256": sample.corpus_sha256} | asdict(sample.corpus_size),
        "sample": asdict(sample.size)
        | {"words": words.num_words, "distinct_words": len(words.counts), "dropped_words": words.num_dropped},
        "options": asdict(options),
        "sentencepiece_version": sentencepiece.__version__,
    }
    return SentencePieceTokenizer(train_model(words.counts, options), meta)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raises UserError if a tokenizer written to folder would replace something that nobody gave up."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(
            f"--out {folder} is not empty; name another folder, or give --overwrite to replace it"
        )


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Puts the tokenizer at folder in one step, replacing what is there."""
    folder = folder.absolute()
    new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        new.mkdir(parents=True)
        tokenizer.save(new)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write the tokenizer to {folder}: {error.strerror}; mend it or name another --out"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
