"""Log a live run: a line for each alert, and once a minute a line about the state of the run."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.callbacks.outbox import outbox_state
from connectors.journal.progress import SourceProgress
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import Periodic
from flows.analytics.alerts import Alert
from flows.analytics.block_results import ShardResult
from flows.analytics.merge import BlockResult
from flows.analytics.shard import Shard
from flows.analytics.shards import ShardBlock
from flows.monitoring.instruments import Instruments

__all__ = ["RunLog"]

EVERY_S: Final = 60.0
MAX_ALERT_LINES: Final = 100  # between two lines of status: a storm must not fill the disk with log lines


class RunLog(Instruments):
    """Log alerts, and every `every_s` seconds the watched conversations, counts since the start, and callbacks.

    In a cluster each process logs what passes through it: the conversations of its shards, and, in the one that merges
    the results, frames, windows and alerts.
    """

    def __init__(
        self,
        outbox: Path,
        progress: SourceProgress | None = None,
        *,
        every_s: float = EVERY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._progress = progress
        self._now = now
        self._lock = threading.Lock()
        self._watching: dict[int, int] = {}
        self._frames = self._windows = self._raised = self._resolved = self._alert_lines = 0
        self._not_watched: Counter[str] = Counter()
        self._created = 0
        self._status = Periodic("voicewatch-status", every_s, self._log_status)

    @property
    def progress(self) -> SourceProgress | None:
        """Return where the source notes how far it has read."""
        return self._progress

    def start(self) -> None:
        """Start to log the status."""
        self._status.start()

    def stop(self) -> None:
        """Stop logging the status."""
        self._status.stop()

    @property
    def calls_not_watched(self) -> Mapping[str, int]:
        """Return how many conversations the feeds have found and do not watch, by reason."""
        return self._not_watched

    def not_watched(self, feed: str, reason: str) -> None:  # noqa: ARG002
        """Count a conversation that a feed has found and does not watch."""
        with self._lock:
            self._not_watched[reason] += 1

    @property
    def interceptors_created(self) -> int:
        """Return how many interceptors discovery has created."""
        return self._created

    def interceptor_created(self) -> None:
        """Count an interceptor that discovery has created."""
        with self._lock:
            self._created += 1

    def apply(self, shard: Shard, block: ShardBlock) -> ShardResult:
        """Call `shard.apply`, and note how many conversations it watches."""
        result = shard.apply(block)
        self._watching[id(shard)] = shard.watching
        return result

    def reported(self, reports: Sequence[BlockResult]) -> None:
        """Count the results of some blocks, and log their alerts."""
        for report in reports:
            counts = report.counts
            with self._lock:
                self._frames += counts.frames
                self._windows += counts.windows
                self._raised += counts.raised
                self._resolved += counts.resolved
            for alert in report.alerts:
                self._log_alert(alert)

    def _log_alert(self, alert: Alert) -> None:
        with self._lock:
            self._alert_lines += 1
            if self._alert_lines > MAX_ALERT_LINES:
                return
        body = orjson.loads(alert.body)
        details = {"value": body.get("metricValue"), "limit": body.get("threshold"), "reason": alert.reason}
        get_logger(__name__).info(
            "alert_raised" if alert.state == "raised" else "alert_resolved",
            **_subject(alert, body),
            rule=alert.rule,
            **{key: value for key, value in details.items() if value is not None},
            **({"labels": alert.labels} if alert.labels else {}),
        )

    def _log_status(self) -> None:
        with self._lock:
            counts = {"frames": self._frames, "windows": self._windows}
            counts |= {"alerts_raised": self._raised, "alerts_resolved": self._resolved}
            unlogged, self._alert_lines = max(self._alert_lines - MAX_ALERT_LINES, 0), 0
        log = get_logger(__name__)
        try:
            outbox = outbox_state(self._outbox, self._now())
        except sqlite3.Error as error:
            log.warning("outbox_unreadable", error=str(error))
        else:
            counts |= {"callbacks_pending": outbox.pending, "callbacks_dead": outbox.dead}
        if unlogged:
            counts["alerts_not_logged"] = unlogged
        log.info("status", watching=sum(list(self._watching.values())), **counts)


def _subject(alert: Alert, body: Mapping[str, Any]) -> dict[str, str]:
    """Return the conversation or the group that an alert is about; nothing for one about the whole run."""
    if alert.conversation_id is not None:
        return {"conversation": alert.conversation_id}
    group: Mapping[str, str] = body.get("group") or {}
    return {"group": ", ".join(f"{name} {value}" for name, value in group.items())} if group else {}
