"""The tokenizer gives back every text and byte, is trained reproducibly, and says clearly what is wrong."""

import gzip
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from samosa_jax import train_tokenizer
from samosa_jax.data import corpus, tokenizer_report
from samosa_jax.data.tokenizer import (
    META_FILE,
    MODEL_FILE,
    SPECIAL_TOKENS,
    UNSAFE,
    SentencePieceTokenizer,
    Tokenizer,
)
from samosa_jax.data.tokenizer_training import (
    BLOCK_CHARS,
    TokenizerOptions,
    check_free,
    count_words,
    draw_sample,
    train_model,
    write,
)
from samosa_jax.errors import UserError

# Several documents hold runs of spaces, newlines and tabs, so that these get tokens of their own.
TEXTS = [
    *corpus.documents(max_bytes=250_000),
    "\n".join(f"{' ' * (4 * i)}if x{i}:\t\t# déjà vu 2024" for i in range(9)),
]


def make_model(vocab_size: int = 1_000) -> bytes:
    sample = draw_sample(TEXTS, max_bytes=10_000_000, seed=0)
    return train_model(count_words(sample.blocks).counts, TokenizerOptions(vocab_size=vocab_size))


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(make_model(), {"note": "small"})


# What sentencepiece alone would change, and what text of the world looks like.
NASTY = (
    "",
    " ",
    "  two  spaces  ",
    "\u2581",
    "a\u2581b \u2581 c",
    "\0",
    "a\0b",
    "\r\n\r\n",
    "\t\t\t\t\t\tx",
    "\n" * 9,
    "<|bos|>",
    "x<|user_end|>y",
    "<think>hm</think>",
    "<unk>",
    "<0x41><0x00>",
    "\ufffd",
    "\ufeffBOM",
    "👩‍👩‍👧‍👦 🇫🇷",
    "e\u0301 é",
    "ﬁ ½ Ⅳ ＡＢＣ",
    "日本語 中文 한국어",
    "\x85\u2028\u2029",
    "\u2585\u2047",
    "x" * 5_000,
    " " * 500,
    "1234567",
    "    return x\n\n\n\n\n    y",
)


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_comes_back(tokenizer: SentencePieceTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special_ids.values())
    assert not any(tokenizer._processor.is_unknown(i) for i in ids)


