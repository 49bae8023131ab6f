"""Packing of whole items into rows, and the rows of epochs laid end to end."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.data.chat import packing
from samosa_jax.data.chat.packing import EpochRows, RowPlan, epoch_order, pack


def rows_of(plan) -> list[list[int]]:
    bounds = plan.bounds.tolist()
    return [plan.items[a:b].tolist() for a, b in itertools.pairwise(bounds)]


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 40), max_size=80),
    capacity=st.integers(40, 90),
    max_items=st.none() | st.integers(1, 4),
    lookahead=st.integers(1, 20),
)
def test_every_item_is_packed_once_whole_and_every_row_holds_one(sizes, capacity, max_items, lookahead):
    plan = pack(np.array(sizes, np.int64), capacity=capacity, max_items=max_items, lookahead=lookahead)
    rows = rows_of(plan)
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    for row in rows:
        assert row
        assert sum(sizes[item] for item in row) <= capacity
        assert max_items is None or len(row) <= max_items


@settings(max_examples=100)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=60), lookahead=st.integers(1, 10))
def test_what_has_waited_longest_begins_the_row(sizes, lookahead):
    rows = rows_of(pack(np.array(sizes, np.int64), capacity=50, lookahead=lookahead))
    packed: set[int] = set()
    for row in rows:
        assert row[0] == min(set(range(len(sizes))) - packed)
        packed |= set(row)


def test_best_fit_by_hand():
    # 6 waits longest; of 10 - 6 = 4 the largest that fits is 4; then 7 with 3, then what is left.
    assert rows_of(pack(np.array([6, 7, 3, 4, 5, 2]), capacity=10)) == [[0, 3], [1, 2], [4, 5]]
    # With one waiting at a time they come in their order.
    assert rows_of(pack(np.array([6, 7, 3, 4]), capacity=10, lookahead=1)) == [[0], [1, 2], [3]]


@pytest.mark.parametrize("size", [0, 11])
def test_what_fits_no_row_is_refused(size: int):
    with pytest.raises(ValueError, match=r"a row holds 1\.\.10"):
        pack(np.array([3, size]), capacity=10)


def test_little_is_wasted_on_sizes_like_those_of_chat():
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(5.0, 1.0, 5000).astype(np.int64), 2, 2048)
    plan = pack(sizes, capacity=2048)
    assert sizes.sum() / (plan.num_rows * 2048) > 0.99


def test_an_epoch_shows_everything_as_often_as_asked_for():
    shown = []
    for epoch in (0, 1):
        source, item = epoch_order([4, 10], [3, 1.5], seed=1, epoch=epoch)
        first = np.bincount(item[source == 0], minlength=4)
        second = np.bincount(item[source == 1], minlength=10)
        assert first.tolist() == [3, 3, 3, 3]
        assert sorted(second.tolist()) == [1] * 5 + [2] * 5
        shown.append((source, item, second))
    assert (shown[0][2] != shown[1][2]).any()  # other items are shown once more in another epoch
    assert (shown[0][1] != shown[1][1]).any()
    again = epoch_order([4, 10], [3, 1.5], seed=1, epoch=0)
    assert (again[0] == shown[0][0]).all()
    assert (again[1] == shown[0][1]).all()
    assert (epoch_order([4, 10], [3, 1.5], seed=2, epoch=0)[1] != again[1]).any()


def make_rows(seed: int = 3) -> EpochRows:
    rng = np.random.default_rng(0)
    sizes = [rng.integers(1, 60, 50), rng.integers(1, 60, 30)]
    return EpochRows(sizes, [1, 2], capacity=64, seed=seed)


def test_any_row_is_found_without_those_before_it():
    read = make_rows()
    count = read.rows_in(3)
    rows = [read.row(index) for index in range(count)]
    for index in np.random.default_rng(1).permutation(count):
        row = make_rows().row(int(index))
        assert (row.source == rows[index].source).all()
        assert (row.item == rows[index].item).all()
        assert row.epoch == rows[index].epoch
    # Each of three epochs shows everything.
    ends = [read.rows_in(epoch) for epoch in range(4)]
    for epoch, (start, stop) in enumerate(itertools.pairwise(ends)):
        assert {row.epoch for row in rows[start:stop]} == {epoch}
        shown = sorted(
            (s, i)
            for row in rows[start:stop]
            for s, i in zip(row.source.tolist(), row.item.tolist(), strict=True)
        )
        assert shown == sorted([(0, i) for i in range(50)] + 2 * [(1, i) for i in range(30)])
    assert any((make_rows(4).row(index).item.tolist()) != rows[index].item.tolist() for index in range(5))


def test_where_an_epoch_ends_none_is_packed_again_and_again(monkeypatch: pytest.MonkeyPatch):
    """Several reading threads ask for rows on both sides of the border in turn."""
    packed = []

    def counting(sizes: np.ndarray, **options: Any) -> RowPlan:
        packed.append(len(sizes))
        return pack(sizes, **options)

    monkeypatch.setattr(packing, "pack", counting)
    rows = make_rows()
    border = rows.rows_in(1)
    for _ in range(5):
        assert rows.row(border - 1).epoch == 0
        assert rows.row(border).epoch == 1
    assert packed == [110, 110]


def test_epochs_count_rows():
    rows = make_rows()
    one = rows.rows_in(1)
    assert rows.rows_in(0.5) == -(-one // 2)
    assert rows.rows_in(2) > one
    assert 0.8 < rows.filled() <= 1
    assert rows.num_items == 110
    with pytest.raises(ValueError, match="without a single item"):
        EpochRows([np.zeros(0, np.int64)], [1], capacity=8, seed=0)
