"""A source's partition whose pauses do not depend on the system clock."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Final, TypeVar

from bytewax.inputs import StatefulSourcePartition

__all__ = ["PolledPartition"]

IDLE_S: Final = 0.001
LONG_AGO: Final = datetime.fromtimestamp(0, UTC)
X = TypeVar("X")
S = TypeVar("S")


class PolledPartition(StatefulSourcePartition[X, S]):
    """A partition that pauses by itself when it has nothing, and that Bytewax polls again at once.

    Bytewax' own pause after an empty batch ends at a time of the system clock: one that is set back by an hour in that
    millisecond would stop the flow for an hour.
    """

    def next_awake(self) -> datetime:
        """Return a time that has passed whatever the system clock says."""
        return LONG_AGO

    @staticmethod
    def nothing_yet() -> list[X]:
        """Return an empty batch, after a pause of a millisecond by the monotonic clock."""
        # time.sleep has an absolute deadline, which libfaketime makes invalid where the tests set the clock.
        threading.Event().wait(IDLE_S)
        return []
