"""`prepare` end to end: what it writes, and its commands."""

import os
import random
import re
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
from preparing import contents, decoded, run, start, write_rows

from samosa_jax import prepare as command
from samosa_jax.data import corpus
from samosa_jax.data.filters import FilterOptions
from samosa_jax.data.holdout import ValidationRule
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError

pytest_plugins = ["preparing_fixtures"]


# What comes out ------------------------------------------------------------


def test_documents_come_back_and_workers_leave_no_trace(
    texts: list[str], stories_file: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    validation = ValidationRule(val_documents=40)
    one = run(stories_file, tokenizer_dir, tmp_path / "one", validation=validation)
    run(stories_file, tokenizer_dir, tmp_path / "two", validation=validation, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    train, val = decoded(tmp_path / "one"), decoded(tmp_path / "one", "val")
    assert len(val) == 40
    held_out = set(val)
    assert train == [text for text in texts if text not in held_out]
    assert val == [text for text in texts if text in held_out]
    # Evenly spread, and no prefix of the input.
    places = [texts.index(text) for text in val]
    assert places[0] < 200
    assert places[-1] > 600
    assert one.manifest.complete
    assert len(one.manifest.select("train")) > 5
    assert one.statistics.kept_bytes == sum(len(text.encode()) for text in texts)


def test_split_depends_on_content_and_seed_alone(
    texts: list[str], tokenizer_dir: Path, tmp_path: Path
) -> None:
    rule = ValidationRule(val_frac=0.1)
    run(write_rows(tmp_path / "a.jsonl", texts), tokenizer_dir, tmp_path / "a", validation=rule)
    shuffled = random.Random(0).sample(texts, len(texts))
    run(write_rows(tmp_path / "b.jsonl", shuffled), tokenizer_dir, tmp_path / "b", validation=rule)
    val = set(decoded(tmp_path / "a", "val"))
    assert 40 < len(val) < 130
    assert val == set(decoded(tmp_path / "b", "val"))
    other = ValidationRule(val_frac=0.1, seed=1)
    run(tmp_path / "a.jsonl", tokenizer_dir, tmp_path / "c", validation=other)
    assert val != set(decoded(tmp_path / "c", "val"))
    capped = ValidationRule(val_frac=0.1, val_documents=7)
    run(tmp_path / "a.jsonl", tokenizer_dir, tmp_path / "d", validation=capped)
    assert decoded(tmp_path / "d", "val") == decoded(tmp_path / "a", "val")[:7]


def test_copies_of_held_out_documents_are_dropped(
    texts: list[str], tokenizer_dir: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [*texts[:50], *texts[:50]])
    summary = run(path, tokenizer_dir, tmp_path / "out", validation=ValidationRule(val_documents=10))
    assert summary.statistics.dropped == {"held_out_copies": 10}
    train, val = decoded(tmp_path / "out"), decoded(tmp_path / "out", "val")
    assert len(val) == 10
    assert len(train) == 80
    assert not set(train) & set(val)


def test_append_adds_a_generation_and_moves_nothing(
    texts: list[str], stories_file: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = {"validation": ValidationRule(val_frac=0.1), "filtering": FilterOptions(dedup=True)}
    first = write_rows(tmp_path / "a.jsonl", texts[:300])
    second = write_rows(tmp_path / "b.jsonl", texts[250:500])
    run(first, tokenizer_dir, out, **options)
    before = contents(out)
    opened = ShardSet.open(out)
    old_train, old_val = decoded(out), decoded(out, "val")

    summary = run(second, tokenizer_dir, out, append=True, **options)
    assert summary.generation == 1
    assert summary.statistics.duplicates == 50  # across generations
    after = contents(out)
    assert {name for name in before if before[name] != after.get(name)} == {"manifest.json"}
    assert decoded(out)[: len(old_train)] == old_train
    assert decoded(out, "val")[: len(old_val)] == old_val
    assert decoded(out, generations=[0]) == old_train
    assert not set(decoded(out)) & set(decoded(out, "val"))
    assert opened.refresh()
    (_, split), (start_new, stop_new) = opened.generation_bounds
    assert split == start_new == len(old_train)
    assert stop_new == opened.num_documents == len(decoded(out))

    again = run(second, tokenizer_dir, out, append=True, **options)
    assert again.state == "already complete"
    assert contents(out) == after


# The command ------------------------------------------------------------


def test_command_with_yaml_lists_and_bad_rows(
    texts: list[str], tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.yaml").write_text("val_documents: 5\nskip_bad_rows: true\ndrop_documents: [NOPE]\n")
    a = write_rows(tmp_path / "a.jsonl", [*texts[:40], "NOPE nope", "  "])
    b = tmp_path / "b.jsonl"
    b.write_bytes(b"{broken\n" + write_rows(tmp_path / "c.jsonl", texts[40:60]).read_bytes())
    common = [
        "--config",
        str(tmp_path / "data.yaml"),
        "--tokenizer",
        str(tokenizer_dir),
        "--out",
        str(tmp_path / "out"),
    ]
    command.main([*common, "--input", str(a), str(b)])
    output = capsys.readouterr().out
    assert "rows read: 63; dropped: 1 bad, 1 empty, 1 matched" in output
    assert ShardSet.open(tmp_path / "out", split="val").num_documents == 5
    assert ShardSet.open(tmp_path / "out").num_documents == 55
    command.main([*common, "--input", str(a), "--input", str(b)])
    assert "already complete" in capsys.readouterr().out

    command.main(["verify", str(tmp_path / "out")])
    assert "all as the manifest says; complete" in capsys.readouterr().out


def test_every_ready_source_file_is_read(tokenizer_dir: Path) -> None:
    folder = Path(__file__).parents[1] / "configs" / "data"
    names = sorted(path.name for path in folder.glob("*.yaml"))
    assert len(names) >= 8
    for name in names:
        flags = command.parse_flags(
            ["--config", str(folder / name), "--tokenizer", "x", "--out", "y", "--input", "z"]
        )
        assert flags.options().inputs == ("z",)


def test_verify_exits_2_and_names_the_file(tokenizer_dir: Path, texts: list[str], tmp_path: Path) -> None:
    run(write_rows(tmp_path / "a.jsonl", texts[:20]), tokenizer_dir, tmp_path / "out")
    path = tmp_path / "out" / "train-00000.tokens.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    process = start("verify", tmp_path / "out")
    output, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "train-00000.tokens.npy: contents changed" in output
    assert error.count("\n") == 1
    assert "1 of its files" in error


def test_inspect_shows_a_step(
    tokenizer_dir: Path, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_rows(tmp_path / "a.jsonl", texts[:100]), tokenizer_dir, tmp_path / "out")
    arguments = [f"--data={tmp_path / 'out'}", "--model.context_len=64", "--train.batch_tokens=512"]
    command.main(["inspect", "--step", "3", "--rows=2", *arguments])
    output = capsys.readouterr().out
    assert "step 3: 8 rows" in output
    assert "and 6 more rows" in output
    assert "positions used 100.00%, padded 0.00%; tokens cropped away 0.00%" in output
    use = re.search(
        r"tokens see (\d+) of their document .*, (\d+) if no row's end cut one \(([\d.]+)%", output
    )
    assert use is not None
    seen, uncut = int(use[1]), int(use[2])
    assert 0 < seen < uncut < 64
    assert float(use[3]) == pytest.approx(100 * seen / uncut, abs=3)
    with pytest.raises(UserError, match="--step is -1"):
        command.main(["inspect", "--step=-1", *arguments])


def test_the_command_imports_no_jax() -> None:
    code = "import sys, samosa_jax.prepare; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0


def test_throughput(tokenizer_dir: Path, tmp_path: Path) -> None:
    """One core, by its own clock: reading, tokenizing, hashing, writing at 1.5 MB/s at the very least."""
    path = write_rows(tmp_path / "a.jsonl", list(islice(corpus.stories(seed=5), 4_000)))
    began = time.process_time()
    summary = run(path, tokenizer_dir, tmp_path / "out", shard_tokens=1_000_000)
    seconds = time.process_time() - began
    assert summary.new_bytes > 2_000_000
    assert summary.new_bytes / seconds > 1.5e6