@given(st.text())
@example("\u2581 \0")
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@given(st.binary())
@example(b"\xff\xfe ok \xe2\x96\x81 \xed\xa0\x80 \x80")
@example(b"caf\xc3")
def test_any_bytes_come_back(tokenizer: Tokenizer, data: bytes) -> None:
    ids = tokenizer.encode(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.token_bytes[ids].sum() == len(data)


def test_every_code_point_comes_back(tokenizer: Tokenizer) -> None:
    everything = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


def test_lone_surrogates_keep_their_bytes(tokenizer: Tokenizer) -> None:
    for text in ("\ud83d", "a\udc80b", "\udfff\ud800"):
        assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode("utf-8", "surrogatepass")


def test_equals_plain_sentencepiece(tokenizer: Tokenizer) -> None:
    """Encoding word by word changes nothing: the model file means the same to every other program."""
    plain = sentencepiece.SentencePieceProcessor(model_proto=tokenizer._model)
    for text in [*TEXTS, *NASTY]:
        if not UNSAFE.search(text):
            assert tokenizer.encode(text) == plain.encode(text)
    assert plain.decode(plain.encode("a\u2581b")) != "a\u2581b"  # the reason for the detour around it


def test_batch_equals_single_on_any_number_of_threads(tokenizer: Tokenizer) -> None:
    texts = [*TEXTS[:50], *NASTY, b"\xff raw", b"\xe2\x96\x81"]
    expected = [tokenizer.encode(text) for text in texts]
    for num_threads in (1, 2):
        arrays = tokenizer.encode_batch(texts, num_threads=num_threads)
        assert [array.tolist() for array in arrays] == expected
        assert all(array.dtype == np.int32 for array in arrays)


def test_special_tokens_come_only_from_the_explicit_call(tokenizer: Tokenizer) -> None:
    assert len(SPECIAL_TOKENS) == len(set(tokenizer.special_ids.values())) == 11
    text = "".join(f"{name} x " for name in SPECIAL_TOKENS)
    assert not set(tokenizer.encode(text)) & set(tokenizer.special_ids.values())
    ids = tokenizer.encode_with_specials(text)
    assert [i for i in ids if i in tokenizer.special_ids.values()] == [
        tokenizer.special_ids[n] for n in SPECIAL_TOKENS
    ]
    assert tokenizer.decode(ids, show_specials=True) == text
    assert tokenizer.decode(ids) == " x " * 11
    assert tokenizer.bos_id == tokenizer.special_ids["<|bos|>"]
    assert not tokenizer.token_bytes[list(tokenizer.special_ids.values())].any()


def test_token_bytes_are_what_each_token_decodes_to(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
    for i in range(tokenizer.vocab_size):
        assert tokenizer.token_bytes[i] == len(tokenizer.decode_bytes([i]))
    assert tokenizer.token_bytes.dtype == np.int32
    assert tokenizer.token_bytes.max() > 4


def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    for ids in ([-1], [5, tokenizer.vocab_size]):
        with pytest.raises(ValueError, match="token ids"):
            tokenizer.decode(ids)


def test_digits_and_runs_of_whitespace(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("20241")) == 5
    assert len(tokenizer.encode("\n\n\n\n")) == len(tokenizer.encode("\t\t")) == 1
    assert len(tokenizer.encode(" " * 8)) <= 2
    years = count_words(["in 2024 " * 1_000, *TEXTS]).counts
    split, merged = (
        SentencePieceTokenizer(
            train_model(years, TokenizerOptions(vocab_size=1_000, split_digits=digits))
        ).encode("2024")
        for digits in (True, False)
    )
    assert len(split) == 4 > len(merged)


def test_words_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samosa_jax.data.tokenizer._REMEMBERED_WORDS", 10)
    small = SentencePieceTokenizer(make_model())
    for text in TEXTS[:20]:
        assert small.decode(small.encode(text)) == text
    assert 0 < len(small._word_ids) <= 10


def test_pickle_keeps_everything(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.meta == tokenizer.meta
    assert copy.encode("Hello there") == tokenizer.encode("Hello there")


# Training


def test_the_same_text_gives_the_same_model() -> None:
    assert make_model() == make_model()
    assert make_model() != make_model(vocab_size=1_001)


def test_too_little_text_names_a_vocabulary_that_works() -> None:
    counts = count_words(["a small text, but not a very small text " * 3]).counts
    with pytest.raises(
        UserError, match=r"too small for --vocab-size 3000.*gives \d+ tokens; give more text$"
    ):
        train_model(counts, TokenizerOptions(vocab_size=3_000))
    counts = count_words(TEXTS[:3]).counts
    with pytest.raises(UserError, match="give more text or --vocab-size") as caught:
        train_model(counts, TokenizerOptions(vocab_size=30_000))
    mend = int(re.findall(r"\d+", str(caught.value))[-1])
    assert SentencePieceTokenizer(train_model(counts, TokenizerOptions(vocab_size=mend))).vocab_size == mend
    with pytest.raises(UserError, match="no text to train"):
        train_model({}, TokenizerOptions())


def test_too_many_characters_for_the_vocabulary() -> None:
    counts = {chr(0x4E00 + i): 1 for i in range(600)}
    with pytest.raises(UserError, match="raise --vocab-size or lower --character-coverage"):
        train_model(counts, TokenizerOptions(vocab_size=600, character_coverage=1.0))


def test_the_sample_is_bounded_stated_and_the_same_every_time() -> None:
    documents = [f"document {i} " * 50 for i in range(200)]
    whole = draw_sample(documents, max_bytes=10**9, seed=0)
    assert whole.blocks == documents
    assert whole.size == whole.corpus_size
    part = draw_sample(iter(documents), max_bytes=20_000, seed=0)
    assert 18_000 < part.size.bytes <= 20_000
    assert part.size.bytes == sum(len(block.encode()) for block in part.blocks)
    assert part.corpus_size == whole.size
    assert part.corpus_sha256 == whole.corpus_sha256
    assert part.blocks == draw_sample(documents, max_bytes=20_000, seed=0).blocks
    assert part.blocks != draw_sample(documents, max_bytes=20_000, seed=1).blocks
    places = [documents.index(block) for block in part.blocks]
    assert places == sorted(places)
    assert min(places) < 60
    assert max(places) > 140
    assert part.describe() == f"sampled 0.0 MB of 0.1 MB, {len(places)} of 200 documents"
    assert (
        draw_sample(["ab", "c"], max_bytes=9, seed=0).corpus_sha256
        != draw_sample(["a", "bc"], max_bytes=9, seed=0).corpus_sha256
    )


def test_one_long_document_is_sampled_in_blocks() -> None:
    book = "".join(f"line {i} é\n" for i in range(60_000))
    sample = draw_sample([book], max_bytes=300_000, seed=0)
    assert 300_000 - 2 * BLOCK_CHARS < sample.size.bytes <= 300_000
    assert sample.size.documents == 1
    assert "".join(draw_sample([book], max_bytes=10**9, seed=0).blocks) == book


def test_word_counts_are_bounded_and_say_what_they_dropped() -> None:
    blocks = [" ".join(f"rare{i}x{j} the" for j in range(100)) for i in range(20)]
    free, bounded = count_words(blocks), count_words(blocks, max_words=500)
    assert free.num_dropped == 0
    assert len(bounded.counts) <= 500 < len(free.counts)
    assert bounded.num_words == free.num_words == sum(bounded.counts.values()) + bounded.num_dropped
    assert bounded.counts[" the"] == free.counts[" the"] == 2_000


@pytest.mark.parametrize(
    "flags", [{"vocab_size": 100}, {"vocab_size": 65_537}, {"max_bytes": 0}, {"character_coverage": 0.0}]
)
def test_impossible_options_name_the_flag(flags: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--" + next(iter(flags)).replace("_", "-")):
        TokenizerOptions(**flags)


# On disk


def test_write_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "tok"
    write(tokenizer, folder)
    loaded = Tokenizer.load(folder)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.meta["note"] == "small"
    assert json.loads((folder / META_FILE).read_text())["special_ids"] == tokenizer.special_ids
    other = SentencePieceTokenizer(make_model(vocab_size=900))
    assert other.fingerprint != tokenizer.fingerprint
    with pytest.raises(UserError, match="--overwrite"):
        check_free(folder, overwrite=False)
    check_free(folder, overwrite=True)
    write(other, folder)
    assert Tokenizer.load(folder).fingerprint == other.fingerprint
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tok"]  # nothing half-written beside it


def test_a_failed_write_leaves_the_old_tokenizer(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tok"
    write(tokenizer, folder)
    rename = Path.rename

    def fail_on_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(UserError, match="No space left on device"):
        write(SentencePieceTokenizer(make_model(vocab_size=900)), folder)
    assert Tokenizer.load(folder).fingerprint == tokenizer.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["tok"]


def test_damaged_folders_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Tokenizer.load(tmp_path / "none")
    write(tokenizer, tmp_path / "tok")
    model, meta = tmp_path / "tok" / MODEL_FILE, tmp_path / "tok" / META_FILE
    good_model, good_meta = model.read_bytes(), meta.read_text()

    model.write_bytes(good_model[:2_000] + bytes([good_model[2_000] ^ 1]) + good_model[2_001:])
    with pytest.raises(UserError, match=f"{MODEL_FILE} is damaged.*expected"):
        Tokenizer.load(tmp_path / "tok")
    model.write_bytes(good_model)
    for text in ("{", "[]", "{}"):
        meta.write_text(text)
        with pytest.raises(UserError, match=META_FILE):
            Tokenizer.load(tmp_path / "tok")
    meta.write_text(good_meta)
    model.unlink()
    with pytest.raises(UserError, match=f"incomplete.*{MODEL_FILE}"):
        Tokenizer.load(tmp_path / "tok")


def test_foreign_models_are_refused() -> None:
    with pytest.raises(UserError, match="not a sentencepiece model"):
        SentencePieceTokenizer(b"garbage")
    words = [f"w{i} word{i % 7}" for i in range(300)]
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"byte_fallback": True}, "no control token"),
        ({"control_symbols": list(SPECIAL_TOKENS)}, "no byte fallback"),
        (
            {"control_symbols": list(SPECIAL_TOKENS), "byte_fallback": True, "split_by_whitespace": False},
            "spans words",
        ),
    )
    for arguments, problem in cases:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words * 2 + ["the cat sat on the mat"] * 50),
            model_writer=model,
            model_type="bpe",
            vocab_size=400,
            hard_vocab_limit=False,
            minloglevel=2,
            **arguments,
        )
        with pytest.raises(UserError, match=problem):
            SentencePieceTokenizer(model.getvalue())


