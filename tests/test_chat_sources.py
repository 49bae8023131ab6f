"""Every file of configs/data/chat reads a small copy of its data set, in its schema, from a local hub."""

import gzip
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import Hub, serve

from samosa_jax.command_line import parse_dataclass
from samosa_jax.data import hub as hub_module
from samosa_jax.data.chat.reading import read_preferences
from samosa_jax.data.chat.rules import failures, select_rules
from samosa_jax.data.chat.sources import ConversationSource, iter_source
from samosa_jax.data.readers import file_format
from samosa_jax.errors import ConfigError
from samosa_jax.filter_conversations import FilterFlags
from samosa_jax.prepare_chat import ChatFlags

FOLDER = Path(__file__).parents[1] / "configs" / "data" / "chat"
COMMIT = "c" * 40
QUESTION = "A pen costs 3 dollars and a book 4 times as much. What do both cost together?"
THOUGHT = "The book costs 4 times 3 dollars, which is 12 dollars, so both cost 3 and 12 together."
ANSWER = "The book costs 12 dollars, and together with the pen that makes 15 dollars."
MARKED = (
    f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n"
    f"<|begin_of_solution|>\n\n{ANSWER}\n\n<|end_of_solution|>"
)
MARKS_WANTED = "Structure your answer into <|begin_of_thought|> and <|begin_of_solution|> sections."
Row = dict[str, Any]


def messages(*contents: str) -> list[Row]:
    """As parquet has them: content first."""
    return [{"content": text, "role": ("user", "assistant")[n % 2]} for n, text in enumerate(contents)]


def node(text: str, role: str, rank: int | None, *replies: Row) -> Row:
    known = {"message_id": text[:8], "lang": "en", "deleted": False, "synthetic": False, "labels": {}}
    return {"text": text, "role": role, "rank": rank, "replies": list(replies), **known}


