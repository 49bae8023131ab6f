"""Tokenizers of other models keep their ids, and serve like our own, with the special tokens of our chats."""

import json
import os
import pickle
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import training_runs
from mixed_strings import mixed_strings

from samosa_jax import prepare
from samosa_jax.command_line import parse_config
from samosa_jax.convert.tiktoken_pickle import read_tiktoken_pickle
from samosa_jax.convert.tokenizer_import import import_tokenizer
from samosa_jax.convert.tokenizer_json import write_tokenizer
from samosa_jax.data.chat.conversation import parse_conversation
from samosa_jax.data.chat.template import render
from samosa_jax.data.imported_tokenizer import ImportedTokenizer
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import META_FILE, SPECIAL_TOKENS, Tokenizer
from samosa_jax.data.tokenizer_training import write
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.trained import open_trained
from samosa_jax.training.run_folder import RunFolder

pytest.importorskip("tokenizers", reason="tokenizers is not installed: imported tokenizers cannot be tried")
pytest.importorskip("transformers", reason="transformers is not installed: ids are not compared")

import foreign_tokenizers
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llama3": foreign_tokenizers.llama3,
    "qwen3": foreign_tokenizers.qwen3,
    "llama2": foreign_tokenizers.llama2,
    "llama2_metaspace": lambda folder: foreign_tokenizers.llama2(folder, by_metaspace=True),
}
TEXTS = foreign_tokenizers.texts()
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+2? <|user_end|>"},
        {"role": "assistant", "content": "<think>easy</think>It is 4."},
    ]
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def source(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[family](tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def tokenizer(source: Path) -> ImportedTokenizer:
    return import_tokenizer(source, vocab_rows=1_000)


def strings(count: int, names: list[str]) -> list[str]:
    """Mixed text that spells none of these special tokens."""
    found = [*TEXTS, *mixed_strings(count, TEXTS)]
    return [text for text in found if not any(name in text for name in names)]


def test_ids_are_those_of_the_source(family: str, source: Path, tokenizer: ImportedTokenizer) -> None:
    names = ["<unk>", "<s>", "</s>", *SPECIAL_TOKENS]
    plain = strings(10_000, names)
    if family.startswith("llama2"):
        library = Library.from_str(_without_prefix((source / "tokenizer.json").read_text()))
        encoded = [found.ids for found in library.encode_batch(plain, add_special_tokens=False)]
    else:
        encoded = AutoTokenizer.from_pretrained(source)(plain, add_special_tokens=False)["input_ids"]
    for text, ids in zip(plain, encoded, strict=True):
        assert tokenizer.encode(text) == ids, text


def _without_prefix(text: str) -> str:
    """Without the space that Llama 2 puts before every text."""
    spec = json.loads(text)
    if spec["normalizer"]:
        spec["normalizer"] = spec["normalizer"]["normalizers"][1]
    else:
        spec["pre_tokenizer"]["prepend_scheme"] = "never"
    return json.dumps(spec)


def test_text_and_bytes_come_back(family: str, tokenizer: ImportedTokenizer) -> None:
    specials = set(tokenizer.special_ids.values())
    num_changed = 0
    for text in [*strings(2_000, []), *SPECIAL_TOKENS, " x", ""]:
        ids = tokenizer.encode(text)
        assert not specials & set(ids)
        assert tokenizer.token_bytes[ids].sum() == len(tokenizer.decode_bytes(ids))
        num_changed += tokenizer.decode(ids) != text
    # Qwen composes accents; Llama 2 reads its mark for a space as a space.
    assert (num_changed > 0) == (family != "llama3")
    for data in (b"\xff\xfe ok \x80", b"caf\xc3", b"a\xed\xa0\x80b", bytes(range(256))):
        assert tokenizer.decode_bytes(tokenizer.encode(data)) == data
    assert tokenizer.decode_bytes(tokenizer.encode("a\udc80")) == b"a\xed\xb2\x80"


def test_special_tokens_find_their_places(family: str, tokenizer: ImportedTokenizer) -> None:
    origin = tokenizer.meta["origin"]
    assert isinstance(origin, dict)
    first_free = origin["num_tokens"]
    ids = list(tokenizer.special_ids.values())
    assert len(set(ids)) == len(SPECIAL_TOKENS)
    assert tokenizer.vocab_size == 1_000
    assert tokenizer.num_new_rows == 0
    if family == "llama3":  # all fit among the tokens in reserve
        assert tokenizer.special_names["<|bos|>"] == "<|begin_of_text|>"
        assert max(ids) < first_free
        assert origin["renamed"]["<|reserved_special_token_0|>"] == "<|user_start|>"
        assert tokenizer.pad_name == "<|finetune_right_pad_id|>"
    elif family == "qwen3":  # <think> exists; eight are new, and padding is the document's own token
        assert tokenizer.special_names["<|bos|>"] == tokenizer.pad_name == "<|endoftext|>"
        assert sorted(origin["new_tokens"].values()) == list(range(first_free, first_free + 8))
        assert tokenizer.special_ids["<think>"] < first_free
        assert tokenizer.decode(tokenizer.encode("<tool_call>")) == "<tool_call>"
        assert len(tokenizer.encode("<tool_call>")) == 1 < len(tokenizer.encode("<think>"))
    else:
        assert tokenizer.special_names["<|bos|>"] == "<s>"
        assert sorted(origin["new_tokens"].values()) == list(range(first_free, first_free + 10))
        assert origin["dropped_prefix_space"]
    assert tokenizer.decode([999, *tokenizer.encode("a")]) == "a"  # a row that stands for nothing
    shown = tokenizer.decode([tokenizer.bos_id, tokenizer.special_ids["</think>"]], show_specials=True)
    assert shown == "<|bos|></think>"
    text = "<|bos|>a<think>b"
    with_specials = tokenizer.encode_with_specials(text)
    assert tokenizer.decode(with_specials, show_specials=True) == text
    assert with_specials[0] == tokenizer.bos_id


def test_rows_decide_how_many_are_new(source: Path) -> None:
    free = import_tokenizer(source)
    origin: Any = free.meta["origin"]
    appended = free.vocab_size - origin["num_tokens"]
    assert free.num_new_rows == appended
    exact = import_tokenizer(source, vocab_rows=origin["num_tokens"])
    assert (exact.vocab_size, exact.num_new_rows) == (free.vocab_size, appended)
    with pytest.raises(UserError, match=r"has \d+ tokens, but the model's embedding has 500 rows"):
        import_tokenizer(source, vocab_rows=500)


def test_it_is_saved_pickled_and_shared(tokenizer: ImportedTokenizer, tmp_path: Path) -> None:
    write(tokenizer, tmp_path / "tok")
    texts = [*strings(100, []), b"\xff raw"]
    expected = [tokenizer.encode(text) for text in texts]
    for other in (Tokenizer.load(tmp_path / "tok"), pickle.loads(pickle.dumps(tokenizer))):
        assert isinstance(other, ImportedTokenizer)
        assert (other.fingerprint, other.vocab_size) == (tokenizer.fingerprint, tokenizer.vocab_size)
        assert (other.special_names, other.pad_name) == (tokenizer.special_names, tokenizer.pad_name)
        np.testing.assert_array_equal(other.token_bytes, tokenizer.token_bytes)
        for num_threads in (1, 2):
            assert [ids.tolist() for ids in other.encode_batch(texts, num_threads=num_threads)] == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, texts * 8)) == expected * 8


