"""`prepare chat`: what the folder holds, what is counted, and what is refused."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chat_runs
import numpy as np
import pytest
import training_runs

from samosa_jax import prepare, prepare_chat
from samosa_jax.data.chat import preparation
from samosa_jax.data.chat.conversation import parse_conversation
from samosa_jax.data.chat.preparation import ChatOptions
from samosa_jax.data.chat.preparation import prepare_chat as write
from samosa_jax.data.chat.role_bytes import from_bytes
from samosa_jax.data.chat.template import render
from samosa_jax.data.continuation import locked
from samosa_jax.data.holdout import ValidationRule
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.data.verification import verify_folder
from samosa_jax.errors import UserError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("text")).parent / "tokenizer"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return chat_runs.write_rows(tmp_path / "rows.jsonl", [chat_runs.conversation(seed) for seed in range(80)])


def options(rows: Path, tokenizer: Path, **changes: Any) -> ChatOptions:
    fields: dict[str, Any] = {
        "inputs": (str(rows),),
        "tokenizer": tokenizer,
        "out": rows.parent / "out",
        "validation": ValidationRule(val_documents=10),
        "shard_tokens": 1_000,
    }
    return ChatOptions(**(fields | changes))


def documents(folder: Path) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    found = []
    for split in ("train", "val"):
        shards = ShardSet.open(folder, split=split, verify=True)
        for index in range(shards.num_documents):
            found.append((tuple(shards.document(index).tolist()), tuple(shards.roles(index).tolist())))
    return found


def test_the_folder_holds_every_conversation_with_its_roles(rows: Path, tokenizer: Path):
    summary = write(options(rows, tokenizer))
    assert summary.statistics == {"rows": 80, "kept": 80}
    folder = rows.parent / "out"
    assert len(ShardSet.open(folder).manifest.select("train")) > 2
    assert ShardSet.open(folder, split="val").num_documents == 10
    known = Tokenizer.load(tokenizer)
    expected = []
    for line in rows.read_text(encoding="utf-8").splitlines():
        rendered = render(parse_conversation(json.loads(line)), known)
        expected.append((tuple(rendered.tokens.tolist()), rendered))
    found = dict(documents(folder))
    for tokens, rendered in expected:
        roles = from_bytes(np.array(found[tokens], np.uint8))
        assert (roles.role == rendered.roles).all()
        assert (roles.begins_turn == rendered.begins_turn).all()
    assert not verify_folder(folder).problems


def test_it_is_whole_or_not_there(rows: Path, tokenizer: Path):
    lines = rows.read_text(encoding="utf-8").splitlines()
    rows.write_text("\n".join([*lines[:40], '{"messages": []}', *lines[40:]]), encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl: row 41: it has no messages"):
        write(options(rows, tokenizer))
    assert [path.name for path in rows.parent.iterdir()] == ["rows.jsonl"]
    summary = write(options(rows, tokenizer, on_bad_row="skip"))
    assert summary.statistics["kept"] == 80
    assert summary.statistics["rows"] == 81
    assert sum(count for name, count in summary.statistics.items() if name.startswith("bad: ")) == 1


def test_conversations_that_are_too_long_are_named_and_counted(rows: Path, tokenizer: Path):
    write(options(rows, tokenizer, out=rows.parent / "all"))
    lengths = [len(tokens) for tokens, _ in documents(rows.parent / "all")]
    limit = sorted(lengths)[len(lengths) // 2]
    with pytest.raises(UserError, match=rf"rows\.jsonl: row \d+: \d+ tokens, more than --max-tokens {limit}"):
        write(options(rows, tokenizer, max_tokens=limit))
    counted = write(options(rows, tokenizer, max_tokens=limit, on_bad_row="skip")).statistics
    too_long = sum(length > limit for length in lengths)
    assert counted == {"rows": 80, "kept": 80 - too_long, "bad: too long": too_long}
    assert max(len(tokens) for tokens, _ in documents(rows.parent / "out")) <= limit
    assert ShardSet.open(rows.parent / "out", split="val").num_documents == 10


def test_doing_it_again_does_nothing_and_other_options_are_refused(rows: Path, tokenizer: Path):
    write(options(rows, tokenizer))
    before = (rows.parent / "out" / "manifest.json").stat().st_mtime_ns
    assert write(options(rows, tokenizer)).was_complete
    assert (rows.parent / "out" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="was prepared from other input, or with other options"):
        write(options(rows, tokenizer, max_rows=5))


def test_what_another_process_finished_meanwhile_is_taken(
    rows: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
):
    """It was begun when the folder was not yet there, and got the lock when it was."""
    asked = options(rows, tokenizer)

    @contextlib.contextmanager
    def locked_late(folder: Path) -> Iterator[None]:
        monkeypatch.undo()
        assert not write(asked).was_complete
        with locked(folder):
            yield

    monkeypatch.setattr(preparation, "locked", locked_late)
    assert write(asked).was_complete


def test_a_text_folder_is_not_taken_for_one_of_conversations(rows: Path, tokenizer: Path):
    with pytest.raises(UserError, match="was prepared from other input, or with other options"):
        write(options(rows, tokenizer, out=tokenizer.parent / "data"))


def test_pairs_of_one_prompt_stay_on_one_side(tmp_path: Path, tokenizer: Path):
    pairs = [chat_runs.pair(seed) for seed in range(40)]
    doubled = [
        {**pair, "rejected": [{"role": "assistant", "content": f"{index}!"}]}
        for index, pair in enumerate(pairs)
    ]
    rows = chat_runs.write_rows(tmp_path / "pairs.jsonl", [*pairs, *doubled])
    write(options(rows, tokenizer, preferences=True))
    sides: dict[str, set[tuple[int, ...]]] = {}
    end = Tokenizer.load(tokenizer).special_ids["<|user_end|>"]
    for split in ("train", "val"):
        shards = ShardSet.open(tmp_path / "out", split=split)
        prompts = [shards.document(i).tolist() for i in range(0, shards.num_documents, 2)]
        sides[split] = {tuple(prompt[: prompt.index(end)]) for prompt in prompts}
    assert sides["val"]
    assert not sides["train"] & sides["val"]


def test_places_in_an_identity_are_filled(tmp_path: Path, tokenizer: Path, capsys):
    said = {"role": "assistant", "content": "<think>My name.</think>I am {{name}}, made by {{maker}}."}
    rows = chat_runs.write_rows(
        tmp_path / "who.jsonl", [{"messages": [{"role": "user", "content": "Who are you?"}, said]}]
    )
    out = tmp_path / "out"
    line = [str(rows), f"--tokenizer={tokenizer}", f"--out={out}", "--val-documents=0"]
    prepare.main(["chat", *line, "--fill", "name=Samosa", "maker=Anna"])
    assert "1 conversations" in capsys.readouterr().out
    ((tokens, _),) = documents(out)
    assert "I am Samosa, made by Anna." in Tokenizer.load(tokenizer).decode(tokens)
    with pytest.raises(UserError, match="--fill is 'name'; expected KEY=VALUE"):
        prepare_chat.main([*line, "--fill", "name"])


def test_what_cannot_be_prepared(rows: Path, tokenizer: Path):
    for name in ("max_rows", "max_tokens"):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is 0; it must be at least 1"):
            options(rows, tokenizer, **{name: 0})
    with pytest.raises(UserError, match="--val-documents is 80, and the input has no more than that"):
        write(options(rows, tokenizer, validation=ValidationRule(val_documents=80)))
    with pytest.raises(UserError, match="of the format messages, expected preference pairs"):
        write(options(rows, tokenizer, preferences=True))
    assert not (rows.parent / "out").exists()
    with pytest.raises(UserError, match=r"--out .* lies inside the input"):
        options(rows.parent, tokenizer, out=rows.parent / "out")