TREE = {
    "message_tree_id": "6ab24d72",
    "tree_state": "ready_for_export",
    "prompt": node(
        QUESTION, "prompter", None, node("No idea.", "assistant", 1), node(ANSWER, "assistant", 0)
    ),
}
CHOSEN, REJECTED = messages(QUESTION, ANSWER), messages(QUESTION, "Fifteen?")
# Name -> (path in the repository, a row in its schema, the last turn's thought and text).
ROWS: dict[str, tuple[str, Row, str | None, str]] = {
    "smoltalk": (
        "data/all/train-00000-of-00009.parquet",
        {"messages": messages(QUESTION, ANSWER), "source": "smol-magpie-ultra"},
        None,
        ANSWER,
    ),
    "mmlu_auxiliary_train": (
        "auxiliary_train/train-00000-of-00001.parquet",
        {"train": {"answer": 2, "choices": ["3", "12", "15", "7"], "question": QUESTION, "subject": ""}},
        None,
        "C",
    ),
    "gsm8k": (
        "main/train-00000-of-00001.parquet",
        {"question": QUESTION, "answer": "The book costs 4*3=<<4*3=12>>12.\n3+12=<<3+12=15>>15.\n#### 15"},
        None,
        "15.\n#### 15",
    ),
    "alpaca": (
        "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
        {"instruction": QUESTION, "input": "", "output": ANSWER, "text": "Below is an instruction that ..."},
        None,
        ANSWER,
    ),
    "oasst1": ("2023-04-12_oasst_ready.trees.jsonl.gz", TREE, None, ANSWER),
    "dolly": (
        "databricks-dolly-15k.jsonl",
        {"instruction": QUESTION, "context": "", "response": ANSWER, "category": "open_qa"},
        None,
        ANSWER,
    ),
    "daily_dialog": (
        "default/train/0000.parquet",
        {
            "dialog": [" Hello . ", " What do they cost ? ", QUESTION, ANSWER, "Thanks ."],
            "act": [1],
            "emotion": [0],
        },
        None,
        ANSWER,
    ),
    "openr1_math": (
        "data/train-00000-of-00010.parquet",
        {
            "problem": QUESTION,
            "solution": ANSWER,
            "answer": "15",
            "is_reasoning_complete": [True],
            "generations": [f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"],
            "correctness_llama": None,
            "messages": messages(QUESTION, f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"),
        },
        THOUGHT,
        ANSWER,
    ),
    "open_thoughts": (
        "data/train-00000-of-00006.parquet",
        {
            "system": MARKS_WANTED,
            "conversations": [{"from": "user", "value": QUESTION}, {"from": "assistant", "value": MARKED}],
        },
        THOUGHT,
        ANSWER,
    ),
    "limo": (
        "limo.jsonl",
        {"question": QUESTION, "solution": THOUGHT, "answer": "15"},
        THOUGHT,
        "\\boxed{15}",
    ),
    "open_math_reasoning": (
        "data/cot-00000-of-00144.parquet",
        {
            "expected_answer": "15",
            "problem_type": "has_answer_extracted",
            "problem": QUESTION,
            "generated_solution": f"<think>\n{THOUGHT}\n</think>\n{ANSWER}",
            "inference_mode": "cot",
        },
        THOUGHT,
        ANSWER,
    ),
    "numina_math_cot": (
        "data/train-00000-of-00005.parquet",
        {
            "source": "olympiads",
            "problem": QUESTION,
            "solution": ANSWER,
            "messages": messages(QUESTION, ANSWER),
        },
        None,
        ANSWER,
    ),
    "sky_t1": (
        "Sky-T1_data_17k.json",
        {
            "system": MARKS_WANTED,
            "conversations": [{"from": "user", "value": QUESTION}, {"from": "assistant", "value": MARKED}],
        },
        THOUGHT,
        ANSWER,
    ),
    "ultrafeedback_binarized": (
        "data/train_prefs-00000-of-00001.parquet",
        {
            "prompt": QUESTION,
            "prompt_id": "ab12",
            "chosen": CHOSEN,
            "rejected": REJECTED,
            "messages": CHOSEN,
            "score_chosen": 8.5,
            "score_rejected": 4.0,
        },
        None,
        ANSWER,
    ),
    "capybara_preferences": (
        "data/train-00000-of-00001.parquet",
        {
            "source": "Airoboros",
            "conversation": [{"input": QUESTION, "output": ANSWER}],
            "prompt": None,
            "chosen": CHOSEN,
            "rejected": REJECTED,
            "rating_chosen": 5,
        },
        None,
        ANSWER,
    ),
    "orca_preferences": (
        "data/train-00000-of-00001.parquet",
        {
            "system": "You are an AI assistant.",
            "input": QUESTION,
            "chosen": ANSWER,
            "rejected": "Fifteen?",
            "rating": [9.0, 4.0],
            "status": "swapped",
        },
        None,
        ANSWER,
    ),
}
PREFERENCES = {name for name in ROWS if name.endswith(("preferences", "binarized"))}


def file_of(path: str, rows: list[Row]) -> bytes:
    if path.endswith(".parquet"):
        buffer = BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    if path.endswith(".json"):
        return json.dumps(rows).encode()
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    if path.endswith(".gz"):
        return gzip.compress(data)
    return data


def load_source(name: str) -> ConversationSource:
    return parse_dataclass([f"--config={FOLDER / f'{name}.yaml'}"], ConversationSource, description="")


def test_every_file_is_tried() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_source_reads_its_schema(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, row, think, text = ROWS[name]
    source = load_source(name)
    # Revisions with a slash are not for the local hub.
    address = source.input[0].replace("@refs%2Fconvert%2Fparquet", "")
    source = replace(source, input=(address,))
    repo = "/".join(address.removeprefix("hf://").split("@")[0].split("/")[:2])
    files = {path: file_of(path, [row] * 3), "README.md": b"# about", "other/notes.txt": b"no rows"}
    monkeypatch.setattr(hub_module, "PAUSE_S", 0.01)
    with serve(Hub(repo=repo, commits={COMMIT: files})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        listed = hub_module.list_files(address, is_readable=lambda path: file_format(path) is not None)
        assert [file.path for file in listed] == [path]
        if name in PREFERENCES:
            read = read_preferences(source.input, format=source.format)
            pairs = [example.value for example in read]
            assert pairs[0].rejected.messages[-1].text == "Fifteen?"
            found = [pair.chosen for pair in pairs]
        else:
            found = [example.value for example in iter_source(source)]
    assert len(found) == 3
    last = found[0].messages[-1]
    assert (last.think, last.text.strip()) == (think, text)
    assert any(QUESTION in message.text for message in found[0].messages if message.role == "user")
    assert not any("begin_of" in message.text for message in found[0].messages)
    if think is not None:
        assert failures(found[0], select_rules(["reasoning"])) == {}


@pytest.mark.parametrize("name", ROWS)
def test_the_commands_take_these_files(name: str) -> None:
    """`prepare filter` those of conversations, `prepare chat` all of them."""
    argv = [f"--config={FOLDER / f'{name}.yaml'}"]
    flags = parse_dataclass([*argv, "--tokenizer=tok", "--out=out"], ChatFlags, description="")
    source = load_source(name)
    assert (flags.input, flags.format, flags.max_rows) == (source.input, source.format, source.max_rows)
    if name in PREFERENCES:
        return
    flags = parse_dataclass(argv, FilterFlags, description="")
    assert (flags.input, flags.format, flags.max_rows) == (source.input, source.format, source.max_rows)


def test_row_caps_are_those_of_the_plan() -> None:
    caps = {name: load_source(name).max_rows for name in ROWS}
    assert {name: cap for name, cap in caps.items() if cap} == {
        "openr1_math": 50_000,
        "open_thoughts": 50_000,
        "limo": 817,
        "open_math_reasoning": 20_000,
        "numina_math_cot": 20_000,
    }


def test_a_cap_stops_before_further_files_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"messages": messages(QUESTION, f"{ANSWER} {number}")} for number in range(4)]
    files = {f"{name}.jsonl": file_of(".jsonl", rows) for name in "abcd"}
    with serve(Hub(repo="owner/name", commits={COMMIT: files})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        source = ConversationSource(input=("hf://owner/name",), max_rows=3)
        found = [example.value.messages[-1].text[-1] for example in iter_source(source)]
        assert found == ["0", "1", "2"]
        assert server.downloads() == ["a.jsonl"]
        assert len(list(iter_source(ConversationSource(input=("hf://owner/name",), max_rows=6)))) == 6


def test_a_wrong_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_rows is 0; expected at least 1"):
        ConversationSource(input=("a.jsonl",), max_rows=0)
