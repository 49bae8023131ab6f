"""Rows from documents: every token once, the same at any position, unchanged by what is appended."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import BOS, VOCAB_SIZE, document, random_lengths, write_folder

from samosa_jax.data.packing import (
    Extension,
    TokenStream,
    bounds_of,
    make_batch,
    seeded_permutation,
    split_spans,
)
from samosa_jax.data.shard_writer import ShardWriter
from samosa_jax.data.shards import ShardSet

SHAPE = ((7, 1, 12), (5,), (1, 9))  # documents per shard, three generations
SHARDS_OF_GENERATIONS = (0, 3, 4, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "shards", random_lengths(0, shape=SHAPE))


@pytest.fixture(scope="module")
def shards(folder: Path) -> ShardSet:
    return ShardSet.open(folder)


def make_stream(shards: ShardSet, *extensions: tuple[int, int], seed: int = 3) -> TokenStream:
    return TokenStream(shards, seed=seed, extensions=[Extension(*pair) for pair in extensions])


def shard_documents(shards: ShardSet, index: int) -> np.ndarray:
    bounds = bounds_of([count for generation in SHAPE for count in generation])
    return np.arange(bounds[index], bounds[index + 1])


def passes_by_hand(
    shards: ShardSet, extensions: Sequence[tuple[int, int]], *, seed: int
) -> Iterator[np.ndarray]:
    """The rule of `TokenStream` told a second time, as plain loops: the tokens of one pass after another."""
    first_passes = dict(extensions)
    known = repeats = 0
    for number in itertools.count():
        if number in first_passes:
            before, known = known, SHARDS_OF_GENERATIONS[first_passes[number]]
            order, visit = list(range(before, known)), 0
        else:
            repeats += 1
            order, visit = seeded_permutation(known, key=(seed, 1, repeats)).tolist(), repeats
        documents = [
            shards.document(i)
            for shard in order
            for i in shard_documents(shards, shard)[
                seeded_permutation(len(shard_documents(shards, shard)), key=(seed, 0, visit, shard))
            ]
        ]
        yield np.concatenate([np.zeros(0, int), *documents])


def stream_by_hand(
    shards: ShardSet, extensions: Sequence[tuple[int, int]], *, seed: int, length: int
) -> np.ndarray:
    found = np.zeros(0, int)
    for tokens in passes_by_hand(shards, extensions, seed=seed):
        found = np.concatenate([found, tokens])
        if len(found) >= length:
            return found[:length]
    raise AssertionError("the passes have no end")


def test_permutations_are_the_same_on_every_machine_and_version():
    assert seeded_permutation(8, key=(1, 0, 0, 0)).tolist() == [2, 0, 1, 4, 5, 6, 7, 3]
    assert (
        seeded_permutation(8, key=(2, 0, 0, 0)).tolist() != seeded_permutation(8, key=(1, 0, 0, 0)).tolist()
    )
    assert sorted(seeded_permutation(1_000, key=(5, 1)).tolist()) == list(range(1_000))


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    ends=st.lists(st.tuples(st.integers(0, 180), st.integers(0, 180)), min_size=1, max_size=5),
)
def test_split_spans_finds_every_item_of_every_span(lengths: list[int], ends: list[tuple[int, int]]):
    total = sum(lengths)
    spans = [sorted((first % total, last % total)) for first, last in ends]
    starts, lasts = np.array(spans).T
    parts = split_spans(bounds_of(lengths), starts=starts, stops=lasts + 1)
    found = [
        (span, item, offset)
        for span, item, begin, end in zip(*parts, strict=True)
        for offset in range(begin, end)
    ]
    every = [(item, offset) for item, length in enumerate(lengths) for offset in range(length)]
    expected = [(i, *token) for i, (first, last) in enumerate(spans) for token in every[first : last + 1]]
    assert found == expected


def test_a_pass_holds_every_token_once_and_whole_documents(shards: ShardSet):
    stream = make_stream(shards, (0, 3))
    total = shards.num_tokens
    everything = np.sort(np.concatenate([shards.document(i) for i in range(shards.num_documents)]))
    first, second = stream.read(0, total), stream.read(total, 2 * total)
    for span in (first, second):
        np.testing.assert_array_equal(np.sort(span.tokens), everything)
        np.testing.assert_array_equal(span.begins_document, span.tokens == BOS)
        inside = ~span.begins_document
        inside[:-1] &= inside[1:]
        after_bos = np.flatnonzero(inside[:-1])
        assert (np.diff(span.tokens)[after_bos] == 1).all(), "a document is torn apart"
    assert (first.tokens != second.tokens).any()
    assert (make_stream(shards, (0, 3), seed=4).read(0, total).tokens != first.tokens).any()


def test_the_first_pass_reads_shards_as_written_and_later_ones_do_not(shards: ShardSet):
    stream = make_stream(shards, (0, 3))
    total = shards.num_tokens

    def shards_of(start: int, stop: int) -> list[int]:
        visited = [stream.shard_of(document) for document in stream.pieces(start, stop).document]
        return [shard for shard, _ in itertools.groupby(visited)]

    assert shards_of(0, total) == [0, 1, 2, 3, 4, 5]
    later = [shards_of(number * total, (number + 1) * total) for number in range(1, 5)]
    assert all(sorted(order) == [0, 1, 2, 3, 4, 5] for order in later)
    assert len(set(map(tuple, later))) > 1


# Every list of extensions that four resumes can leave behind.
extension_lists = st.sampled_from(
    [
        [(0, 1)],
        [(0, 2)],
        [(0, 3)],
        [(0, 1), (1, 2)],
        [(0, 1), (3, 2)],
        [(0, 1), (1, 3)],
        [(0, 2), (2, 3)],
        [(0, 1), (1, 2), (2, 3)],
        [(0, 1), (2, 2), (5, 3)],
        [(0, 1), (4, 2), (5, 3)],
    ]
)


@given(
    extensions=extension_lists,
    seed=st.integers(0, 3),
    start=st.integers(0, 3_000),
    length=st.integers(1, 900),
)
def test_any_span_is_what_reading_from_the_start_gives(
    shards: ShardSet, extensions: list[tuple[int, int]], seed: int, start: int, length: int
):
    stream = make_stream(shards, *extensions, seed=seed)
    expected = stream_by_hand(shards, extensions, seed=seed, length=start + length)[start:]
    span = stream.read(start, start + length)
    np.testing.assert_array_equal(span.tokens, expected)
    np.testing.assert_array_equal(span.begins_document, expected == BOS)


@given(
    extensions=extension_lists,
    spans=st.lists(st.tuples(st.integers(0, 1_500), st.integers(1, 400)), min_size=1, max_size=6),
)
def test_many_spans_at_once_are_each_of_them_in_turn(
    shards: ShardSet, extensions: list[tuple[int, int]], spans: list[tuple[int, int]]
):
    stream = make_stream(shards, *extensions)
    starts, lengths = np.array(spans).T
    together = stream.read(starts, starts + lengths)
    alone = [stream.read(start, start + length) for start, length in spans]
    np.testing.assert_array_equal(together.tokens, np.concatenate([span.tokens for span in alone]))
    np.testing.assert_array_equal(
        together.begins_document, np.concatenate([span.begins_document for span in alone])
    )


def count_rows(stream: TokenStream, *, num_passes: int, context_len: int) -> int:
    """How many rows begin in the first num_passes passes."""
    return -(-stream.get_pass(num_passes).start // context_len)


def rows_by_hand(stream: TokenStream, *, num_rows: int, context_len: int) -> list[int]:
    """The rule of `row_order` told a second time: all rows, grouped by where they begin."""
    begins = np.arange(num_rows) * context_len
    first_tokens = stream.pieces(begins, begins + 1)
    begin_in = [
        (visit, stream.shard_of(document))
        for visit, document in zip(first_tokens.visit.tolist(), first_tokens.document.tolist(), strict=True)
    ]
    found: list[int] = []
    for key, group in itertools.groupby(range(num_rows), key=begin_in.__getitem__):
        *rows, last = group
        order = seeded_permutation(len(rows), key=(stream.seed, 2, *key))
        found += [*(rows[i] for i in order), last]
    return found


@given(
    extensions=extension_lists,
    seed=st.integers(0, 3),
    context_len=st.integers(1, 70),
    ends=st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)),
)
def test_any_rows_are_what_ordering_from_the_start_gives(
    shards: ShardSet,
    extensions: list[tuple[int, int]],
    seed: int,
    context_len: int,
    ends: tuple[int, int],
):
    stream = make_stream(shards, *extensions, seed=seed)
    num_rows = count_rows(stream, num_passes=3, context_len=context_len)
    start, last = sorted(end % num_rows for end in ends)
    expected = rows_by_hand(stream, num_rows=num_rows, context_len=context_len)[start : last + 1]
    assert stream.row_order(start, last + 1, context_len=context_len).tolist() == expected


@given(extensions=extension_lists, context_len=st.integers(1, 70), number=st.integers(0, 6))
def test_a_pass_holds_every_row_once(
    shards: ShardSet, extensions: list[tuple[int, int]], context_len: int, number: int
):
    stream = make_stream(shards, *extensions)
    start = count_rows(stream, num_passes=number, context_len=context_len)
    stop = count_rows(stream, num_passes=number + 1, context_len=context_len)
    rows = stream.row_order(start, stop, context_len=context_len)
    assert sorted(rows.tolist()) == list(range(start, stop))


def test_the_order_of_rows_is_the_same_on_every_machine_and_version(tmp_path: Path):
    shards = ShardSet.open(write_folder(tmp_path / "two", [[[40] * 4, [25] * 3]]))
    stream = make_stream(shards, (0, 1))
    passes = [stream.row_order(i, i + 12, context_len=20).tolist() for i in (0, 12)]
    # Row 8 begins the second shard; the second pass begins with that shard.
    assert passes == [
        [2, 3, 6, 4, 1, 5, 0, 7, 9, 10, 8, 11],
        [13, 12, 14, 15, 20, 19, 17, 18, 21, 22, 16, 23],
    ]
    other = make_stream(shards, (0, 1), seed=4)
    assert other.row_order(0, 12, context_len=20).tolist() != passes[0]


@pytest.mark.parametrize("context_len", [1, 7, 16, 50])
def test_a_row_waits_for_no_shard_but_its_own(tmp_path: Path, context_len: int):
    lengths = random_lengths(4, shape=((6, 1, 9, 5, 3),))[0]
    whole = make_stream(ShardSet.open(write_folder(tmp_path / "whole", [lengths])), (0, 1))
    writer = ShardWriter.create(
        tmp_path / "part", vocab_size=VOCAB_SIZE, bos_id=BOS, tokenizer_fingerprint="a" * 64
    )
    numbers = itertools.count()
    for shard in lengths:
        for length in shard:
            writer.add(document(next(numbers), length))
        writer.commit()
        early = make_stream(ShardSet.open(tmp_path / "part"), (0, 1))
        readable = early.num_readable
        assert readable is not None
        num_rows = (readable - 1) // context_len
        rows = early.row_order(0, num_rows, context_len=context_len)
        np.testing.assert_array_equal(rows, whole.row_order(0, num_rows, context_len=context_len))
        begins, ends = rows * context_len, (rows + 1) * context_len + 1
        assert ends.max() == readable - (readable - 1) % context_len
        np.testing.assert_array_equal(early.read(begins, ends).tokens, whole.read(begins, ends).tokens)


@given(
    extensions=st.sampled_from([[(0, 1)], [(0, 2)], [(0, 1), (2, 2)], [(0, 1), (1, 2)]]),
    context_len=st.integers(1, 70),
    rows_read=st.integers(1, 100),
)
def test_appending_keeps_the_meaning_of_the_current_pass(
    shards: ShardSet, extensions: list[tuple[int, int]], context_len: int, rows_read: int
):
    position = rows_read * context_len
    old = make_stream(shards, *extensions)
    new = make_stream(shards, *old.extended(3, position=position))
    standing = old.get_pass(old.pass_at(position))
    end = standing.start + int(standing.bounds[-1])
    assert standing.start <= position < end
    np.testing.assert_array_equal(old.read(0, end).tokens, new.read(0, end).tokens)
    num_rows = -(-end // context_len)
    rows = old.row_order(0, num_rows, context_len=context_len)
    np.testing.assert_array_equal(rows, new.row_order(0, num_rows, context_len=context_len))
    begins = rows[:rows_read] * context_len
    ends = begins + context_len + 1
    np.testing.assert_array_equal(old.read(begins, ends).tokens, new.read(begins, ends).tokens)

    first_new = SHARDS_OF_GENERATIONS[
        max(count for first, count in extensions if first <= old.pass_at(position))
    ]
    num_new = int(new.known.first_token[-1] - new.known.first_token[first_new])
    behind = new.pieces(end, end + num_new)
    assert (behind.visit == 0).all(), "text is repeated before the new text is read"
    read = [new.shard_of(document) for document in behind.document]
    assert read == sorted(read)
    assert set(read) == set(range(first_new, SHARDS_OF_GENERATIONS[3]))
    assert old.extended(extensions[-1][1], position=position) == old.extensions


@given(position=st.integers(1, 300), later=st.integers(0, 2_000))
def test_in_the_first_pass_appending_is_as_if_all_had_been_there(shards: ShardSet, position: int, later: int):
    old = make_stream(shards, (0, 1))
    position = min(position, old.num_tokens - 1)
    new = make_stream(shards, *old.extended(3, position=position))
    whole = make_stream(shards, (0, 3))
    np.testing.assert_array_equal(new.read(later, later + 300).tokens, whole.read(later, later + 300).tokens)


def test_an_extension_that_was_not_reached_is_planned_anew(shards: ShardSet):
    stream = make_stream(shards, (0, 1), (2, 2))
    assert stream.extended(3, position=stream.get_pass(1).start) == (Extension(0, 1), Extension(2, 3))


def batch_by_hand(
    begins: list[list[bool]], *, document_masking: bool
) -> tuple[list[list[int]], list[list[int]]]:
    k_lo, position = [], []
    for row in begins:
        start, lows, positions = 0, [], []
        for column, begin in enumerate(row):
            start = column if begin and document_masking else start
            lows.append(start)
            positions.append(column - start)
        k_lo.append(lows)
        position.append(positions)
    return k_lo, position


@given(data=st.data(), document_masking=st.booleans())
def test_ranges_and_positions_follow_the_documents(data: st.DataObject, document_masking: bool):
    rows, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    begins = data.draw(st.lists(row, min_size=rows, max_size=rows))
    tokens = np.arange(rows * length, dtype=np.int32).reshape(rows, length)
    batch = make_batch(tokens, tokens + 1, np.array(begins), document_masking=document_masking)
    k_lo, position = batch_by_hand(begins, document_masking=document_masking)
    assert batch.k_lo.tolist() == k_lo
    assert batch.position.tolist() == batch.turn_position.tolist() == position
    assert batch.k_hi.tolist() == [list(range(1, length + 1))] * rows
    assert (batch.weights == 1).all()
    dtypes = {name: array.dtype for name, array in batch._asdict().items()}
    assert dtypes.pop("weights") == np.float32
    assert set(dtypes.values()) == {np.dtype(np.int32)}


def test_document_masking_changes_the_ranges():
    begins = np.array([[False, False, True, False]])
    tokens = np.zeros((1, 4), np.int32)
    masked = make_batch(tokens, tokens, begins, document_masking=True)
    open_ = make_batch(tokens, tokens, begins, document_masking=False)
    assert masked.k_lo.tolist() == [[0, 0, 2, 2]]
    assert masked.position.tolist() == [[0, 1, 0, 1]]
    assert open_.k_lo.tolist() == [[0, 0, 0, 0]]
    assert open_.position.tolist() == [[0, 1, 2, 3]]
