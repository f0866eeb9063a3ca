"""Follow a kind of results through the files of its days, as one text.

An offset in that text is the offset in a file, plus a base for each file: 0 for the one that is written, and less for
those of past days, the later the greater. So offsets stay valid when old files are removed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from connectors.state.results import daily_files
from flows.web.tail import LinesFollower

__all__ = ["DAY_BYTES", "ResultsFollower", "places"]

DAY_BYTES: Final = 1 << 40
_TODAY: Final = 1 << 20
"""More days than any date is after the epoch."""


def places(path: Path) -> list[tuple[int, Path]]:
    """Return the files of a kind of results that are not packed, oldest first, with their bases."""
    days = [(day, file) for day, file in daily_files(path).items() if file.suffix != ".gz"]
    return [*((_base(day), file) for day, file in days), (0, path)]


class ResultsFollower:
    """Read a kind of results that is being written, from `since` (epoch seconds) on.

    `offset_in` gives the offset to begin at in the first file. `read` raises EOFError when files were renamed, removed
    or cut: what was read has to be read again.
    """

    def __init__(self, path: Path, since: float, offset_in: Callable[[Path], int] = lambda _: 0) -> None:
        self._path = path
        found = places(path)
        first_day = _base(datetime.fromtimestamp(max(since, 0.0), UTC).strftime("%Y-%m-%d"))
        self._left = [(base, file) for base, file in found if base >= first_day]
        self._names = [file for _, file in found]
        self._open(offset_in(self._left[0][1]))

    def read(self) -> tuple[int, bytes]:
        """Return the offset and the bytes of the next complete lines, b"" for none. Raises OSError and EOFError."""
        while True:
            expected = self._lines.offset
            begin, data = self._lines.read()
            is_replaced = begin < expected
            if (is_replaced or not data) and [file for _, file in places(self._path)] != self._names:
                raise EOFError(str(self._path))
            if data or not self._left:
                return self._base + begin, data
            self._lines.close()
            self._open(0)

    def close(self) -> None:
        """Close the file that is being read."""
        self._lines.close()

    def _open(self, offset: int) -> None:
        self._base, file = self._left.pop(0)
        self._lines = LinesFollower(file, offset)


def _base(day: str) -> int:
    return ((date.fromisoformat(day) - date(1970, 1, 1)).days - _TODAY) * DAY_BYTES
