"""Columns by slot: one owner grows, resets and keeps them all."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from flows.analytics.slot_columns import SlotColumns


def test_growth_keeps_what_is_there_and_fills_the_rest() -> None:
    """With the initial value of each column, also where it has several values a slot."""
    columns = SlotColumns(2)
    times, rows = columns.add("times", np.float64, np.inf), columns.add("rows", np.int32, -1, width=2)
    times.values[1], rows.values[0] = 5.0, (1, 2)
    columns.grow(3)
    assert times.values.tolist() == [np.inf, 5.0, np.inf]
    assert rows.values.tolist() == [[1, 2], [-1, -1], [-1, -1]]
    assert (columns.capacity, rows.values.dtype) == (3, np.dtype(np.int32))


def test_a_slot_that_is_forgotten_has_the_initial_value_in_every_column() -> None:
    """No other slot changes."""
    columns = SlotColumns(2)
    kept, derived = columns.add("kept", np.bool_, initial=False), columns.add("derived", np.int8, 7, is_kept=False)
    kept.values[:], derived.values[:] = True, 1
    columns.forget(0)
    assert (kept.values.tolist(), derived.values.tolist()) == ([False, True], [7, 1])


def test_a_snapshot_holds_the_columns_that_are_kept_and_shares_nothing() -> None:
    """The others are reset by a restore; a capacity follows from the snapshot."""
    columns, again = SlotColumns(4), SlotColumns(1)
    pairs = [
        (one.add("kept", np.int8, 0), one.add("derived", np.float64, np.nan, is_kept=False)) for one in (columns, again)
    ]
    (kept, derived), (kept_again, derived_again) = pairs
    kept.values[:], derived.values[:] = [1, 2, 3, 4], 9.0
    snapshot = columns.snapshot(3)
    kept.values[0] = 9
    again.restore(pickle.loads(pickle.dumps(snapshot)))
    assert (again.capacity, kept_again.values.tolist()) == (3, [1, 2, 3])
    assert np.isnan(derived_again.values).tolist() == [True, True, True]
    kept_again.values[0] = 5
    assert snapshot["kept"].tolist() == [1, 2, 3]


def test_a_name_is_given_once() -> None:
    """Or one column would replace another in snapshots."""
    columns = SlotColumns()
    columns.add("x", np.int8, 0)
    with pytest.raises(ValueError, match="a column x already"):
        columns.add("x", np.int8, 0)