def test_it_goes_out_again(tokenizer: ImportedTokenizer, tmp_path: Path) -> None:
    write_tokenizer(tokenizer, tmp_path, context_len=512)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    names = [token.content for token in theirs.added_tokens_decoder.values()]
    for text in strings(1_000, names):
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert theirs("hi")["input_ids"] == [tokenizer.bos_id, *tokenizer.encode("hi")]
    assert theirs.eos_token_id == tokenizer.special_ids["<|assistant_end|>"]
    raw = json.loads(json.dumps(CHAT).replace(" <|user_end|>", ""))
    ours = render(parse_conversation(raw), tokenizer).tokens.tolist()
    assert theirs.apply_chat_template(raw["messages"], return_dict=True)["input_ids"] == ours
    # A second import finds every token where the first has put it.
    again = import_tokenizer(tmp_path, vocab_rows=1_000)
    assert again.special_ids == tokenizer.special_ids
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_our_own_export_comes_in(tmp_path: Path) -> None:
    from test_tokenizer import make_model

    from samosa_jax.data.tokenizer import SentencePieceTokenizer

    ours = SentencePieceTokenizer(make_model())
    write_tokenizer(ours, tmp_path, context_len=512)
    again = import_tokenizer(tmp_path, vocab_rows=ours.vocab_size)
    assert (again.vocab_size, again.special_ids) == (ours.vocab_size, ours.special_ids)
    for text in [*strings(2_000, []), b"\xff\x00 \xe2\x96\x81"]:
        assert again.encode(text) == ours.encode(text)
    np.testing.assert_array_equal(again.token_bytes, ours.token_bytes)


