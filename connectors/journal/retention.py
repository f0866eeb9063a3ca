"""Retention: how old the segments of a journal are, in time that has passed, and the removal of old ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from connectors.errors import StateError
from connectors.journal.clock import Reading, read_clocks
from connectors.journal.segments import RetentionWatermark, number_of, segments, tidy
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import Periodic
from connectors.state.files import replace_durably, write_all

__all__ = ["PLAUSIBLE_GAP_S", "Retention", "SegmentAges"]

EVERY_S: Final = 60.0

# A longer time without a run is taken for a clock that is wrong, and not counted.
PLAUSIBLE_GAP_S: Final = 30 * 86_400.0


class SegmentAges:
    """The ages of segments, in seconds since they were last written, kept in a file at `path`.

    Within a run they grow with the monotonic clock: a wall clock that is set, to whatever year, makes no segment older.
    Between two runs they grow by what the wall clock says, up to 30 days; if it says more, by nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ages: dict[int, float] = {}
        self._before: Reading | None = None

    def update(self, paths: Sequence[Path], reading: Reading) -> dict[int, float]:
        """Return the age of each of all segments, `paths`, by its number. Raises OSError, StateError."""
        if self._before is None:
            known, gap_s = self._load(reading)
            # Of a segment that no run has counted yet, the file system tells when it was written.
            ages = {number_of(path.name): _plausible(reading.wall - path.stat().st_mtime) for path in paths}
            ages |= {number: age_s + gap_s for number, age_s in known.items() if number in ages}
        else:
            elapsed_s = max(reading.monotonic - self._before.monotonic, 0.0)
            numbers = [number_of(path.name) for path in paths]
            ages = {number: self._ages[number] + elapsed_s if number in self._ages else 0.0 for number in numbers}
        if paths:
            ages[number_of(paths[-1].name)] = 0.0  # it is being written
        self._ages, self._before = ages, reading
        content = json.dumps({"wall": reading.wall, "ages": ages}).encode() + b"\n"
        os.close(replace_durably(self._path, lambda fd: write_all(fd, content)))
        return dict(ages)

    def _load(self, reading: Reading) -> tuple[dict[int, float], float]:
        """Return the ages of the run before, and how long ago that was."""
        try:
            kept: dict[str, Any] = json.loads(self._path.read_bytes())
            ages = {int(number): float(age_s) for number, age_s in kept["ages"].items()}
            return ages, _plausible(reading.wall - float(kept["wall"]))
        except FileNotFoundError:
            return {}, 0.0
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            get_logger(__name__).warning("journal_ages_unreadable", path=str(self._path), error=str(error))
            return {}, 0.0


def _plausible(gap_s: float) -> float:
    return gap_s if 0 <= gap_s <= PLAUSIBLE_GAP_S else 0.0


class Retention:
    """Tidies a journal once a minute, until stopped. A failure is logged and tried again: nothing depends on it.

    Segments are removed when they are `keep_s` seconds old. Their ages are in a file beside the journal's directory.
    """

    def __init__(
        self,
        directory: Path,
        safe: RetentionWatermark,
        *,
        keep_s: float,
        read_clocks: Callable[[], Reading] = read_clocks,
    ) -> None:
        self._directory = directory
        self._safe = safe
        self._keep_s = keep_s
        self._read_clocks = read_clocks
        self._ages = SegmentAges(directory.with_name(f"{directory.name}-ages.json"))
        self._tidying = Periodic("voicewatch-retention", EVERY_S, self.tidy)
        self.start = self._tidying.start
        self.stop = self._tidying.stop

    def tidy(self) -> None:
        """Compress and remove what no restart needs."""
        try:
            ages = self._ages.update(segments(self._directory), self._read_clocks())
            tidy(self._directory, self._safe.number, {one for one, age_s in ages.items() if age_s > self._keep_s})
        except (OSError, StateError) as error:
            get_logger(__name__).warning("journal_tidy_failed", error=str(error))