# The command


def test_command_trains_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "a.txt", tmp_path / "b.jsonl.gz"
    one.write_text(TEXTS[0])
    with gzip.open(two, "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in TEXTS[1:])
    out = tmp_path / "tok"
    train_tokenizer.main(["--input", str(one), "--input", str(two), "--vocab-size", "900", "--out", str(out)])
    printed = capsys.readouterr().out
    assert re.search(rf"sampled 0\.2 MB of 0\.2 MB, {len(TEXTS)} of {len(TEXTS)} documents", printed)
    assert all(name in printed for name in tokenizer_report.SAMPLES)
    meta = Tokenizer.load(out).meta
    assert meta["vocab_size"] == 900
    assert meta["sentencepiece_version"] == sentencepiece.__version__
    train_tokenizer.main(["--evaluate", str(out)])
    assert "Tokenizer of 900 tokens" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite"):
        train_tokenizer.main(["--input", str(one), "--vocab-size=900", "--out", str(out)])
    with pytest.raises(UserError, match="--out is missing"):
        train_tokenizer.main(["--input", str(one)])
    with pytest.raises(UserError, match="no input"):
        train_tokenizer.main(["--out", str(tmp_path / "other")])


def test_report_counts_every_sample(tokenizer: Tokenizer) -> None:
    ratios = {ratio.sample: ratio for ratio in tokenizer_report.measure(tokenizer)}
    assert set(ratios) == set(tokenizer_report.SAMPLES)
    assert set(tokenizer_report.GPT2_PUBLISHED) < set(ratios)
    story, chinese = ratios["story"], ratios["Chinese"]
    assert story.bytes_per_token == len(tokenizer_report.SAMPLES["story"].encode()) / story.num_tokens > 2
    assert chinese.characters_per_token * 2 < chinese.bytes_per_token
