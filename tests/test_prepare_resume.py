"""`prepare` killed, continued and refused: the same bytes however it got there, or one clear line."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, serve
from preparing import contents, decoded, num_shards, run, start, write_rows

from samosa_jax.data import tokenizer_training
from samosa_jax.data.filters import FilterOptions
from samosa_jax.data.holdout import ValidationRule
from samosa_jax.data.preparation import PrepareOptions, prepare
from samosa_jax.data.shards import ShardSet, content_hash
from samosa_jax.errors import UserError

pytest_plugins = ["preparing_fixtures"]

COMMIT = "c" * 40


# Killed and continued ------------------------------------------------------------


def process_is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="looks for orphans in /proc, which this system lacks"
)
def test_killed_at_random_it_goes_on_to_the_same_bytes(
    stories_file: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    options = {
        "validation": ValidationRule(val_documents=40),
        "filtering": FilterOptions(dedup=True),
        "shard_tokens": 3_000,
    }
    run(stories_file, tokenizer_dir, tmp_path / "whole", **options)
    expected = contents(tmp_path / "whole")
    total = num_shards(tmp_path / "whole")
    assert total > 30

    out = tmp_path / "killed"
    arguments = ["--input", stories_file, "--tokenizer", tokenizer_dir, "--out", out, "--val-documents", 40]
    arguments += ["--dedup", "--shard-tokens", 3_000]
    # The last kill leaves a finished shard that no manifest names, and the file it was writing.
    reached = []
    for attempt, target in enumerate([1, total // 3, 2 * total // 3]):
        process = start(*arguments, "--workers", 1 + attempt % 2, output=subprocess.DEVNULL)
        while num_shards(out) < target and process.poll() is None:
            time.sleep(0.002)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(num_shards(out))
        assert not json.loads((out / "manifest.json").read_bytes())["complete"]
        deadline = time.monotonic() + 10
        while any(process_is_alive(int(pid)) for pid in children):
            assert time.monotonic() < deadline, "tokenizing processes outlive the one that started them"
            time.sleep(0.02)
    assert reached == sorted(reached)
    assert 0 < reached[0] < reached[-1] < total, "every attempt must have been interrupted, and got further"
    (out / f"train-{total:05d}.tokens.npy").write_bytes(b"written, but not yet named by the manifest")
    (out / ".manifest.json.tmp").write_bytes(b"{")
    summary = run(stories_file, tokenizer_dir, out, **options)
    assert summary.state == "resumed"
    assert summary.new_bytes < summary.statistics.kept_bytes * 0.7  # it did not start again
    assert contents(out) == expected
    assert run(stories_file, tokenizer_dir, out, **options).state == "already complete"


def test_reader_may_start_before_the_writer_has_finished(
    texts: list[str], tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.jsonl", texts[:200])
    seen: list[int] = []
    readers: list[ShardSet] = []

    def look(progress: object) -> None:
        if readers:
            readers[0].refresh()
            seen.append(readers[0].num_documents)
            assert not readers[0].manifest.complete
        elif num_shards(tmp_path / "out") > 0:
            readers.append(ShardSet.open(tmp_path / "out"))

    options = PrepareOptions(
        inputs=(str(path),), tokenizer=tokenizer_dir, out=tmp_path / "out", shard_tokens=1_000, workers=1
    )
    prepare(options, report=look)
    assert len(set(seen)) > 5
    assert readers[0].refresh()
    assert readers[0].manifest.complete
    assert readers[0].num_documents == ShardSet.open(tmp_path / "out").num_documents


def test_interrupted_hub_data_set_goes_on_at_its_commit(
    texts: list[str], tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samosa_jax.data.tokenization.BATCH_DOCUMENTS", 16)
    parts = [texts[start : start + 100] for start in range(0, 400, 100)]
    whole = {
        f"data/{i}.jsonl": write_rows(tmp_path / "part.jsonl", part).read_bytes()
        for i, part in enumerate(parts)
    }
    broken = whole | {"data/3.jsonl": whole["data/3.jsonl"][:-1] + b"!"}  # the size stays as it was
    options = {
        "inputs": ("hf://owner/name/data",),
        "validation": ValidationRule(val_frac=0.1, val_documents=5),
        "shard_tokens": 2_000,
    }
    with serve(Hub(repo="owner/name", commits={COMMIT: whole})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        run(tmp_path, tokenizer_dir, tmp_path / "whole", **options)
        hub.commits = {COMMIT: broken}
        with pytest.raises(UserError, match=r"data/3.jsonl: row 100 is not JSON"):
            run(tmp_path, tokenizer_dir, tmp_path / "out", **options)
        assert num_shards(tmp_path / "out") > 2
        hub.commits = {"d" * 40: {"data/0.jsonl": b"{}"}, COMMIT: whole}  # main has moved on
        hub.requests.clear()
        assert run(tmp_path, tokenizer_dir, tmp_path / "out", **options).state == "resumed"
        assert hub.downloads() == ["3.jsonl"]
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        options["validation"] = ValidationRule(val_documents=5)
        refused("add --val-frac", tmp_path, tokenizer_dir, tmp_path / "other", **options)


# Refusals ------------------------------------------------------------


def refused(match: str, path: Path, tokenizer_dir: Path, out: Path, **options: Any) -> None:
    before = contents(out)
    with pytest.raises(UserError, match=match) as caught:
        run(path, tokenizer_dir, out, **options)
    assert "\n" not in str(caught.value)
    assert contents(out) == before


def test_mixing_is_refused_and_the_difference_named(
    texts: list[str], stories_file: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(stories_file, tokenizer_dir, out)
    refused(
        "begun with --min-chars 0, now it is 9;",
        stories_file,
        tokenizer_dir,
        out,
        filtering=FilterOptions(min_chars=9),
    )
    refused("begun with --shard-tokens 20000, now", stories_file, tokenizer_dir, out, shard_tokens=400)
    refused(
        "begun with --seed 0, now it is 3;",
        stories_file,
        tokenizer_dir,
        out,
        validation=ValidationRule(seed=3),
    )
    other = write_rows(tmp_path / "b.jsonl", texts[:9])
    refused(
        r"begun with --input .*stories.jsonl.gz, now it is .*b.jsonl; add it with --append",
        other,
        tokenizer_dir,
        out,
    )
    refused(
        "begun with --val-frac None",
        other,
        tokenizer_dir,
        out,
        append=True,
        validation=ValidationRule(val_frac=0.5),
    )
    tokenizer_training.write(
        tokenizer_training.train(
            tokenizer_training.draw_sample(texts[:400], max_bytes=1_000_000, seed=0),
            tokenizer_training.TokenizerOptions(vocab_size=550),
            inputs=["stories"],
        ),
        tmp_path / "tok2",
    )
    refused("begun with tokenizer .*; give --tokenizer", stories_file, tmp_path / "tok2", out)
    damaged = out / "train-00001.tokens.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    refused("train-00001.tokens.npy: truncated", stories_file, tokenizer_dir, out)


def test_changed_input_is_noticed_when_going_on(
    texts: list[str], tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samosa_jax.data.tokenization.BATCH_DOCUMENTS", 16)
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in" / "a.jsonl", texts[:60])
    broken = write_rows(tmp_path / "in" / "b.jsonl", texts[60:90])
    broken.write_bytes(broken.read_bytes() + b"{\n")
    with pytest.raises(UserError, match=r"b.jsonl: row 31 is not JSON"):
        run(tmp_path / "in", tokenizer_dir, tmp_path / "out", shard_tokens=1_000)
    assert num_shards(tmp_path / "out") > 0
    write_rows(broken, texts[60:91])
    refused(
        r"the input .*b.jsonl has changed since",
        tmp_path / "in",
        tokenizer_dir,
        tmp_path / "out",
        shard_tokens=1_000,
    )


def test_options_may_change_while_nothing_is_written(
    texts: list[str], tokenizer_dir: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "a.jsonl", texts[:30])
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"no document is left of 30 rows \(dropped: 30 short\); loosen"):
        run(path, tokenizer_dir, out, filtering=FilterOptions(min_chars=100_000))
    assert run(path, tokenizer_dir, out).state == "new"
    fresh = run(path, tokenizer_dir, tmp_path / "fresh")
    assert fresh.statistics.kept == 30
    assert contents(out) == contents(tmp_path / "fresh")


def test_validation_that_cannot_be(texts: list[str], tokenizer_dir: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", texts[:10])
    with pytest.raises(UserError, match="--val-documents is 10, but the input has 10 documents"):
        run(path, tokenizer_dir, tmp_path / "out", validation=ValidationRule(val_documents=10))
    assert len(decoded_after(path, tokenizer_dir, tmp_path / "nine", val_documents=9)) == 9
    one = write_rows(tmp_path / "b.jsonl", [next(held_out(texts))])
    with pytest.raises(UserError, match="all 1 documents fell to validation"):
        run(one, tokenizer_dir, tmp_path / "one", validation=ValidationRule(val_frac=0.1))


def decoded_after(path: Path, tokenizer_dir: Path, out: Path, *, val_documents: int) -> list[str]:
    run(path, tokenizer_dir, out, validation=ValidationRule(val_documents=val_documents))
    return decoded(out, "val")


def held_out(texts: list[str]) -> Iterator[str]:
    rule = ValidationRule(val_frac=0.1)
    threshold = rule.fixed_threshold
    assert threshold is not None
    return (text for text in texts if rule.key(content_hash(text.encode())) < threshold)


def test_two_writers_and_foreign_folders(stories_file: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(
        "--input", stories_file, "--tokenizer", tokenizer_dir, "--out", out, "--shard-tokens", 100
    )
    while num_shards(out) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UserError, match="another `prepare` is writing here"):
            run(stories_file, tokenizer_dir, out)
    finally:
        process.send_signal(signal.SIGINT)  # waits for it to go on
        process.send_signal(signal.SIGCONT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in error
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("keep")
    refused("not an empty folder", stories_file, tokenizer_dir, tmp_path / "home")
    with pytest.raises(UserError, match=r"--out .* lies inside the input"):
        run(tmp_path, tokenizer_dir, tmp_path / "inside")
    with pytest.raises(UserError, match=r"none.jsonl: no such file"):
        run(tmp_path / "none.jsonl", tokenizer_dir, tmp_path / "never")
    assert not (tmp_path / "never").exists()
    with pytest.raises(UserError, match="is a file; --out names a folder"):
        run(stories_file, tokenizer_dir, tmp_path / "home" / "thesis.txt")
