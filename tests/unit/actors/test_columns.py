"""Typed columns: they grow, are looked up, and come back from a snapshot to the last bit."""

from __future__ import annotations

import numpy as np

from actors.columns import Column, HandleIndex, Table, group_ends, group_starts

COLUMNS = (
    Column("handle", np.uint32), Column("value", np.float64, np.nan), Column("onset_us", np.int64, -1, "us", width=3),
    Column("is_on", np.bool_, False, width=2),
)  # fmt: skip


def test_rows_get_given_values_and_defaults() -> None:
    table = Table(COLUMNS)
    rows = table.append(2, handle=np.array([7, 8]))
    assert rows == slice(0, 2)
    assert table["handle"].tolist() == [7, 8]
    assert np.isnan(table["value"]).all()
    assert table["onset_us"].tolist() == [[-1, -1, -1]] * 2


def test_growth_keeps_what_was_there() -> None:
    table = Table(COLUMNS)
    for number in range(1000):
        table.append(1, handle=number, onset_us=[number, 0, 1])
    assert table["handle"].tolist() == list(range(1000))
    assert table["onset_us"][999].tolist() == [999, 0, 1]
    assert len(table) == 1000


def test_a_view_is_one_row_as_plain_values() -> None:
    table = Table(COLUMNS)
    table.append(1, handle=7, value=2.5)
    view = table.view(0)
    assert (view.handle, view.value, view.is_on) == (7, 2.5, [False, False])
    assert isinstance(view.handle, int)


def test_a_snapshot_is_a_copy_and_restores_exactly() -> None:
    table = Table(COLUMNS)
    table.append(3, handle=np.arange(3), value=[1.0, np.nan, -0.0], is_on=[[True, False]] * 3)
    snapshot = table.snapshot()
    table["value"][:] = 9
    restored = Table(COLUMNS)
    restored.append(50)
    restored.restore(snapshot)
    assert len(restored) == 3
    np.testing.assert_array_equal(restored["value"], [1.0, np.nan, -0.0])
    assert restored["is_on"].tolist() == [[True, False]] * 3
    restored.append(1, handle=9)
    assert restored["handle"].tolist() == [0, 1, 2, 9]


def test_an_empty_table_goes_through_a_snapshot() -> None:
    restored = Table(COLUMNS)
    restored.restore(Table(COLUMNS).snapshot())
    restored.append(1)
    assert len(restored) == 1


def test_a_column_that_a_snapshot_lacks_gets_its_default() -> None:
    older = Table(COLUMNS[:1])
    older.append(2, handle=[1, 2])
    restored = Table(COLUMNS)
    restored.restore(older.snapshot())
    assert restored["onset_us"].tolist() == [[-1, -1, -1]] * 2


def test_handles_are_found_by_one_look_up() -> None:
    index = HandleIndex()
    index.put(np.array([3, 4_000_000], np.uint32), np.array([0, 1]))
    found = index.rows_of(np.array([4_000_000, 5, 3, 4_294_967_295], np.uint32))
    assert found.tolist() == [1, -1, 0, -1]


def test_occurrences_and_groups() -> None:
    starts = group_starts(np.array([1, 1, 2, 3, 3]))
    assert starts.tolist() == [True, False, True, True, False]
    assert group_ends(starts).tolist() == [1, 2, 4]
    assert group_ends(group_starts(np.empty(0, np.int64))).tolist() == []
