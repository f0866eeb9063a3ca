"""The frames of a block that were read from notifications, and the sessions that they are about. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import Ids
from connectors.format.records import BareEvent, EventLine

__all__ = ["NO_EVENTS", "Events", "events_of"]


class Events(NamedTuple):
    """The events of a block in their order, n of them; as a rule there are none.

    `row` int64 (n,): the frame's place among all frames of the block. `session` uint64 (n,): a hash of the session that
    the event is about, 0 for none. `sent_at` float64 (n,): the event's own time, epoch seconds, NaN for none.
    """

    row: NDArray[np.int64]
    session: NDArray[np.uint64]
    sent_at: NDArray[np.float64]


NO_EVENTS: Final = Events(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0))


def events_of(events: Mapping[int, EventLine | BareEvent], number: NDArray[np.int64]) -> Events:
    """Return events, given by their places in `number`; their rows are the numbers there."""
    if not events:
        return NO_EVENTS
    sessions = [event.session_id for event in events.values()]
    hashes = np.where([bool(session) for session in sessions], Ids.of(sessions).hash, np.uint64(0))
    return Events(number[list(events)], hashes, np.array([event.sent_at for event in events.values()]))
