"""Batches: a function of (seed, step) whatever reads them, and nothing of the text lost or seen twice."""

import itertools
import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_folders import BOS, VOCAB_SIZE, document, random_lengths, write_folder

from samosa_jax.config import SourceConfig
from samosa_jax.data.batch import Batch
from samosa_jax.data.mixture import Mixture
from samosa_jax.data.packing import Extension, TokenStream
from samosa_jax.data.pipeline import TrainPipeline, validation_batches
from samosa_jax.data.shard_writer import ShardWriter
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError

WEIGHTS = (83.0, 17.0)
VALIDATION = (5, 1, 30, 12, 2)


def prepare(name: str, folder: Path, *, generations: int | None = None) -> Path:
    """Writes a source as it was when so many of its generations had been prepared; None: all."""
    if name == "large":
        lengths = random_lengths(0, shape=((9, 14), (8,), (6, 3)))
        return write_folder(folder, lengths[:generations], validation=VALIDATION)
    return write_folder(folder, random_lengths(1, shape=((10,), (7,)))[:generations], first_number=500)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sources, of three and two generations; the first holds validation documents."""
    root = tmp_path_factory.mktemp("prepared")
    return [prepare(name, root / name) for name in ("large", "small")]


def open_pipeline(folders: Sequence[Path], **options: Any) -> TrainPipeline:
    sources = [SourceConfig(path=str(path), weight=w) for path, w in zip(folders, WEIGHTS, strict=False)]
    arguments: dict[str, Any] = {"batch_rows": 12, "context_len": 16, "seed": 5} | options
    return TrainPipeline(sources, **arguments)


def assert_same(left: Batch, right: Batch) -> None:
    for name, a, b in zip(Batch._fields, left, right, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def stack(batches: Sequence[Batch]) -> Batch:
    return Batch(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))


def test_a_batch_is_the_rows_of_the_mixture(folders: list[Path]):
    mixture = Mixture(WEIGHTS)
    streams = [
        TokenStream(ShardSet.open(path), seed=5, extensions=[Extension(0, count)])
        for path, count in zip(folders, (3, 2), strict=True)
    ]
    pipeline = open_pipeline(folders)
    for step in (0, 1, 7, 1_000):
        batch = pipeline.batch(step)
        mixed = mixture.rows(step * 12, step * 12 + 12)
        for j, (source, row) in enumerate(zip(mixed.source, mixed.row, strict=True)):
            begin = int(streams[source].row_order(row, row + 1, context_len=16)[0]) * 16
            span = streams[source].read(begin, begin + 17)
            np.testing.assert_array_equal(batch.tokens[j], span.tokens[:-1])
            np.testing.assert_array_equal(batch.targets[j], span.tokens[1:])
            starts = np.where(span.tokens[:-1] == BOS, np.arange(16), 0)
            np.testing.assert_array_equal(batch.k_lo[j], np.maximum.accumulate(starts))


def test_every_token_of_the_first_pass_is_read_once_and_predicted_once(folders: list[Path]):
    pipeline = open_pipeline(folders[:1], batch_rows=1)
    shards = ShardSet.open(folders[0])
    num_rows = -(-shards.num_tokens // 16)
    rows = stack([pipeline.batch(step) for step in range(num_rows)])
    np.testing.assert_array_equal(rows.tokens[:, 1:], rows.targets[:, :-1])
    # The last row goes on in the second pass.
    tokens = rows.tokens.ravel()[: shards.num_tokens]
    everything = np.concatenate([shards.document(i) for i in range(shards.num_documents)])
    np.testing.assert_array_equal(np.sort(tokens), np.sort(everything))
    begins_and_targets = np.append(pipeline.sources[0].stream.read(0, 1).tokens, rows.targets)
    behind = pipeline.sources[0].stream.read(shards.num_tokens, 16 * num_rows + 1).tokens
    np.testing.assert_array_equal(np.sort(begins_and_targets), np.sort(np.append(everything, behind)))


def test_a_long_document_is_spread_over_many_steps(tmp_path: Path):
    """100 tokens, the longest document here, are 25 rows of 4: more than two whole steps of 10 rows."""
    lengths = [*random_lengths(3, shape=((40,),))[0][0], 100, *random_lengths(4, shape=((40,),))[0][0]]
    folder = write_folder(tmp_path / "book", [[lengths]])
    pipeline = open_pipeline([folder], batch_rows=10, context_len=4)
    num_steps = sum(lengths) // 40
    counts = [
        sum(any(part.document == 40 for part in row.parts) for row in pipeline.describe(step).rows)
        for step in range(num_steps)
    ]
    assert sum(counts) >= 25
    assert max(counts) <= 4
    assert sum(count > 0 for count in counts) >= 15


@settings(max_examples=20)
@given(
    process_count=st.sampled_from([1, 2, 3, 6]),
    num_threads=st.integers(0, 3),
    prefetch_batches=st.integers(0, 4),
    start_step=st.integers(0, 200),
    seed=st.integers(0, 2),
)
def test_order_does_not_depend_on_who_reads(
    folders: list[Path],
    process_count: int,
    num_threads: int,
    prefetch_batches: int,
    start_step: int,
    seed: int,
):
    expected = [open_pipeline(folders, seed=seed).batch(step) for step in range(start_step, start_step + 3)]
    by_process = [
        open_pipeline(
            folders,
            seed=seed,
            num_threads=num_threads,
            prefetch_batches=prefetch_batches,
            process_index=index,
            process_count=process_count,
        ).batches(start_step)
        for index in range(process_count)
    ]
    for whole in expected:
        assert_same(stack([next(batches) for batches in by_process]), whole)


def test_seed_and_masking_are_not_ignored(folders: list[Path]):
    batch = open_pipeline(folders).batch(3)
    assert (open_pipeline(folders, seed=6).batch(3).tokens != batch.tokens).any()
    unmasked = open_pipeline(folders, document_masking=False).batch(3)
    np.testing.assert_array_equal(unmasked.tokens, batch.tokens)
    assert (unmasked.k_lo == 0).all()
    assert (batch.k_lo > 0).any()


def test_shares_of_a_step(folders: list[Path]):
    pipeline = open_pipeline(folders, batch_rows=100)
    for step in (0, 11):
        sources = [row.source for row in pipeline.describe(step).rows]
        assert sources.count(str(folders[0])) == 83
        assert sources.count(str(folders[1])) == 17


@pytest.mark.parametrize("step", [0, 2, 300])
def test_describe_names_every_token_of_the_step(folders: list[Path], step: int):
    pipeline = open_pipeline(folders)
    batch = pipeline.batch(step)
    description = pipeline.describe(step)
    shards = {str(path): ShardSet.open(path) for path in folders}
    for tokens, row in zip(batch.tokens, description.rows, strict=True):
        assert row.num_cropped == 0
        told = [shards[row.source].tokens(part.document, part.start, part.stop) for part in row.parts]
        np.testing.assert_array_equal(np.concatenate(told), tokens)
        for part, part_tokens in zip(row.parts, told, strict=True):
            assert part.first_tokens == tuple(part_tokens[:16].tolist())
            assert part.length == len(shards[row.source].document(part.document))
            bounds = shards[row.source].generation_bounds[part.generation]
            assert bounds[0] <= part.document < bounds[1]
    assert (description.used_frac, description.padded_frac, description.cropped_frac) == (1.0, 0.0, 0.0)
    assert description.split_documents >= 2
    assert {part.visit > 0 for row in description.rows for part in row.parts} == {step == 300}


@pytest.mark.parametrize("step", [0, 1, 40])
def test_a_resumed_run_reads_on_in_the_same_order(folders: list[Path], step: int):
    pipeline = open_pipeline(folders)
    state = json.loads(json.dumps(pipeline.data_state(step)))
    resumed = open_pipeline(folders, state=state)
    for following in range(step, step + 4):
        assert_same(resumed.batch(following), pipeline.batch(following))
    assert resumed.data_state(step) == state


@pytest.mark.parametrize("step", [1, 6, 40])  # the first pass over one generation ends before step 6
def test_appended_text_leaves_old_steps_alone_and_is_read(folders: list[Path], tmp_path: Path, step: int):
    old = [prepare(path.name, tmp_path / path.name, generations=1) for path in folders]
    before = open_pipeline(old)
    state = before.data_state(step)
    after = open_pipeline(folders, state=state)
    for past in range(step):
        assert_same(after.batch(past), before.batch(past))
    fresh = open_pipeline(folders)
    differs = [(after.batch(past).tokens != fresh.batch(past).tokens).any() for past in range(step)]
    assert any(differs) == (step >= 6), "only in the first pass is the order that of a new run"
    generations = {
        (part.generation, part.visit)
        for following in range(step, step + 12)
        for row in after.describe(following).rows
        for part in row.parts
    }
    assert {(1, 0), (2, 0)} <= generations

    again = open_pipeline(folders, state=json.loads(json.dumps(after.data_state(step + 1))))
    assert_same(again.batch(step + 5), after.batch(step + 5))


def grow(folder: Path, lengths: Sequence[Sequence[int]], *, started: threading.Event) -> None:
    writer = begin_folder(folder)
    number = 0
    for shard in lengths:
        for length in shard:
            writer.add(document(number, length))
            number += 1
        writer.commit()
        started.set()
        time.sleep(0.15)
    writer.finish()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_training_while_prepare_writes_reads_the_same_order(
    tmp_path: Path, num_threads: int, caplog: pytest.LogCaptureFixture
):
    lengths = random_lengths(2, shape=((6, 4, 9, 5),))
    whole = write_folder(tmp_path / "whole", lengths)
    growing = tmp_path / "growing"
    started = threading.Event()
    writer = threading.Thread(target=grow, args=(growing, lengths[0]), kwargs={"started": started})
    writer.start()
    started.wait()
    options = {"batch_rows": 2, "num_threads": num_threads}
    with caplog.at_level(logging.WARNING):
        early = open_pipeline([growing], wait_for_shards=True, wait_timeout_s=3.0, **options)
        assert early.sources[0].stream.num_readable is not None, "it was complete already: nothing is tested"
        found = list(itertools.islice(early.batches(), 20))
    writer.join()
    expected = open_pipeline([whole], **options)
    for step, batch in enumerate(found):
        assert_same(batch, expected.batch(step))
    assert "waiting for `prepare` to write the next shard" in caplog.text


def begin_folder(folder: Path) -> ShardWriter:
    return ShardWriter.create(folder, vocab_size=VOCAB_SIZE, bos_id=BOS, tokenizer_fingerprint="a" * 64)


def test_a_wait_in_vain_ends_with_an_error(tmp_path: Path):
    writer = begin_folder(tmp_path / "stuck")
    writer.add(document(0, 64))  # all of two batches but the last target
    writer.commit()
    with pytest.raises(UserError, match=r"stuck: `prepare` has not finished it"):
        open_pipeline([tmp_path / "stuck"])
    batches = open_pipeline(
        [tmp_path / "stuck"], batch_rows=2, wait_for_shards=True, wait_timeout_s=0.2
    ).batches()
    next(batches)
    with pytest.raises(UserError, match=r"stuck: no new shard for 0.2 s") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


def test_a_wait_that_ends_with_too_little_text(tmp_path: Path):
    writer = begin_folder(tmp_path / "tiny")
    pipeline = open_pipeline([tmp_path / "tiny"], wait_for_shards=True)
    writer.finish()
    with pytest.raises(UserError, match=r"tiny: 0 training tokens, fewer than the 17 of one row"):
        pipeline.batch(0)


def test_closing_the_iterator_ends_a_wait(tmp_path: Path):
    writer = begin_folder(tmp_path / "slow")
    writer.add(document(0, 40))
    writer.commit()
    before = set(threading.enumerate())
    batches = open_pipeline([tmp_path / "slow"], batch_rows=2, wait_for_shards=True).batches()
    next(batches)
    waiting = set(threading.enumerate()) - before
    assert waiting, "nobody reads ahead"
    batches.close()
    for thread in waiting:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_a_run_that_has_read_nothing_starts_afresh(tmp_path: Path):
    writer = begin_folder(tmp_path / "late")
    state = open_pipeline([tmp_path / "late"], wait_for_shards=True).data_state(0)
    writer.finish()
    writer.begin_generation()
    writer.add(document(0, 90))
    writer.finish()
    resumed = open_pipeline([tmp_path / "late"], state=state)
    assert_same(resumed.batch(0), open_pipeline([tmp_path / "late"]).batch(0))


def test_an_unfinished_append_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = prepare("large", tmp_path / "appending", generations=1)
    expected = open_pipeline([folder]).batch(30)
    writer = ShardWriter(folder, ShardSet.open(folder).manifest)
    writer.begin_generation()
    writer.add(document(900, 30))
    writer.commit()
    with caplog.at_level(logging.WARNING):
        assert_same(open_pipeline([folder]).batch(30), expected)
    assert "generation 1 is not finished and is left out" in caplog.text


def test_a_state_of_another_run_is_refused(folders: list[Path], tmp_path: Path):
    state = open_pipeline(folders).data_state(4)
    with pytest.raises(UserError, match=r"seed: seed is 6, the checkpoint was written with 5"):
        open_pipeline(folders, seed=6, state=state)
    with pytest.raises(UserError, match=r"context_len is 8, the checkpoint was written with 16"):
        open_pipeline(folders, context_len=8, state=state)
    with pytest.raises(UserError, match=r"data.sources: weights is \[83, 17\], .* with \[1\]"):
        open_pipeline(folders, state=state | {"weights": [1]})
    with pytest.raises(UserError, match=r"version 9, this program reads version 1"):
        open_pipeline(folders, state=state | {"version": 9})
    other = write_folder(tmp_path / "other", random_lengths(8, shape=((9, 14), (8,), (6, 3))))
    with pytest.raises(
        UserError, match=r"other: its first 5 shards are not those the checkpoint was written"
    ):
        open_pipeline([other, folders[1]], state=state)
    shorter = prepare("large", tmp_path / "shorter", generations=2)
    with pytest.raises(
        UserError, match=r"shorter: 2 finished generations, the checkpoint was written with 3"
    ):
        open_pipeline([shorter, folders[1]], state=state)


def test_what_cannot_be_trained_on(folders: list[Path], tmp_path: Path):
    with pytest.raises(UserError, match=r"small: \d+ training tokens, fewer than the 2049 of one row"):
        open_pipeline([folders[1]], context_len=2_048)
    empty = write_folder(tmp_path / "empty", [[]], validation=[5])
    with pytest.raises(UserError, match=r"empty: 0 training tokens"):
        open_pipeline([empty])
    foreign = write_folder(tmp_path / "foreign", [[[20, 30]]], tokenizer_fingerprint="b" * 64)
    with pytest.raises(UserError, match=r"foreign was prepared with tokenizer bbbb.*, .*large with aaaa"):
        open_pipeline([folders[0], foreign])
    with pytest.raises(UserError, match=r"names .*large twice"):
        open_pipeline([folders[0], folders[0]])
    with pytest.raises(UserError, match=r"12 rows, which 5 processes cannot share"):
        open_pipeline(folders, process_count=5)
    with pytest.raises(UserError, match=r"nowhere: no prepared data here"):
        open_pipeline([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"seed is -1; it must be 0 or more"):
        open_pipeline(folders, seed=-1)


def token_bytes() -> np.ndarray:
    table = np.arange(VOCAB_SIZE, dtype=np.int32) % 7 + 1
    table[BOS] = 0
    return table


@given(batch_rows=st.sampled_from([2, 4, 6]), context_len=st.integers(1, 60), max_tokens=st.integers(0, 60))
def test_validation_predicts_every_token_once(
    folders: list[Path], batch_rows: int, context_len: int, max_tokens: int
):
    shards = ShardSet.open(folders[0], split="val")
    tokens = np.concatenate([shards.document(i) for i in range(shards.num_documents)])
    expected = tokens[1:][: max_tokens or None]
    options = {"context_len": context_len, "token_bytes": token_bytes(), "max_tokens": max_tokens}
    found = list(validation_batches(shards, batch_rows=batch_rows, **options))
    batch = stack([item.batch for item in found])
    is_text = batch.k_hi > batch.k_lo
    np.testing.assert_array_equal(batch.targets[is_text], expected)
    np.testing.assert_array_equal(batch.tokens[is_text], tokens[:-1][: max_tokens or None])
    np.testing.assert_array_equal(batch.weights[is_text], expected != BOS)
    for array in batch:
        assert not array[~is_text].any(), "padding is zero everywhere"
    assert sum(item.num_tokens for item in found) == batch.weights.sum() == np.count_nonzero(expected)
    assert sum(item.num_bytes for item in found) == token_bytes()[expected].sum()

    halves = [
        list(validation_batches(shards, batch_rows=batch_rows, process_index=i, process_count=2, **options))
        for i in range(2)
    ]
    for whole, *parts in zip(found, *halves, strict=True):
        assert_same(stack([part.batch for part in parts]), whole.batch)
        assert {part.num_bytes for part in parts} == {whole.num_bytes}


def test_all_of_validation_is_all_its_bytes(folders: list[Path]):
    shards = ShardSet.open(folders[0], split="val")
    found = validation_batches(shards, batch_rows=2, context_len=8, token_bytes=token_bytes())
    every = np.concatenate([shards.document(i) for i in range(len(VALIDATION))])
    assert sum(item.num_bytes for item in found) == token_bytes()[every].sum()


def test_validation_that_cannot_be(folders: list[Path]):
    with pytest.raises(UserError, match=r"small: no val documents; prepare it with some held out"):
        validation_batches(
            ShardSet.open(folders[1], split="val"), batch_rows=2, context_len=8, token_bytes=token_bytes()
        )
    with pytest.raises(UserError, match=r"vocabulary of 100000 tokens, the tokenizer in use has 10"):
        validation_batches(
            ShardSet.open(folders[0], split="val"),
            batch_rows=2,
            context_len=8,
            token_bytes=np.ones(10, np.int32),
        )
