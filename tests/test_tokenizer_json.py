"""What we write for transformers gives the ids, the text and the chats that we give ourselves."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_strings import mixed_strings
from test_tokenizer import NASTY, TEXTS, make_model

from samosa_jax.convert.bpe_merges import find_merges
from samosa_jax.convert.tokenizer_json import (
    CONFIG_FILE,
    PAD,
    TOKENIZER_FILE,
    tokenizer_json,
    write_tokenizer,
)
from samosa_jax.data.chat.conversation import parse_conversation
from samosa_jax.data.chat.template import render
from samosa_jax.data.tokenizer import SPECIAL_TOKENS, SentencePieceTokenizer
from samosa_jax.errors import UserError

pytest.importorskip("tokenizers", reason="tokenizers is not installed: what we write for it is not read back")
pytest.importorskip("transformers", reason="transformers is not installed: the export is not compared")

from tokenizers import Tokenizer as Library
from tokenizers import models
from transformers import AutoTokenizer

CONTEXT_LEN = 20_000
CHATS: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": " hi\n"}, {"role": "assistant", "content": "Hello  you!"}]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2+2? 日本 \u2581"},
            {"role": "assistant", "content": "<think>easy</think>4\n\n\tok"},
            {"role": "user", "content": "and 3*3?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I count: "},
                    {"type": "python", "text": "3*3"},
                    {"type": "python_output", "text": "9"},
                    {"type": "text", "text": "It is 9."},
                ],
            },
        ]
    },
)


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(make_model(2_000))


@pytest.fixture(scope="module")
def folder(tokenizer: SentencePieceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export")
    write_tokenizer(tokenizer, path, context_len=CONTEXT_LEN)
    return path


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_ids_and_text_are_equal(tokenizer: SentencePieceTokenizer, theirs: Any) -> None:
    strings = [*NASTY, *TEXTS[:200], *mixed_strings(10_000, TEXTS)]
    plain = [text for text in strings if not any(name in text for name in (*SPECIAL_TOKENS, PAD))]
    assert len(plain) > 10_000
    found = theirs(plain, add_special_tokens=False)["input_ids"]
    for text, ids in zip(plain, found, strict=True):
        assert ids == tokenizer.encode(text), text
        assert theirs.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == text


def test_every_code_point_is_equal(tokenizer: SentencePieceTokenizer, folder: Path) -> None:
    library = Library.from_file(str(folder / TOKENIZER_FILE))
    for start in range(0, 0x110000, 0x400):
        text = "".join(chr(i) for i in range(start, start + 0x400) if not 0xD800 <= i < 0xE000)
        assert library.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_special_tokens_have_their_roles(tokenizer: SentencePieceTokenizer, theirs: Any) -> None:
    special = tokenizer.special_ids
    assert {name: theirs.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS} == special
    assert (theirs.bos_token_id, theirs.eos_token_id) == (special["<|bos|>"], special["<|assistant_end|>"])
    assert theirs.pad_token_id == tokenizer.unknown_id not in special.values()
    assert theirs.model_max_length == CONTEXT_LEN
    assert theirs("hi there")["input_ids"] == [tokenizer.bos_id, *tokenizer.encode("hi there")]
    text = "a <|user_end|>\n b<think>"
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.encode_with_specials(text) != tokenizer.encode(text)
    assert theirs.decode(ids) == text
    assert theirs.decode([*ids, tokenizer.unknown_id], skip_special_tokens=True) == "a \n b"
    padded = theirs(["a", "a b c d"], padding=True)
    assert padded["attention_mask"][0].count(0) == padded["input_ids"][0].count(tokenizer.unknown_id) > 0


@pytest.mark.parametrize("raw", CHATS)
def test_chats_are_rendered_equal(
    tokenizer: SentencePieceTokenizer, theirs: Any, raw: dict[str, Any]
) -> None:
    ours = render(parse_conversation(raw), tokenizer).tokens.tolist()
    assert theirs.apply_chat_template(raw["messages"], return_dict=True)["input_ids"] == ours
    prompt = theirs.apply_chat_template(raw["messages"][:-1], add_generation_prompt=True, return_dict=True)
    opened = ours.index(tokenizer.special_ids["<|assistant_start|>"], len(prompt["input_ids"]) - 1)
    assert prompt["input_ids"] == ours[: opened + 1]


def test_merges_in_another_order_are_seen(tokenizer: SentencePieceTokenizer) -> None:
    """The comparison above is of a kind that notices one wrong merge."""
    spec = json.loads(tokenizer_json(tokenizer))
    merges = spec["model"]["merges"]
    merges[100:160] = merges[159:99:-1]
    library = Library.from_str(json.dumps(spec))
    differing = [
        text
        for text in TEXTS[:100]
        if library.encode(text, add_special_tokens=False).ids != tokenizer.encode(text)
    ]
    assert len(differing) > 50


@given(
    st.sets(st.text("ab", min_size=2, max_size=6), min_size=1, max_size=14),
    st.randoms(use_true_random=False),
    st.lists(st.text("ab", max_size=24), min_size=1, max_size=8),
)
@settings(max_examples=300)
def test_one_pair_per_token_is_enough(tokens: set[str], rng: Any, words: list[str]) -> None:
    """Any ranks, not only those of training, and text full of overlaps: as joining by rank and place."""
    order = sorted(tokens)
    rng.shuffle(order)
    ranks = {token: rank for rank, token in enumerate(order)}
    vocab = {token: i for i, token in enumerate(["a", "b", *order])}
    library = Library(models.BPE(vocab=vocab, merges=find_merges(tokens, ranks)))
    for word in words:
        assert library.encode(word).tokens == _joined(word, ranks)


def _joined(word: str, ranks: dict[str, int]) -> list[str]:
    parts = list(word)
    while True:
        known = [
            (ranks[parts[i] + parts[i + 1]], i)
            for i in range(len(parts) - 1)
            if parts[i] + parts[i + 1] in ranks
        ]
        if not known:
            return parts
        _, place = min(known)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def test_what_cannot_be_expressed_is_refused(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    class Tied(SentencePieceTokenizer):
        def scores(self) -> dict[str, float]:
            scores = super().scores()
            return scores | {"▁the": scores["▁a"]}

    with pytest.raises(UserError, match=r"' a' and ' the'.*same score.*train_tokenizer"):
        write_tokenizer(Tied(tokenizer.model), tmp_path, context_len=8)
    assert not list(tmp_path.iterdir())


def test_a_token_spelled_as_padding_keeps_its_place(tokenizer: SentencePieceTokenizer) -> None:
    class Learned(SentencePieceTokenizer):
        def __init__(self, model: bytes) -> None:
            super().__init__(model)
            self.pieces = [*self.pieces[:-1], PAD]

    spec = json.loads(tokenizer_json(Learned(tokenizer.model)))
    assert spec["model"]["vocab"][PAD] == tokenizer.vocab_size - 1
    assert spec["added_tokens"][0]["content"] == "<unk>"
    assert len(spec["model"]["vocab"]) == tokenizer.vocab_size


def test_settings_are_plain(folder: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["clean_up_tokenization_spaces"] is False
    assert not [key for key in config if "auto_map" in key]
