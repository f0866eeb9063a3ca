"""Decide how long a notifications feed waits before it tries again. Pure."""

from __future__ import annotations

from websockets.exceptions import InvalidStatus

from connectors.errors import GenesysError
from connectors.genesys.client import Clock
from connectors.genesys.feeds.base import headers_of
from connectors.genesys.feeds.notifications.sockets import NotificationTiming
from connectors.retry import backoff_s, retry_after_s

__all__ = ["Waits"]


class Waits:
    """The waits after failures, in seconds."""

    def __init__(self, timing: NotificationTiming, clock: Clock) -> None:
        self._timing = timing
        self._clock = clock

    def backoff_s(self, failures: int) -> float:
        """Return a wait that doubles with each failure in a row, with jitter."""
        return backoff_s(failures, self._clock.u(), base_s=self._timing.base_s, cap_s=self._timing.cap_s)

    def after(self, cause: Exception, failures: int) -> float:
        """Return the wait after `failures` failures in a row, the last of them because of `cause`."""
        if isinstance(cause, InvalidStatus):
            if cause.response.status_code in (401, 404) and failures == 1:
                return 0.0  # the channel is gone, and the next one is new
            asked_s = retry_after_s(headers_of(cause.response), self._clock.now(), cap_s=self._timing.retry_after_cap_s)
            if asked_s is not None:
                return asked_s
        if isinstance(cause, GenesysError) and cause.status is not None and cause.status < 500:
            return self.backoff_s(64)  # until the client has a role, or the minute is over
        return self.backoff_s(failures)
