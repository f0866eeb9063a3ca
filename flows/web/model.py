"""Keep the read model of the live page: the content of a state directory as tables of an in-memory database.

Everything is bounded: windows are kept as sums by minute, and what is older than the newest window by `keep_s` goes.
A window is read from its file again when a conversation is opened.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from connectors.format.limits import DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD
from flows.web.chain import AuditChain
from flows.web.counting import Count
from flows.web.lines import Alert, Audit, Group, Window
from flows.web.marks import JournalMarks
from flows.web.spreads import Spreads
from flows.web.sums import Batch, Places
from flows.web.tables import LAG, MESSAGES, SCHEMA
from flows.web.tracking import Shape, Tracked, values_of

__all__ = ["EVERYTHING", "MINUTE_S", "Limits", "Model"]

MINUTE_S: Final = 60
# The dimension that every conversation has: rows of it are all conversations.
EVERYTHING: Final = "all"
MAX_MINUTES: Final = 2_000_000
# The same for each dimension: one with as many values as there are conversations.
MAX_CELLS: Final = 1_000_000
# Where windows stand in their files, eight bytes each.
MAX_OFFSETS: Final = 16_000_000
# The number of windows that are summed up in memory at most, before the tables are changed.
MAX_BATCH: Final = 8192
# A minute of windows before an incident, at the usual slide.
RECENT_WINDOWS: Final = 12
# ALERT_STORM is raised at the end of the minute that it counts.
STORM_S: Final = 60.0


class Limits:
    """Hold the limits of one conversation (milliseconds, a ratio), its newest windows and the incidents that they show.

    `offsets` are where its windows stand in the results; `was_cut` says that the oldest were forgotten.
    The limits are the defaults until a watch or an alert of the conversation is read.
    """

    __slots__ = (
        *("feed", "labels", "max_latency_ms", "n", "offsets", "packet_loss_threshold", "places", "recent"),
        *("tracked", "was_cut"),
    )

    def __init__(self, n: int) -> None:
        self.n = n
        self.max_latency_ms = DEFAULT_MAX_LATENCY_MS
        self.packet_loss_threshold = DEFAULT_PACKET_LOSS_THRESHOLD
        self.feed = ""
        self.labels: dict[str, str] = {}
        self.recent: deque[Shape] = deque(maxlen=RECENT_WINDOWS)
        self.tracked: list[Tracked] = []
        self.offsets = array("q")
        self.was_cut = False
        self.place()

    def place(self) -> None:
        """Work out the dimensions again, after the feed or the labels have changed."""
        feed = (("feed", self.feed),) if self.feed else ()
        self.places: Places = ((EVERYTHING, EVERYTHING), *feed, *self.labels.items())


def breaches(window: Window, limits: Limits, mos_below: float | None) -> bool:
    """Return whether a window has a value beyond its conversation's limits."""
    latency, loss, mos = window.latency_ms, window.packet_loss, window.mos
    return bool(
        (latency is not None and latency.max > limits.max_latency_ms)
        or (loss is not None and loss.max > limits.packet_loss_threshold)
        or (mos is not None and mos_below is not None and mos.value < mos_below)
    )


