"""How old files are, in time that has passed: a wall clock that is wrong makes none of them older."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from connectors.runtime.logs import get_logger
from connectors.state.files import replace_durably, write_all

__all__ = ["PLAUSIBLE_GAP_S", "FileAges"]

# A longer time without a run is taken for a clock that is wrong, and not counted.
PLAUSIBLE_GAP_S: Final = 30 * 86_400.0


class FileAges:
    """The ages of files, in seconds since they were last written, kept in a file at `path`.

    Within a run they grow with the monotonic clock: a wall clock that is set, to whatever year, makes no file older.
    Between two runs they grow by what the wall clock says, up to 30 days; if it says more, by nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ages: dict[str, float] = {}
        self._before: float | None = None

    def update(
        self, files: Mapping[str, Path], wall: float, monotonic: float, *, current: str = ""
    ) -> dict[str, float]:
        """Return the age of each of all files by its key; that of the key `current`, which is being written, is 0.

        Raises OSError, StateError.
        """
        if self._before is None:
            known, gap_s = self._load(wall)
            ages = _written_ago(files, wall) | {key: age_s + gap_s for key, age_s in known.items() if key in files}
        else:
            elapsed_s = max(monotonic - self._before, 0.0)
            ages = {key: self._ages[key] + elapsed_s if key in self._ages else 0.0 for key in files}
        if current in ages:
            ages[current] = 0.0
        self._ages, self._before = ages, monotonic
        content = json.dumps({"wall": wall, "ages": ages}).encode() + b"\n"
        os.close(replace_durably(self._path, lambda fd: write_all(fd, content)))
        return dict(ages)

    def _load(self, wall: float) -> tuple[dict[str, float], float]:
        """Return the ages of the run before, and how long ago that was."""
        try:
            kept: dict[str, Any] = json.loads(self._path.read_bytes())
            ages = {str(key): float(age_s) for key, age_s in kept["ages"].items()}
            return ages, _plausible(wall - float(kept["wall"]))
        except FileNotFoundError:
            return {}, 0.0
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            get_logger(__name__).warning("file_ages_unreadable", path=str(self._path), error=str(error))
            return {}, 0.0


def _written_ago(files: Mapping[str, Path], wall: float) -> dict[str, float]:
    """Return the ages of files that no run has counted yet, by the times that the file system has.

    The wall clock is trusted if the newest of them is of the last 30 days; otherwise ages of more than that are not.
    """
    ages = {key: wall - file.stat().st_mtime for key, file in files.items()}
    newest_s = min(ages.values(), default=0.0)
    return ages if newest_s == _plausible(newest_s) else {key: _plausible(age_s) for key, age_s in ages.items()}


def _plausible(gap_s: float) -> float:
    return gap_s if 0 <= gap_s <= PLAUSIBLE_GAP_S else 0.0
