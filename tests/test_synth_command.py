"""The command that writes synthesised conversations: whole files, and mistakes in one line."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from samosa_jax.data.chat.conversation import parse_conversation
from samosa_jax.errors import UserError
from samosa_jax.synthesize import main
from samosa_jax.tasks.catalog import TASK_NAMES

NAMES = (*TASK_NAMES, "all", "preference")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.mark.parametrize("name", NAMES)
def test_files_are_the_same_for_the_same_flags(name: str, tmp_path: Path):
    first, again, other = (tmp_path / f"{stem}.jsonl" for stem in ("first", "again", "other"))
    for path, seed in ((first, 5), (again, 5), (other, 6)):
        main([name, "--count=60", f"--seed={seed}", f"--out={path}"])
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    rows = rows_of(first)
    assert len(rows) == 60
    if name != "preference":
        for row in rows:
            parse_conversation(row)
            assert {"messages", "task", "answer", "checks"} == set(row)
    assert {path.name for path in tmp_path.iterdir()} == {"first.jsonl", "again.jsonl", "other.jsonl"}


def test_the_report_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["spelling", "--count=500", f"--out={tmp_path / 'new' / 'a.jsonl'}"])
    report = capsys.readouterr().out
    for words in (
        "500 conversations of spelling",
        "unique prompts",
        "unique 4-grams",
        "not in train",
        "both: 0",
    ):
        assert words in report


def test_flags_change_what_is_written(tmp_path: Path):
    persona = tmp_path / "p.yaml"
    persona.write_text("name: Pico\nmaker: the Tiny Lab\n")
    out = tmp_path / "a.jsonl"
    main(["identity", "--count=50", f"--persona={persona}", f"--out={out}"])
    assert "Pico" in out.read_text()
    assert "samosaChaat" not in out.read_text()
    main(["arithmetic", "--count=20", "--levels=[2]", "--include-tools", f"--out={out}", "--overwrite"])
    assert all(row["checks"]["level"] == 2 for row in rows_of(out))
    assert all(parse_conversation(row).tools for row in rows_of(out))
    main(["arithmetic", "--count=20", "--split=heldout", f"--out={out}", "--overwrite"])
    assert not any(parse_conversation(row).tools for row in rows_of(out))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["speling"], "'speling' cannot be synthesised; expected one of joint_think_tool"),
        (["spelling", "--count=0"], "--count is 0"),
        (["identity", "--levels=[3]"], "identity has no levels"),
        (["spelling", "--split=test"], "--split is 'test'"),
        (["spelling", "--teacher-model=m"], "without --teacher-url"),
        (["spelling", "--teacher-url=http://h/v1"], "without --teacher-model"),
        (["preference", "--levels=[1]"], "preference pairs take no"),
        (["identity", "--persona=absent.yaml"], "absent.yaml: no persona"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(flags: list[str], complaint: str, tmp_path: Path):
    with pytest.raises(UserError, match=complaint) as caught:
        main([*flags, f"--out={tmp_path / 'a.jsonl'}"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.jsonl").exists()


def test_files_are_not_overwritten_unasked(tmp_path: Path):
    out = tmp_path / "a.jsonl"
    out.write_text("mine")
    with pytest.raises(UserError, match="pass --overwrite"):
        main(["spelling", "--count=3", f"--out={out}"])
    assert out.read_text() == "mine"
    with pytest.raises(UserError, match=r"ends in \.jsonl"):
        main(["spelling", "--count=3", f"--out={tmp_path / 'a.txt'}"])


def test_it_is_fast(tmp_path: Path):
    """A quarter of the rate that a quiet core reaches, by processor time."""
    started = time.process_time()
    main(["all", "--count=3000", f"--out={tmp_path / 'a.jsonl'}"])
    assert 3000 / (time.process_time() - started) > 500
