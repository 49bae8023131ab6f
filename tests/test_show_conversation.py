"""`prepare show` prints roles, weights and special tokens, in colour on a terminal and in lines elsewhere."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from test_conversation import small_tokenizer

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.data.chat.reading import Example
from samosa_jax.data.chat.template import Role, render
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.show_conversation import main, print_conversation, runs

CONVERSATION = Conversation(
    messages=(
        Message(role="system", text="Be kind."),
        Message(role="user", text="2+3?\n<|bos|>"),
        Message(role="assistant", think="easy", tool_call=ToolCall("f", {})),
        Message(role="tool", text="5\x1b[2J"),
        Message(role="assistant", text="Five."),
        Message(role="user", text="Thanks"),
        Message(role="assistant", text="Bye"),
    )
)
LINES = [
    "structure       0  <|bos|>",
    "human           0  <|user_start|>",
    "system          0  Be kind.\\n\\n",
    "human           0  2+3?\\n<|bos|><|user_end|>",
    "structure       0  <|assistant_start|>",
    "think         0.5  <think>easy</think>",
    'tool_call       1  <|python_start|>{"tool": "f", "arguments": {}}<|python_end|>',
    "tool_result     0  <|output_start|>5\\x1b[2J<|output_end|>",
    "assistant       1  Five.<|assistant_end|>",
    "human           0  <|user_start|>Thanks<|user_end|>",
    "structure       0  <|assistant_start|>",
    "assistant       1  Bye<|assistant_end|>",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
        for i in range(5)
    ]
    rows[1]["messages"].pop()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


WEIGHTS = {Role.THINK: 0.5, Role.ASSISTANT: 1.0, Role.TOOL_CALL: 1.0}
ALL_WEIGHTS = {role: WEIGHTS.get(role, 0.0) for role in Role}


def shown(tokenizer: Tokenizer | None, *, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=terminal, color_system="standard" if terminal else None, width=80
    )
    print_conversation(console, Example(CONVERSATION, "chats.jsonl", 7, {}), ALL_WEIGHTS, tokenizer)
    return file.getvalue()


def test_every_run_of_a_role_is_a_line():
    headline, *lines = shown(None, terminal=False).splitlines()
    assert headline == "chats.jsonl: row 7, 7 messages"
    assert lines == LINES


def test_runs_count_the_tokens_that_render_gives():
    tokenizer = small_tokenizer(600)
    rendered = render(CONVERSATION, tokenizer)
    found = list(runs(CONVERSATION, tokenizer))
    roles = [run.role for run in found for _ in range(run.num_tokens or 0)]
    assert roles == rendered.roles.tolist()
    starts = [sum(run.num_tokens or 0 for run in found[:i]) for i, run in enumerate(found) if run.begins_turn]
    assert starts == rendered.begins_turn.nonzero()[0].tolist()
    headline, first, *_ = shown(tokenizer, terminal=False).splitlines()
    learned = sum(ALL_WEIGHTS[Role(role)] > 0 for role in rendered.roles)
    assert headline == f"chats.jsonl: row 7, 7 messages, {len(roles)} tokens, {learned} with weight"
    assert first == "structure       0     1  <|bos|>"


def test_a_terminal_shows_colours_dim_thoughts_and_special_tokens_apart_from_text():
    text = shown(None, terminal=True)
    assert "\x1b[2;3measy\x1b[0m" in text
    assert "\x1b[32mFive.\x1b[0m" in text
    assert "\x1b[7;90m<|bos|>\x1b[0m" in text  # the token, in reverse
    assert "<|bos|>\x1b[0m\x1b[7;36m<|user_end|>" in text  # the user's text, which only spells it
    assert "×0.5" in text
    assert "\x1b[2J" not in text


def lines_of(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    main(list(argv))
    return [line for line in capsys.readouterr().out.splitlines() if "row" in line]


def test_rows_are_chosen_by_number(file: Path, capsys: pytest.CaptureFixture[str]):
    assert lines_of(capsys, str(file)) == [f"{file}: row {row}, 2 messages" for row in (1, 3, 4)]
    assert lines_of(capsys, str(file), "--row=4", "--count=9") == [
        f"{file}: row {row}, 2 messages" for row in (4, 5)
    ]
    main([str(file), "--count=1", "--weights=pretrain"])
    assert "human           1  <|user_start|>q0<|user_end|>" in capsys.readouterr().out


def test_what_cannot_be_shown_is_named(file: Path):
    with pytest.raises(UserError, match="row 2: no message is the assistant's"):
        main([str(file), "--row=2"])
    with pytest.raises(UserError, match=r"nothing to show from row 9 on; it has 5 rows"):
        main([str(file), "--row=9"])
    with pytest.raises(UserError, match="--row=0 --count=0 shows nothing"):
        main([str(file), "--count=0"])
