"""transformers renders chat_template.jinja to the tokens, the text and the assistant masks of `render`."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_conversation import conversations, small_tokenizer

from samosa_jax.data.chat.conversation import Conversation, parse_conversation, to_json
from samosa_jax.data.chat.formats import detect
from samosa_jax.data.chat.template import (
    Rendered,
    Role,
    chat_template_text,
    render,
    render_text,
)
from samosa_jax.data.tokenizer import SPECIAL_TOKENS, Tokenizer

pytest.importorskip(
    "transformers", reason="transformers is not installed: the exported template is not compared"
)

from transformers import BatchEncoding, PreTrainedTokenizer

SPOKEN = (Role.ASSISTANT, Role.THINK, Role.TOOL_CALL)


class CharacterMap:
    """For one text, the token that a character lies in: what assistant masks are made with."""

    def __init__(self, pieces: list[bytes]) -> None:
        text = b"".join(pieces).decode()
        token_of_byte = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        starts = np.cumsum([0, *(len(character.encode()) for character in text[:-1])])
        self._token_of_character = token_of_byte[starts] if text else []

    def char_to_token(self, index: int, sequence_index: int = 0) -> int | None:
        return int(self._token_of_character[index]) if index < len(self._token_of_character) else None


class HuggingFaceTokenizer(PreTrainedTokenizer):
    """Our tokenizer as transformers sees one: it finds the special tokens, ours encodes what lies between."""

    def __init__(self, tokenizer: Tokenizer, **kwargs: Any) -> None:
        self.ours = tokenizer
        super().__init__(additional_special_tokens=list(SPECIAL_TOKENS), **kwargs)

    @property
    def vocab_size(self) -> int:
        return self.ours.vocab_size

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self.vocab_size)} | self.ours.special_ids

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [str(i) for i in self.ours.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.ours.special_ids[token] if token in self.ours.special_ids else int(token)

    def _convert_id_to_token(self, index: int) -> str:
        return str(index)

    def __call__(self, text: str, *args: Any, **kwargs: Any) -> BatchEncoding:
        found = super().__call__(text, *args, **kwargs)
        names = {i: name.encode() for name, i in self.ours.special_ids.items()}
        pieces = [names.get(i) or self.ours.decode_bytes([i]) for i in found["input_ids"]]
        assert b"".join(pieces).decode() == text
        found._encodings = [CharacterMap(pieces)]
        return found


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(tokenizer, chat_template=chat_template_text())


def assert_same(
    raw: dict[str, Any], tokenizer: Tokenizer, theirs: HuggingFaceTokenizer, *, for_answer: bool = False
) -> Rendered:
    """`raw` is JSON of any variant that parse_conversation takes."""
    conversation = raw_conversation(raw) if for_answer else parse_conversation(raw)
    ours = render(conversation, tokenizer, for_answer=for_answer)
    options: dict[str, Any] = {"tools": raw.get("tools"), "add_generation_prompt": for_answer}
    text = theirs.apply_chat_template(raw["messages"], tokenize=False, **options)
    assert text == render_text(conversation, for_answer=for_answer)
    found = theirs.apply_chat_template(
        raw["messages"], return_dict=True, return_assistant_tokens_mask=True, **options
    )
    assert isinstance(found, BatchEncoding)
    np.testing.assert_array_equal(found["input_ids"], ours.tokens)
    np.testing.assert_array_equal(np.array(found["assistant_masks"], bool), np.isin(ours.roles, SPOKEN))
    return ours


def raw_conversation(raw: dict[str, Any]) -> Conversation:
    """A prompt: parsed with an answer behind it, which is taken off again."""
    whole = parse_conversation(raw | {"messages": [*raw["messages"], {"role": "assistant", "content": "x"}]})
    return Conversation(messages=whole.messages[:-1], tools=whole.tools)


def rows_of(path: Path) -> list[Any]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return (
        json.loads(data)
        if data.startswith(b"[")
        else [json.loads(line) for line in data.split(b"\n") if line]
    )


def test_real_conversations_render_the_same(
    test_data: Path, tokenizer: Tokenizer, theirs: HuggingFaceTokenizer
):
    files = (
        ("dolly15k/public_training.json.gz", 80),
        ("llamafactory_demo/glaive_toolcall_en_demo.json.gz", 80),
        ("llamafactory_demo/identity.json", 30),
        ("gsm8k/train.jsonl.gz", 60),
    )
    seen: set[int] = set()
    for name, count in files:
        for row in rows_of(test_data / name)[:count]:
            found = detect(row)
            assert found is not None
            conversation = found.convert(row)
            assert isinstance(conversation, Conversation)
            seen |= {*assert_same(to_json(conversation), tokenizer, theirs).roles}
    assert seen == {*Role} - {Role.THINK}


SLOW_MACHINE = [HealthCheck.too_slow, HealthCheck.filter_too_much]
# transformers takes special tokens in the text for what they spell, so these conversations spell none.
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=12)


@st.composite
def variants(draw: st.DrawFn) -> dict[str, Any]:
    """JSON of conversations with contents as lists of parts and thoughts of their own, here and there."""
    raw = to_json(draw(conversations(PLAIN)))
    for message in raw["messages"]:
        content = message["content"]
        thought, mark, rest = content.partition("</think>")
        match draw(st.sampled_from(["canonical", "parts", "reasoning_content", "arguments as text"])):
            case "parts" if mark:
                thinking = {"type": "thinking", "thinking": thought.removeprefix("<think>")}
                message["content"] = [thinking, {"type": "text", "text": rest}]
            case "parts":
                cut = draw(st.integers(0, len(content)))
                halves = (content[:cut], content[cut:])
                message["content"] = [{"type": "text", "text": half} for half in halves]
            case "reasoning_content" if mark:
                message |= {"reasoning_content": thought.removeprefix("<think>"), "content": rest}
            case "arguments as text" if "tool_calls" in message:
                function = message["tool_calls"][0]["function"]
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return raw


@settings(max_examples=120, suppress_health_check=SLOW_MACHINE)
@given(raw=variants())
def test_made_conversations_render_the_same(
    tokenizer: Tokenizer, theirs: HuggingFaceTokenizer, raw: dict[str, Any]
):
    assert_same(raw, tokenizer, theirs)


@settings(max_examples=30, suppress_health_check=SLOW_MACHINE)
@given(raw=variants(), data=st.data())
def test_prompts_render_the_same(
    tokenizer: Tokenizer, theirs: HuggingFaceTokenizer, raw: dict[str, Any], data: st.DataObject
):
    ends = [i for i, message in enumerate(raw["messages"], start=1) if message["role"] in ("user", "tool")]
    prompt = raw | {"messages": raw["messages"][: data.draw(st.sampled_from(ends))]}
    ours = assert_same(prompt, tokenizer, theirs, for_answer=True)
    last = tokenizer.special_ids[
        "<|assistant_start|>" if prompt["messages"][-1]["role"] == "user" else "<|output_end|>"
    ]
    assert ours.tokens[-1] == last


def test_calculations_and_several_calls_in_a_message_render_the_same(
    tokenizer: Tokenizer, theirs: HuggingFaceTokenizer
):
    def call(name: str, number: int) -> dict[str, Any]:
        return {"id": str(number), "type": "function", "function": {"name": name, "arguments": {"é": number}}}

    parts = [
        {"type": "text", "text": "<think> so </think>\n 48/2 = "},
        {"type": "python", "text": "48/2"},
        {"type": "python_output", "text": "24"},
        {"type": "text", "text": "24 é"},
        {"type": "python", "text": "24+48"},
        {"type": "python_output", "text": "72"},
        {"type": "text", "text": "72 ☃"},
    ]
    messages = [
        {"role": "developer", "content": " Calculate. "},
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": parts},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": None, "tool_calls": [call("one", 1), call("two", 2)]},
        {"role": "tool", "tool_call_id": "2", "content": "second"},
        {"role": "tool", "tool_call_id": "1", "content": "first"},
        {"role": "assistant", "content": "Both.", "tool_calls": [call("three", 3), call("four", 4)]},
        {"role": "tool", "content": "third"},
        {"role": "tool", "content": "fourth"},
        {"role": "assistant", "content": "<think></think>Done ☃"},
    ]
    assert_same({"messages": messages}, tokenizer, theirs)
    text = render_text(parse_conversation({"messages": messages}))
    assert [
        text.index(word) for word in ("one", "first", "two", "second", "three", "third", "four")
    ] == sorted(text.index(word) for word in ("one", "first", "two", "second", "three", "third", "four"))


LATE_GENERATION = "{{- speech(said.think, said.text) -}}{%- generation -%}"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("<|user_end|>", "<|user_end|> "),
        (" | trim ~ '<|user_end|>'", " ~ '<|user_end|>'"),
        ("You may call", "You might call"),
        ("{%- generation -%}", "{%- if true -%}"),
        ("{%- generation -%}\n        {{- speech(said.think, said.text) -}}", LATE_GENERATION),
    ],
)
def test_another_template_is_told_from_ours(tokenizer: Tokenizer, right: str, wrong: str):
    changed = chat_template_text().replace(right, wrong)
    if "if true" in wrong:
        changed = changed.replace("{%- endgeneration -%}", "{%- endif -%}")
        changed += "{% generation %}{% endgeneration %}"  # transformers asks for one at least
    assert changed != chat_template_text()
    messages = [{"role": "user", "content": " a "}, {"role": "assistant", "content": "b"}]
    raw = {"messages": messages, "tools": [{"name": "c"}]}
    with pytest.raises(AssertionError):
        assert_same(raw, tokenizer, HuggingFaceTokenizer(tokenizer, chat_template=changed))
    assert_same(raw, tokenizer, HuggingFaceTokenizer(tokenizer, chat_template=chat_template_text()))


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "narrator", "content": "x"}], "message 0 has the role narrator"),
        (
            [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}],
            "message 1 has the role system",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "image"}]}],
            "a part of the type image",
        ),
    ],
)
def test_what_the_template_cannot_render_it_names(
    theirs: HuggingFaceTokenizer, messages: list[dict[str, Any]], text: str
):
    with pytest.raises(Exception, match=text):
        theirs.apply_chat_template(messages, tokenize=False)
