"""Say what a decoded block of the journal is: columns of frames, and a short list of everything else."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import Ids
from connectors.format.records import Control
from connectors.format.session_events import Events

__all__ = ["Decoded", "Rejected"]


class Rejected(NamedTuple):
    """A line that is not a record; `line` counts from 0 at the block's first line.

    `text` is cut at 4096 characters. It is None if the line may hold personal data; `length` and `sha256` are those of
    its bytes.
    """

    line: int
    reason: str
    text: str | None
    length: int
    sha256: str


class Decoded(NamedTuple):
    """A block of lines as columns of n rows, in journal order.

    `arrival` float64, epoch seconds: the largest time in the block up to and including the row.
    `latency_us` float64: arrival by the wall clock minus timestamp, in whole microseconds; NaN where none was written.
    `packet_loss` float64 ratio; NaN where the frame carries none.
    `ended` bool: the row is the conversation's last.
    `ids`: the conversations that they are frames of.
    `events`: those that were read from notifications.
    `time`: the largest time in the block, frames or not; -inf for none. `torn`: 1 if the last line was cut short.

    Times hold only if no `clock` record follows other records in it: see `decode_pieces`.
    """

    arrival: NDArray[np.float64]
    latency_us: NDArray[np.float64]
    packet_loss: NDArray[np.float64]
    ended: NDArray[np.bool_]
    ids: Ids
    events: Events
    controls: list[Control]
    rejected: list[Rejected]
    time: float
    torn: int
