"""Retention: how old the segments of a journal are, in time that has passed, and the removal of old ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from connectors.errors import StateError
from connectors.journal.clock import Reading, read_clocks
from connectors.journal.segments import RetentionWatermark, number_of, segments, tidy
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import Periodic
from connectors.state.ages import FileAges

__all__ = ["Retention"]

EVERY_S: Final = 60.0


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
        self._ages = FileAges(directory.with_name(f"{directory.name}-ages.json"))
        self._tidying = Periodic("voicewatch-retention", EVERY_S, self.tidy)
        self.start = self._tidying.start
        self.stop = self._tidying.stop

    def tidy(self) -> None:
        """Compress and remove what no restart needs."""
        try:
            files = {str(number_of(path.name)): path for path in segments(self._directory)}
            reading = self._read_clocks()
            ages = self._ages.update(files, reading.wall, reading.monotonic, current=next(reversed(files), ""))
            tidy(self._directory, self._safe.number, {int(one) for one, age_s in ages.items() if age_s > self._keep_s})
        except (OSError, StateError) as error:
            get_logger(__name__).warning("journal_tidy_failed", error=str(error))