class Model:
    """Hold the tables that `db` queries; hold `lock` meanwhile. `version` grows with every change.

    `cut` has the dimensions whose oldest cells were forgotten, "" for conversations, with the time of the first one
    that is left.
    """

    def __init__(self, *, keep_s: float) -> None:
        self.lock = threading.RLock()
        self.keep_s = keep_s
        self.db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.executescript(SCHEMA)
        self.version = 0
        self.newest = 0.0
        self.journal_at: float | None = None
        self.settings: dict[str, Any] = {}
        self.bad_lines = 0
        self.audit = AuditChain()
        self.feed_names: set[str] = set()
        self.marks = JournalMarks()
        self.spreads = Spreads()
        self._offsets = 0
        self.cut: dict[str, float] = {}
        self._known: dict[str, Limits] = {}
        self._batch = Batch()
        self._tracked: dict[str, Tracked] = {}
        self._pruned_at = 0.0

    def limits(self, conversation_id: str) -> Limits:
        """Return the limits of a conversation, which is known from now on."""
        known = self._known.get(conversation_id)
        if known is None:
            (n,) = self.db.execute(
                "INSERT INTO conversations (id) VALUES (?) RETURNING n", (conversation_id,)
            ).fetchone()
            known = self._known[conversation_id] = Limits(n)
            defaults = self.settings.get("defaults", {})
            known.max_latency_ms = float(defaults.get("max_latency_ms", DEFAULT_MAX_LATENCY_MS))
            known.packet_loss_threshold = float(defaults.get("packet_loss_threshold", DEFAULT_PACKET_LOSS_THRESHOLD))
        return known

    def take_records(self, records: Iterable[dict[str, Any]]) -> None:
        """Take control records of the journal."""
        for record in records:
            if isinstance(watch := record.get("watch"), dict):
                self._watch(watch)
            elif isinstance(feed := record.get("feed"), dict):
                self._feed(feed, record)
            elif isinstance(settings := record.get("settings"), dict):
                self.settings = settings
            self.version += 1

    def take_messages(self, counts: Iterable[Count]) -> None:
        """Add counts of messages to those of their minutes."""
        self.db.executemany(MESSAGES, [(one.minute, one.via, one.frames, one.invalid) for one in counts])

    def take_windows(self, windows: Sequence[Window], offsets: Sequence[int]) -> None:
        """Take windows that stand at these offsets of the results."""
        mos_below = self.settings.get("alerts", {}).get("mos_below")
        self._offsets += len(offsets)
        for window, offset in zip(windows, offsets, strict=True):
            limits = self._known.get(window.conversation_id) or self.limits(window.conversation_id)
            if window.labels != limits.labels:
                self._label(limits, window.labels)
            breaching = breaches(window, limits, mos_below)
            minute = int(window.start // MINUTE_S) * MINUTE_S
            self._batch.add(limits.n, limits.places, window, minute, breaching=breaching)
            limits.offsets.append(offset)
            if window.end > self.newest:
                self.newest = window.end
            shape = values_of(window)
            if limits.tracked:
                limits.tracked = [one for one in limits.tracked if one.take(window.start, shape)]
            limits.recent.append(shape)
            if (lag := window.event_lag_ms) is not None:
                row = (minute, limits.feed, lag.mean * lag.count, lag.count, lag.max)
                self.db.execute(LAG, row)
        if self._batch.size >= MAX_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the sums of the windows that were taken to the tables."""
        if self._batch.size:
            self.spreads.changed(self._batch.flush(self.db, self.newest))
            self.version += 1

    def take_alerts(self, alerts: Iterable[Alert]) -> None:
        """Take alerts: they raise, resolve or are incidents."""
        framewise = self.settings.get("alerts", {}).get("policy") == "frame"
        for alert in alerts:
            lasting = alert.lasts(framewise=framewise)
            if alert.state == "resolved":
                self.db.execute(
                    "UPDATE incidents SET resolved = ?, reason = ? WHERE id = ?",
                    (alert.timestamp, alert.reason, alert.incident_id),
                )
            else:
                self._raise(alert, lasting=lasting)
            self.db.execute(
                "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?)",
                (alert.alert_id, alert.incident_id, alert.state, alert.timestamp),
            )
            self._track(alert, lasting=lasting)
        self.version += 1

    def tracked(self, incident: str) -> Tracked | None:
        """Return the course of an incident of a conversation, None for one that windows do not show."""
        return self._tracked.get(incident)

    def windows_of(self, conversation_id: str) -> tuple[array[int], bool]:
        """Return where the windows of a conversation stand in the results, and whether the oldest were forgotten."""
        known = self._known.get(conversation_id)
        return (array("q"), False) if known is None else (known.offsets[:], known.was_cut)

    def take_groups(self, groups: Iterable[Group]) -> None:
        """Take the newest window of each group."""
        rows = [(*next(iter(g.group.items())), g.end, g.conversations, g.breaching) for g in groups if g.group]
        self.db.executemany("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?, ?)", rows)
        self.version += 1

    def take_audit(self, lines: Sequence[Audit]) -> None:
        """Take lines of the audit log: the attempts to deliver callbacks are kept."""
        self.db.executemany(
            "INSERT INTO attempts (alert, at, action, outcome, endpoint, attempt, took_s) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (line.id, line.time, line.action, line.outcome, line.endpoint, line.attempt, line.took_s)
                for line in lines
                if line.action.startswith("CALLBACK_")
            ],
        )
        self.version += 1

    def prune(self) -> None:
        """Forget what is too old, once a minute of the windows' time."""
        if self.newest - self._pruned_at < MINUTE_S:
            return
        self._pruned_at = self.newest
        self.flush()
        since = self.newest - self.keep_s
        self._shrink()
        self.spreads.fill(self.db, self.newest)
        by_minute = (("minutes", "minute"), ("cells", "minute"), ("messages", "minute"), ("lags", "minute"))
        for table, column in (*by_minute, ("attempts", "at"), ("alerts", "at")):
            self.db.execute(f"DELETE FROM {table} WHERE {column} < ?", (since,))  # noqa: S608 - names of ours
        gone = self.db.execute(
            "DELETE FROM incidents WHERE resolved < ? OR (NOT lasting AND raised < ?) RETURNING id", (since, since)
        )
        for (incident,) in gone.fetchall():
            self._tracked.pop(incident, None)
        for n, id_ in self.db.execute("SELECT n, id FROM conversations WHERE last < ?", (since,)).fetchall():
            if (known := self._known.pop(id_, None)) is not None:
                self._offsets -= len(known.offsets)
            self.db.execute("DELETE FROM labels WHERE n = ?", (n,))
        self.db.execute("DELETE FROM conversations WHERE last < ?", (since,))

    def _shrink(self) -> None:
        """Forget the oldest quarter of what a large fleet has too much of."""
        (count,) = self.db.execute("SELECT COUNT(*) FROM minutes").fetchone()
        if count > MAX_MINUTES:
            self.cut[""] = self._quarter("minutes", "1")
            self.db.execute("DELETE FROM minutes WHERE minute < ?", (self.cut[""],))
        large = "SELECT name FROM cells GROUP BY name HAVING COUNT(*) > ?"
        for (name,) in self.db.execute(large, (MAX_CELLS,)).fetchall():
            first = self._quarter("cells", "name = ?", name)
            self.db.execute("DELETE FROM cells WHERE name = ? AND minute < ?", (name, first))
            self.cut[name] = first
        if self._offsets > MAX_OFFSETS:
            for limits in self._known.values():
                if gone := len(limits.offsets) // 4:
                    del limits.offsets[:gone]
                    limits.was_cut = True
                    self._offsets -= gone

    def _quarter(self, table: str, where: str, *values: str) -> float:
        """Return the end of the oldest quarter of the minutes in a table."""
        oldest, latest = self.db.execute(
            f"SELECT MIN(minute), MAX(minute) FROM {table} WHERE {where}",  # noqa: S608 - texts of ours
            values,
        ).fetchone()
        return float(oldest + (latest - oldest) / 4)

    def _label(self, limits: Limits, labels: dict[str, str]) -> None:
        limits.labels = labels
        limits.place()
        self.db.execute("DELETE FROM labels WHERE n = ?", (limits.n,))
        self.db.executemany("INSERT INTO labels VALUES (?, ?, ?)", [(limits.n, k, v) for k, v in labels.items()])
        text = orjson.dumps(labels, option=orjson.OPT_SORT_KEYS).decode()
        self.db.execute("UPDATE conversations SET labels = ? WHERE n = ?", (text, limits.n))

    def _watch(self, watch: dict[str, Any]) -> None:
        id_ = watch.get("conversation_id")
        if not isinstance(id_, str):
            return
        limits = self.limits(id_)
        for key in ("max_latency_ms", "packet_loss_threshold"):
            if isinstance(value := watch.get(key), int | float):
                setattr(limits, key, float(value))
        if isinstance(feed := watch.get("feed"), str):
            limits.feed = feed
            limits.place()
        if isinstance(labels := watch.get("labels"), dict) and labels:
            self._label(limits, limits.labels | {str(k): str(v) for k, v in labels.items()})
        self.db.execute(
            "UPDATE conversations SET max_latency_ms = ?, packet_loss_threshold = ?, feed = ?, leg = ? WHERE n = ?",
            (limits.max_latency_ms, limits.packet_loss_threshold, limits.feed, watch.get("leg_id"), limits.n),
        )

    def _feed(self, feed: dict[str, Any], record: dict[str, Any]) -> None:
        name, state, at = str(feed.get("name")), str(feed.get("state")), float(record["received_at"])
        self.feed_names.add(name)
        last = self.db.execute("SELECT state FROM feeds WHERE name = ? ORDER BY seq DESC LIMIT 1", (name,)).fetchone()
        if last is None or last["state"] != state:  # a segment begins with the state in force
            self.db.execute(
                "INSERT INTO feeds (name, at, state, reason) VALUES (?, ?, ?, ?)",
                (name, at, state, str(feed.get("reason"))),
            )

    def _raise(self, alert: Alert, *, lasting: bool) -> None:
        labels = orjson.dumps(alert.labels, option=orjson.OPT_SORT_KEYS).decode()
        group = None if alert.group is None else orjson.dumps(alert.group, option=orjson.OPT_SORT_KEYS).decode()
        self.db.execute(
            "INSERT OR IGNORE INTO incidents (id, conversation, rule, raised, value, peak, threshold, leg, labels,"
            " grouped, conversations, breaching, inhibited, lasting, parent, code)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(alert.incident_id, alert.conversation_id, alert.alert_type, alert.timestamp),
                *(alert.metric_value, alert.metric_value, alert.threshold, alert.leg_id, labels, group),
                *(alert.conversations, alert.breaching, alert.inhibited_by, lasting),
                None if alert.inhibited_by == "rate" else alert.inhibited_by,
                None if alert.evidence is None else alert.evidence.code or alert.evidence.disconnect_type,
            ),
        )
        if alert.alert_type == "ALERT_STORM":
            self.db.execute(
                "UPDATE incidents SET parent = ? WHERE inhibited = 'rate' AND raised >= ? AND raised < ?",
                (alert.incident_id, alert.timestamp - STORM_S, alert.timestamp),
            )

    def _track(self, alert: Alert, *, lasting: bool) -> None:
        """Follow the incidents of a conversation, so that its windows show their peak and their course."""
        id_ = alert.conversation_id
        if id_ is None or not lasting:
            return
        if alert.state == "resolved":
            if (tracked := self._tracked.get(alert.incident_id)) is not None:
                tracked.resolved = alert.timestamp
            return
        limits = self.limits(id_)
        if alert.threshold is not None and alert.alert_type == "LATENCY_THRESHOLD_EXCEEDED":
            limits.max_latency_ms = alert.threshold
        elif alert.threshold is not None and alert.alert_type == "PACKET_LOSS_DETECTED":
            limits.packet_loss_threshold = alert.threshold
        if alert.incident_id not in self._tracked and Tracked.can_follow(alert.alert_type):
            tracked = Tracked(alert.alert_type, alert.timestamp, alert.metric_value, limits.recent)
            self._tracked[alert.incident_id] = tracked
            limits.tracked.append(tracked)