def test_text_is_prepared_with_it(tokenizer: ImportedTokenizer, tmp_path: Path) -> None:
    write(tokenizer, tmp_path / "tok")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    arguments = {"input": tmp_path / "a.jsonl", "tokenizer": tmp_path / "tok", "out": tmp_path / "data"}
    prepare.main([f"--{name}={value}" for name, value in arguments.items()])
    shards = ShardSet.open(tmp_path / "data", split="train")
    copy = Tokenizer.load(shards.tokenizer_dir)
    assert copy.fingerprint == tokenizer.fingerprint
    documents = {copy.decode(shards.document(i)) for i in range(shards.num_documents)}
    assert documents <= {tokenizer.decode(tokenizer.encode(text)) for text in TEXTS}
    assert shards.document(0)[0] == tokenizer.bos_id


def test_a_trained_model_is_opened_with_it(tokenizer: ImportedTokenizer, tmp_path: Path) -> None:
    flags = training_runs.flags(tmp_path, tmp_path, {"model.vocab_size": tokenizer.vocab_size})
    config = parse_config(flags).config
    params = Network.build(config.model, compute_dtype="float32").init(jax.random.key(0))
    training_runs.save_run(tmp_path / "run", config, tokenizer, params)
    with pytest.raises(UserError, match="was trained with tokenizer"):
        open_trained(tmp_path / "run")
    RunFolder(tmp_path / "run").keep_tokenizer(tokenizer)
    assert isinstance(open_trained(tmp_path / "run").tokenizer, ImportedTokenizer)


# nanochat


@pytest.fixture(scope="module")
def nanochat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    pytest.importorskip(
        "tiktoken", reason="tiktoken is not installed: nanochat's tokenizers are not compared"
    )
    folder = tmp_path_factory.mktemp("nanochat")
    return folder, foreign_tokenizers.nanochat(
        folder, [name for name in SPECIAL_TOKENS if "think" not in name]
    )


def test_nanochat_pickles_keep_their_ids(nanochat: tuple[Path, Any]) -> None:
    folder, encoding = nanochat
    tokenizer = import_tokenizer(folder, vocab_rows=encoding.n_vocab)
    for text in strings(10_000, []):
        assert tokenizer.encode(text) == encoding.encode_ordinary(text), text
    for name in set(SPECIAL_TOKENS) - {"<think>", "</think>"}:
        assert tokenizer.special_ids[name] == encoding.encode_single_token(name)
    assert tokenizer.num_new_rows == 2
    assert tokenizer.special_ids["</think>"] == tokenizer.vocab_size - 1 == encoding.n_vocab + 1
    for i in range(encoding.n_vocab - 9):
        assert tokenizer.decode_bytes([i]) == encoding.decode_single_token_bytes(i)


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


