"""Columns with one value for each slot: the one owner of their growth, reset, snapshot and restore.

A part of a shard adds the columns that it needs. A slot that is used again has the initial value in every column, and a
snapshot holds every column but those that follow from other state.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["SlotColumn", "SlotColumns"]

_ROOM: Final = 64

T = TypeVar("T", bound=np.generic)


class SlotColumn(Generic[T]):
    """One column: `values` has one value for each slot, shape (capacity,), or one row of them, (capacity, width).

    Growth and restore replace `values`, so read it from here each time.
    """

    __slots__ = ("initial", "is_kept", "values")

    def __init__(self, values: NDArray[T], initial: Any, *, is_kept: bool) -> None:
        self.values = values
        self.initial = initial
        self.is_kept = is_kept


class SlotColumns:
    """All columns of a shard."""

    def __init__(self, capacity: int = _ROOM) -> None:
        self.capacity = capacity
        self._columns: dict[str, SlotColumn[Any]] = {}

    def add(
        self, name: str, dtype: type[T], initial: Any, *, width: int | None = None, is_kept: bool = True
    ) -> SlotColumn[T]:
        """Add a column under a unique name; `is_kept` says whether snapshots hold it."""
        if name in self._columns:
            raise ValueError(f"there is a column {name} already")
        shape = (self.capacity,) if width is None else (self.capacity, width)
        column = SlotColumn(np.full(shape, initial, dtype), initial, is_kept=is_kept)
        self._columns[name] = column
        return column

    def grow(self, capacity: int) -> None:
        """Make room for more slots."""
        for column in self._columns.values():
            more = (capacity - self.capacity, *column.values.shape[1:])
            column.values = np.concatenate([column.values, np.full(more, column.initial, column.values.dtype)])
        self.capacity = capacity

    def forget(self, slot: int) -> None:
        """Reset a slot whose conversation has ended."""
        for column in self._columns.values():
            column.values[slot] = column.initial

    def snapshot(self, slots: int) -> dict[str, NDArray[Any]]:
        """Return the first `slots` of the columns that are kept, sharing nothing with them."""
        kept = {name: column for name, column in self._columns.items() if column.is_kept}
        return {name: column.values[:slots].copy() for name, column in kept.items()}

    def restore(self, snapshot: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot; the columns that it does not hold are reset."""
        self.capacity = len(next(iter(snapshot.values())))
        for name, column in self._columns.items():
            values = snapshot.get(name)
            shape = (self.capacity, *column.values.shape[1:])
            column.values = np.full(shape, column.initial, column.values.dtype) if values is None else values.copy()
