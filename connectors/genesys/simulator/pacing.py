"""Play the calls of a simulated organisation as notifications, at their times."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Final

from connectors.genesys.simulator.calls import ENDED, STARTED
from connectors.genesys.simulator.notification_events import DELIVERY_S, Notification, measurement, of_moment
from connectors.genesys.simulator.stories import Moment
from connectors.genesys.simulator.traffic import Traffic

__all__ = ["notifications_in_time"]

_PAUSE_S: Final = 0.002
_TOLERANCE_S: Final = 1e-6


async def notifications_in_time(
    traffic: Traffic, now: Callable[[], float], *, premature: bool = False
) -> AsyncIterator[list[Notification]]:
    """Yield the notifications of all calls when they are due; `now` gives epoch seconds."""
    loop, start = asyncio.get_running_loop(), now()
    began = loop.time()
    pending: dict[str, tuple[deque[Moment], count[int]]] = {}
    for frame, call in traffic.frames(start):
        early_s = frame.due_s - (loop.time() - began)
        if early_s > 0:
            await asyncio.sleep(max(early_s, _PAUSE_S))
        if frame.event is STARTED:
            pending[call.id] = deque(call.story.moments()), count()
        moments, numbers = pending[call.id]
        at = start + frame.due_s
        sent_at = now() - frame.lag_s - DELIVERY_S
        if frame.event is ENDED:
            del pending[call.id]
            moments = deque(m for m in call.story.moments() if m.at_s == call.story.legs[0].ends_s)
        while moments and moments[0].at_s <= at - call.began_at + _TOLERANCE_S:
            yield list(of_moment(call, moments.popleft(), at, sent_at, premature=premature))
        if frame.event not in (STARTED, ENDED):
            yield [measurement(call, next(numbers), sent_at)]