class Hidden:
    """A call inside of what looks like the right state."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (self.kind,), {"pat_str": Malicious()}


def test_pickles_run_nothing(nanochat: tuple[Path, Any], tmp_path: Path, monkeypatch: Any) -> None:
    _, encoding = nanochat
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "pwned").exists()  # so it would have run
    (tmp_path / "pwned").unlink()
    path = tmp_path / "tokenizer.pkl"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Malicious(), protocol))
        with pytest.raises(UserError, match=r"tokenizer.pkl asks for posix\.system.*do not trust"):
            import_tokenizer(tmp_path)
        path.write_bytes(pickle.dumps(Hidden(type(encoding)), protocol))
        with pytest.raises(UserError, match="asks for"):
            import_tokenizer(tmp_path)
    for code, name in (
        (b"cbuiltins\neval\n.", "builtins.eval"),
        (b"\x80\x02Pxyz\n.", "outside object 'xyz'"),
    ):
        path.write_bytes(code)
        with pytest.raises(UserError, match=name):
            read_tiktoken_pickle(path)
    assert not (tmp_path / "pwned").exists()


def test_damaged_pickles_are_named(
    nanochat: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoding = nanochat
    path = tmp_path / "tokenizer.pkl"
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor tokenizer\.pkl"):
        import_tokenizer(tmp_path)
    good = pickle.dumps(encoding)
    for data in (b"", good[:-40], b"garbage"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not a readable pickle"):
            import_tokenizer(tmp_path)
    path.write_bytes(pickle.dumps({"pat_str": "x"}))
    with pytest.raises(UserError, match=r"no tiktoken\.Encoding"):
        import_tokenizer(tmp_path)
    state = encoding.__getstate__()
    cases: tuple[tuple[dict[str, Any] | str, str], ...] = (
        ("cl100k_base", "only names the public encoding cl100k_base"),
        (state | {"pat_str": None}, "without a pattern"),
        (state | {"special_tokens": {1: 2}}, "without tables"),
        (state | {"special_tokens": {"<|bos|>": 5}}, "two tokens have one id"),
    )
    for changed, problem in cases:
        monkeypatch.setattr(type(encoding), "__getstate__", lambda self, changed=changed: changed)
        path.write_bytes(pickle.dumps(encoding))
        with pytest.raises(UserError, match=problem):
            import_tokenizer(tmp_path)


# What is refused


def test_foreign_kinds_are_refused(tmp_path: Path) -> None:
    path = foreign_tokenizers.qwen3(tmp_path) / "tokenizer.json"
    good = json.loads(path.read_text())
    vocab = good["model"]["vocab"]
    without_byte = good["model"] | {
        "vocab": {"lost" if token == "ÿ" else token: i for token, i in vocab.items()}
    }
    gap = [token | {"id": token["id"] + 3} for token in good["added_tokens"]]
    cases: tuple[tuple[object, str], ...] = (
        ([], "model of type None; only BPE"),
        (good | {"model": {"type": "Unigram", "vocab": []}}, "model of type Unigram; only BPE"),
        (good | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "decoder of WordPiece"),
        (good | {"decoder": None}, "decoder of no steps"),
        (good | {"model": good["model"] | {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix '</w>'"),
        (good | {"model": without_byte}, "byte 0xFF"),
        (good | {"added_tokens": gap}, "gives the added token <|endoftext|> the id"),
        (good | {"normalizer": {"type": "Unheard"}}, "library cannot read"),
    )
    for spec, problem in cases:
        path.write_text(json.dumps(spec))
        with pytest.raises(UserError, match=re.escape(problem)) as caught:
            import_tokenizer(tmp_path)
        assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        import_tokenizer(tmp_path)
    path.write_text(json.dumps(good))
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is not a JSON object"):
        import_tokenizer(tmp_path)


def test_damaged_folders_are_named(tokenizer: ImportedTokenizer, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"incomplete.*{META_FILE}.*samosa import"):
        Tokenizer.load(source)  # not imported yet
    write(tokenizer, tmp_path / "tok")
    model, meta = tmp_path / "tok" / "tokenizer.json", tmp_path / "tok" / META_FILE
    good, recorded = model.read_bytes(), json.loads(meta.read_text())
    model.write_bytes(good.replace(b"ab", b"ba", 1))
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged.*expected"):
        Tokenizer.load(tmp_path / "tok")
    model.write_bytes(good)
    for change, problem in (
        ({"special_names": {}}, "lacks '<|bos|>'"),
        ({"vocab_size": 300}, "recorded vocabulary has 300"),
        (
            {"special_names": recorded["special_names"] | {"<think>": "<nothing>"}},
            "no special token <nothing>",
        ),
    ):
        meta.write_text(json.dumps(recorded | change))
        with pytest.raises(UserError, match=re.escape(problem)):
            Tokenizer.load(tmp_path / "tok")


def test_the_missing_library_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'samosa-jax\[torch\]'"):
        import_tokenizer(source)
