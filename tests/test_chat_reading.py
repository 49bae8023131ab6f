"""Files of conversations are read whole in every kind and format; bad rows and files are named or counted."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import Hub, serve
from test_chat_formats import GPT, HI, HUMAN, PLAIN, ROWS, SIDES, result, says, sum_of, user

from samosa_jax.data.chat.conversation import Message, check
from samosa_jax.data.chat.formats import detect
from samosa_jax.data.chat.reading import ReadStatistics, read_conversations, read_preferences
from samosa_jax.data.readers import UnreadableRow, read_objects
from samosa_jax.errors import UserError

NINES = "9" * 5000  # more digits than Python makes an integer of


def write_lines(path: Path, rows: list[Any]) -> Path:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("row", "reason", "text"),
    [
        ({"messages": HI[:1]}, "no assistant turn", "no message is the assistant's"),
        (
            {"conversations": [HUMAN, {"from": "cat", "value": "miau"}]},
            "unknown role",
            "message 1 is from 'cat'",
        ),
        (
            {"conversations": [HUMAN, {"from": "function_call", "value": "find x"}, GPT]},
            "tool call is not JSON",
            "message 1, a function_call: not JSON",
        ),
        (
            {"conversation": [HI[0], HI[1] | {"content": "<|python_start|>{oops<|python_end|>"}]},
            "tool call is not JSON",
            "message 1, a tool call: not JSON",
        ),
        (
            {"conversation": [HI[0], HI[1] | {"content": "a<|python_start|>1+1<|python_end|>b"}]},
            "tool call without result",
            "expected the result of the tool call",
        ),
        (
            {"conversation": [HI[0], HI[1] | {"content": "a<|output_start|>1<|output_end|>b"}]},
            "wrong order",
            "a result that no call is right before",
        ),
        (
            {"conversation": [HI[0], HI[1] | {"content": "a<|python_start|>1"}]},
            "malformed",
            "<|python_start|> without its partner",
        ),
        (
            {"conversations": [HUMAN, {"from": "gpt", "value": "<|begin_of_thought|>hm"}]},
            "unbalanced think",
            "<|begin_of_thought|> is not balanced",
        ),
        ({"problem": "a", "generated_solution": "<think>b"}, "unbalanced think", "<think> is not balanced"),
        (
            {"prompt": "hi", "chosen": "same", "rejected": "same\n"},
            "equal sides",
            "chosen and rejected are equal",
        ),
        (
            {"chosen": HI, "rejected": [HI[0] | {"content": "other"}, HI[1]]},
            "malformed",
            "chosen and rejected answer different prompts",
        ),
        ({"question": "?", "choices": ["a"], "answer": 1}, "malformed", "none of the 1 choices"),
        ({"dialog": ["hi"]}, "no assistant turn", "it has no messages"),
        ({"dialog": ["hi", None]}, "malformed", "utterance 1 is a NoneType, expected text"),
        (
            {"conversation": [HI[0], HI[1] | {"content": f'<|python_start|>{{"a": {NINES}}}<|python_end|>'}]},
            "tool call is not JSON",
            "message 1, a tool call: not JSON",
        ),
        ({"instruction": "hi", "output": " "}, "empty message", "message 1: the assistant says nothing"),
        ({"instruction": "hi", "output": "ho", "input": 3}, "malformed", '"input" is a int, expected text'),
    ],
)
def test_bad_rows_are_named_or_counted(tmp_path: Path, row: Any, reason: str, text: str):
    is_pair = "chosen" in row
    good = (
        {"prompt": "hi", **SIDES}
        if "prompt" in row
        else {"chosen": HI, "rejected": [HI[0], HI[1] | {"content": "no"}]}
    )
    if not is_pair:
        good = next(example for name, example, _ in ROWS if name == getattr(detect(row), "name", ""))
    path = write_lines(tmp_path / "rows.jsonl", [good, row, good])
    read = read_preferences if is_pair else read_conversations
    with pytest.raises(UserError) as caught:
        list(read([path]))
    message = str(caught.value)
    assert message.startswith(f"{path}: row 2: ")
    assert text in message
    assert "\n" not in message
    statistics = ReadStatistics()
    assert [example.row for example in read([path], on_bad_row="skip", statistics=statistics)] == [1, 3]
    assert statistics.bad == Counter([reason])
    assert (statistics.rows, statistics.kept) == (3, 2)


def reply(text: str, *replies: Any, **fields: Any) -> dict[str, Any]:
    role = fields.pop("role", "assistant")
    return {"message_id": text, "text": text, "role": role, "replies": list(replies), **fields}


TREE = {
    "message_tree_id": "q",
    "tree_state": "ready_for_export",
    "prompt": reply(
        "q",
        reply("worse", rank=1),
        reply(
            "better",
            reply("and?", reply("so.", rank=None), role="prompter"),
            reply("thanks", role="prompter"),
            rank=0,
        ),
        reply("gone", rank=-1, deleted=True),
        reply("unranked"),
        role="prompter",
    ),
}
BEST = (user("q"), says("better"), user("and?"), says("so."))


def flat(node: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    fields = {key: value for key, value in node.items() if key != "replies"}
    row = {"parent_id": parent, "rank": None, "deleted": False} | fields
    return [row, *(message for below in node["replies"] for message in flat(below, node["message_id"]))]


def messages_of(path: Path, **options: Any) -> list[tuple[Message, ...]]:
    return [example.value.messages for example in read_conversations([path], **options)]


def test_trees_and_their_single_messages_give_the_same_paths(tmp_path: Path):
    trees = write_lines(tmp_path / "trees.jsonl", [TREE])
    second = reply("p", reply("r"), role="prompter")
    root, *replies = flat(TREE["prompt"])
    rows = [*replies, *flat(second), root]
    singles = write_lines(tmp_path / "messages.jsonl", rows)
    assert messages_of(trees) == [BEST]
    assert sorted(messages_of(singles), key=len) == [(user("p"), says("r")), BEST]
    every = [(user("q"), says("worse")), BEST, (user("q"), says("unranked"))]
    assert messages_of(trees, every_path=True) == every
    table = tmp_path / "messages.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat(TREE["prompt"])), table)
    assert messages_of(table, every_path=True) == every


def test_a_message_whose_parent_is_missing_is_bad(tmp_path: Path):
    path = write_lines(tmp_path / "rows.jsonl", [*flat(TREE["prompt"]), *flat(reply("x"), "nowhere")])
    with pytest.raises(UserError, match=r"row 9: its parent nowhere is not in the file"):
        messages_of(path)
    statistics = ReadStatistics()
    assert messages_of(path, on_bad_row="skip", statistics=statistics) == [BEST]
    assert sum(statistics.bad.values()) == 1


def test_files_of_every_kind_hold_the_same_rows(tmp_path: Path):
    rows = [{"messages": HI, "source": "ü\u2028"}] * 3
    table = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    array = tmp_path / "b.json"
    array.write_text(json.dumps(rows), encoding="utf-8")
    lines = write_lines(tmp_path / "c.jsonl", rows)
    packed = write_lines(tmp_path / "d.jsonl.gz", rows)
    blank = tmp_path / "e.jsonl"
    blank.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes().replace(b"\n", b"\n\n"))
    for path, numbers in (
        (table, [1, 2, 3]),
        (array, [1, 2, 3]),
        (lines, [1, 2, 3]),
        (packed, [1, 2, 3]),
        (blank, [1, 3, 5]),
    ):
        examples = list(read_conversations([path]))
        assert [example.row for example in examples] == numbers
        assert {example.value.messages for example in examples} == {PLAIN}
        assert all(
            example.other == {"source": "ü\u2028"} and example.file == str(path) for example in examples
        )
    assert len(list(read_conversations([tmp_path]))) == 15


def test_one_array_of_messages_is_one_conversation(tmp_path: Path):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(HI))
    assert messages_of(path) == [PLAIN]


def test_two_formats_in_one_file_are_an_error(tmp_path: Path):
    path = write_lines(tmp_path / "mixed.jsonl", [{"messages": HI}, {"instruction": "hi", "output": "ho"}])
    with pytest.raises(
        UserError, match=r"mixed.jsonl: row 2: of the format alpaca, the rows before are messages"
    ):
        list(read_conversations([path]))
    statistics = ReadStatistics()
    assert len(list(read_conversations([path], on_bad_row="skip", statistics=statistics))) == 1
    assert statistics.bad == {"another format": 1}
    assert statistics.formats == {str(path): "messages"}


def test_what_is_no_file_of_conversations_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    blank = write_lines(tmp_path / "blank.json", [[]])
    for path in (empty, blank):
        with pytest.raises(UserError, match="the file is empty"):
            list(read_conversations([path]))
        statistics = ReadStatistics()
        assert not list(read_conversations([path], on_bad_row="skip", statistics=statistics))
        assert statistics.bad == {"empty file": 1}
    strange = write_lines(tmp_path / "strange.jsonl", [{"text": "plain"}])
    with pytest.raises(UserError, match="row 1: of no known format: with the keys text"):
        list(read_conversations([strange]))
    with pytest.raises(UserError, match='row 1: it has no "messages"; the format is messages'):
        list(read_conversations([strange], format="messages"))
    with pytest.raises(UserError, match="format 'mesages' is unknown; expected auto or one of"):
        list(read_conversations([strange], format="mesages"))
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"prompt": "hi", **SIDES}])
    with pytest.raises(UserError, match="row 1 is of the format prompt_pair, expected conversations"):
        list(read_conversations([pairs], on_bad_row="skip"))
    chats = write_lines(tmp_path / "chats.jsonl", [{"messages": HI}])
    with pytest.raises(UserError, match="row 1 is of the format messages, expected preference pairs"):
        list(read_preferences([chats]))
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(chats.read_bytes() + b'{"messages": [\n"\\ud800"\n\xff\n' + chats.read_bytes())
    with pytest.raises(UserError, match=r"broken\.jsonl: row 2: not JSON"):
        list(read_conversations([broken]))
    statistics = ReadStatistics()
    examples = read_conversations([broken], on_bad_row="skip", statistics=statistics)
    assert [example.row for example in examples] == [1, 5]
    assert statistics.bad == {"not JSON": 3}
    with pytest.raises(UserError, match="embedded is plain text"):
        list(read_conversations(["embedded"]))
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(UserError, match=r"notes.txt: cannot read rows of this kind"):
        list(read_conversations([text]))


def test_a_named_format_holds_for_rows_that_look_like_another(tmp_path: Path):
    row = {"question": "hi", "answer": "ho <<1+1=2>>2"}
    path = write_lines(tmp_path / "rows.jsonl", [row])
    assert messages_of(path) == [(user("hi"), says("ho <<1+1=2>>2"))]
    calculated = (user("hi"), says("ho ", call=sum_of("1+1")), result("2"), says("2"))
    assert messages_of(path, format="gsm8k") == [calculated]


def test_unreadable_values_stand_in_their_rows(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a"\n"\\ud83d\\ude00"\n')
    (_, first), (number, second), (_, third) = read_objects(path, name="rows")
    assert first == {"a": 1}
    assert number == 2
    assert isinstance(second, UnreadableRow)
    assert third == "😀"


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_half_a_surrogate_pair_is_a_bad_row(tmp_path: Path, name: str):
    rows = [{"messages": [HI[0], HI[1] | {"content": text}]} for text in ("fine", "half \ud83d", "\u00fc")]
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name == "rows.json" else "\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"row 2: lone surrogate '\\ud83d'"):
        list(read_conversations([path]))
    statistics = ReadStatistics()
    examples = read_conversations([path], on_bad_row="skip", statistics=statistics)
    assert [example.row for example in examples] == [1, 3]
    assert sum(statistics.bad.values()) == 1


def test_hub_data_sets_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    lines = b"".join(json.dumps({"messages": HI}).encode() + b"\n" for _ in range(2))
    with serve(Hub(repo="owner/chats", commits={"a" * 40: {"data/train.jsonl": lines}})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        examples = list(read_conversations(["hf://owner/chats/data"]))
    assert [example.value.messages for example in examples] == [PLAIN, PLAIN]
    assert "owner/chats" in examples[0].file


def test_real_files_are_read_whole(test_data: Path):
    expected = {
        "dolly15k": ("dolly", 15_011),
        "gsm8k/train.jsonl.gz": ("gsm8k", 7_473),
        "llamafactory_demo/glaive_toolcall_en_demo.json.gz": ("sharegpt", 300),
        "llamafactory_demo/identity.json": ("alpaca", 91),
        "llms_from_scratch/instruction-data.json": ("alpaca", 1_100),
        "mmlu/derived_validation.jsonl.gz": ("mmlu", 1_531),
    }
    for name, (format_name, count) in expected.items():
        statistics = ReadStatistics()
        examples = list(read_conversations([test_data / name], statistics=statistics))
        assert {*statistics.formats.values()} == {format_name}
        assert len(examples) == statistics.kept == statistics.rows == count
        if format_name == "gsm8k":
            spoken = [example.value.messages for example in examples]
            assert all("\n#### " in f"\n{messages[-1].text}" for messages in spoken)
            marks = gzip.decompress((test_data / name).read_bytes()).count(b"<<")
            assert sum(message.tool_call is not None for messages in spoken for message in messages) == marks


def test_real_preference_pairs_are_read(test_data: Path):
    pairs = list(read_preferences([test_data / "llamafactory_demo/dpo_en_demo.json.gz"]))
    assert len(pairs) == 300
    statistics = ReadStatistics()
    path = test_data / "llms_from_scratch/instruction-data-with-preference.json"
    pairs += list(read_preferences([path], on_bad_row="skip", statistics=statistics))
    assert (statistics.rows, statistics.kept, statistics.bad) == (1_100, 1_094, {"equal sides": 6})
    for pair, _, _, _ in pairs:
        border = len(pair.prompt.messages)
        assert pair.prompt.messages[-1].role == "user"
        for side in (pair.chosen, pair.rejected):
            check(side)
            assert side.messages[:border] == pair.prompt.messages
            assert all(message.role != "user" for message in side.messages[border:])
        assert pair.chosen != pair.rejected
