"""Deliver the callbacks of a replay: all of them, with the waits between attempts, until a signal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from connectors.callbacks.delivery import Delivery
from connectors.callbacks.outbox import Outbox, State
from connectors.callbacks.policy import safe_origin
from connectors.callbacks.sink import OutboxSink
from connectors.state.audit import AuditLog
from flows.live import policy_of
from flows.notify import Notifier
from flows.settings.models import Settings
from flows.settings.secrets import secrets_of

__all__ = ["ReplayDelivery", "delivering"]

POLL_S: Final = 0.2
QUIET_S: Final = 1.0
SAY_EVERY_S: Final = 5.0
STOP_S: Final = 5.0
STOPPED_S: Final = 1.0


class ReplayDelivery:
    """Hold the outbox in the directory of a replay's results, and deliver from it."""

    def __init__(self, outbox: Outbox, delivery: Delivery, notifier: Notifier) -> None:
        self._outbox = outbox
        self._delivery = delivery
        self.notifier = notifier
        self.sink = OutboxSink(outbox, delivery)

    def finish(self, stop: threading.Event) -> dict[State, int]:
        """Wait until nothing is pending or `stop` is set, and end the delivery; count the callbacks by their state."""
        self._wait(stop)
        self._delivery.stop(STOPPED_S if stop.is_set() else STOP_S)
        counts = self._outbox.counts()
        if counts["pending"]:
            print(f"stopped: {counts['pending']} callback(s) stay in the outbox", file=sys.stderr)
        return counts

    def _wait(self, stop: threading.Event) -> None:
        """Wait, and say on standard error what is waited for."""
        began = said_at = time.monotonic()
        said = ""
        while self._outbox.counts()["pending"] and not stop.wait(POLL_S):
            self._delivery.check()
            now = time.monotonic()
            if now - began < QUIET_S or (said and now - said_at < SAY_EVERY_S):
                continue
            if (line := self._waited_for()) != said:
                print(line, file=sys.stderr)
                said, said_at = line, now

    def _waited_for(self) -> str:
        now = self._delivery.timeline()
        parts = []
        for waiting in self._outbox.waiting():
            wait_s = waiting.next_at - now
            when = f"next attempt in {wait_s:.0f} s" if wait_s >= 1 else "sending"
            reason = f", {waiting.error}" if waiting.error else ""
            parts.append(f"{waiting.count} to {safe_origin(waiting.url)} ({when}{reason})")
        return f"waiting for callbacks: {'; '.join(parts)}. Ctrl-C keeps them in the outbox."


@contextmanager
def delivering(out: Path, settings: Settings | None, environ: Mapping[str, str]) -> Iterator[ReplayDelivery]:
    """Deliver from an outbox in `out` while the block runs. Raise ConfigurationError for a bad callback secret."""
    settings = settings or Settings()
    audit = AuditLog(out / "audit.jsonl")
    secrets = secrets_of(environ)
    notifier = Notifier(settings, environ)
    outbox = Outbox(out / "outbox" / "outbox.sqlite3")
    try:
        delivery = Delivery(
            outbox,
            audit=audit,
            secrets=secrets,
            policy=policy_of(settings),
            routes=notifier.routes,
            expire_after_s=settings.delivery.expire_after_s,
        )
        delivery.start()
        try:
            yield ReplayDelivery(outbox, delivery, notifier)
        finally:
            delivery.stop(STOP_S)
    finally:
        outbox.close()
