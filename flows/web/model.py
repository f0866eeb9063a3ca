"""The read model of the live page: what the files of a state directory say, as tables of an in-memory database.

Everything is bounded: windows are kept as sums by minute, and what is older than the newest window by `keep_s` goes.
A window is read from its file again when someone looks at its conversation.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from flows.web.lines import Alert, Audit, Group, Window

__all__ = ["EVERYTHING", "MINUTE_S", "Limits", "Model"]

MINUTE_S: Final = 60
# The dimension that every conversation has: rows of it are all conversations.
EVERYTHING: Final = "all"
# Rules whose incidents are over by a resolve; an alert of any other stands for itself.
LASTING: Final = frozenset(
    {
        "LATENCY_THRESHOLD_EXCEEDED",
        "PACKET_LOSS_DETECTED",
        "LOW_MOS",
        "STREAM_STALLED",
        "GROUP_DEGRADED",
        "ONE_WAY_AUDIO",
        "DEAD_AIR",
    }
)
MAX_MINUTES: Final = 2_000_000

_SCHEMA: Final = """
CREATE TABLE conversations (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, feed TEXT, leg TEXT, labels TEXT NOT NULL DEFAULT '{}',
  max_latency_ms REAL, packet_loss_threshold REAL,
  first REAL, last REAL, windows INTEGER NOT NULL DEFAULT 0, breaching INTEGER NOT NULL DEFAULT 0,
  frames INTEGER NOT NULL DEFAULT 0, p95 REAL, loss REAL, mos REAL, mos_model TEXT, offset INTEGER, past INTEGER
);
CREATE INDEX by_last ON conversations (last);
CREATE TABLE labels (n INTEGER, name TEXT, value TEXT, PRIMARY KEY (n, name)) WITHOUT ROWID;
CREATE INDEX by_label ON labels (name, value);
CREATE TABLE minutes (
  minute INTEGER, n INTEGER, windows INTEGER, breaching INTEGER, frames INTEGER, p95 REAL, loss_sum REAL,
  loss_count INTEGER, mos REAL, PRIMARY KEY (minute, n)
) WITHOUT ROWID;
CREATE TABLE cells (
  name TEXT, value TEXT, minute INTEGER, windows INTEGER, breaching INTEGER, conversations INTEGER, frames INTEGER,
  p95 REAL, loss_sum REAL, loss_count INTEGER, mos REAL, PRIMARY KEY (name, minute, value)
) WITHOUT ROWID;
CREATE TABLE incidents (
  id TEXT PRIMARY KEY, conversation TEXT, rule TEXT, raised REAL, resolved REAL, reason TEXT, value REAL, peak REAL,
  threshold REAL, leg TEXT, labels TEXT, grouped TEXT, conversations INTEGER, breaching INTEGER, inhibited TEXT,
  lasting INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE INDEX by_raised ON incidents (raised);
CREATE INDEX by_conversation ON incidents (conversation);
CREATE TABLE alerts (id TEXT PRIMARY KEY, incident TEXT, state TEXT, at REAL) WITHOUT ROWID;
CREATE INDEX by_incident ON alerts (incident);
CREATE TABLE attempts (
  seq INTEGER PRIMARY KEY, alert TEXT, at REAL, action TEXT, outcome TEXT, endpoint TEXT, attempt INTEGER
);
CREATE INDEX by_alert ON attempts (alert);
CREATE INDEX by_at ON attempts (at);
CREATE TABLE feeds (seq INTEGER PRIMARY KEY, name TEXT, at REAL, state TEXT, reason TEXT);
CREATE TABLE groups (
  name TEXT, value TEXT, until REAL, conversations INTEGER, breaching INTEGER, PRIMARY KEY (name, value)
) WITHOUT ROWID;
"""
_MINUTE: Final = """
INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET windows = windows + excluded.windows,
  breaching = breaching + excluded.breaching, frames = frames + excluded.frames,
  p95 = MAX(IFNULL(p95, excluded.p95), IFNULL(excluded.p95, p95)), loss_sum = loss_sum + excluded.loss_sum,
  loss_count = loss_count + excluded.loss_count, mos = MIN(IFNULL(mos, excluded.mos), IFNULL(excluded.mos, mos))
"""
_CELL: Final = """
INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  windows = windows + excluded.windows, breaching = breaching + excluded.breaching,
  conversations = conversations + excluded.conversations, frames = frames + excluded.frames,
  p95 = MAX(IFNULL(p95, excluded.p95), IFNULL(excluded.p95, p95)), loss_sum = loss_sum + excluded.loss_sum,
  loss_count = loss_count + excluded.loss_count, mos = MIN(IFNULL(mos, excluded.mos), IFNULL(excluded.mos, mos))
"""
_CONVERSATION: Final = """
UPDATE conversations SET first = MIN(IFNULL(first, ?1), ?1), last = MAX(IFNULL(last, ?2), ?2), windows = windows + ?3,
  breaching = breaching + ?4, frames = frames + ?5, p95 = MAX(IFNULL(p95, ?6), IFNULL(?6, p95)),
  loss = MAX(IFNULL(loss, ?7), IFNULL(?7, loss)), mos = MIN(IFNULL(mos, ?8), IFNULL(?8, mos)),
  mos_model = IFNULL(?9, mos_model), offset = IFNULL(offset, ?10), past = ?11 WHERE n = ?12
"""


class Limits:
    """The limits of one conversation: milliseconds, a ratio; the defaults until its watch or an alert tells."""

    __slots__ = ("feed", "labels", "max_latency_ms", "n", "packet_loss_threshold")

    def __init__(self, n: int) -> None:
        self.n = n
        self.max_latency_ms = 150.0
        self.packet_loss_threshold = 0.02
        self.feed = ""
        self.labels: dict[str, str] = {}


class _Sums:
    """Sums of some windows."""

    __slots__ = ("breaching", "conversations", "frames", "loss_count", "loss_sum", "mos", "p95", "windows")

    def __init__(self) -> None:
        self.windows = self.breaching = self.frames = self.loss_count = self.conversations = 0
        self.loss_sum = 0.0
        self.p95: float | None = None
        self.mos: float | None = None

    def add(self, window: Window, *, breaching: bool) -> None:
        self.windows += 1
        self.breaching += breaching
        self.frames += window.frames
        if window.latency_ms is not None and (self.p95 is None or window.latency_ms.p95 > self.p95):
            self.p95 = window.latency_ms.p95
        if window.packet_loss is not None:
            self.loss_sum += window.packet_loss.mean * window.packet_loss.count
            self.loss_count += window.packet_loss.count
        if window.mos is not None and (self.mos is None or window.mos.value < self.mos):
            self.mos = window.mos.value


class Model:
    """What is known, in tables that `db` queries; hold `lock` meanwhile. `version` grows with every change."""

    def __init__(self, *, keep_s: float) -> None:
        self.lock = threading.RLock()
        self.keep_s = keep_s
        self.db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.executescript(_SCHEMA)
        self.version = 0
        self.newest = 0.0
        self.journal_at: float | None = None
        self.settings: dict[str, Any] = {}
        self.bad_lines = 0
        self.audit_lines = 0
        self._known: dict[str, Limits] = {}
        self._seen: dict[int, dict[tuple[str, str], set[int]]] = {}
        self._recent: dict[str, list[list[Any]]] = defaultdict(list)
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
            known.max_latency_ms = float(defaults.get("max_latency_ms", 150.0))
            known.packet_loss_threshold = float(defaults.get("packet_loss_threshold", 0.02))
        return known

    def breaches(self, window: Window, limits: Limits) -> bool:
        """Return whether a window has a value beyond its conversation's limits."""
        latency, loss, mos = window.latency_ms, window.packet_loss, window.mos
        mos_below = self.settings.get("alerts", {}).get("mos_below")
        return bool(
            (latency is not None and latency.max > limits.max_latency_ms)
            or (loss is not None and loss.max > limits.packet_loss_threshold)
            or (mos is not None and mos_below is not None and mos.value < mos_below)
        )

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

    def take_windows(self, windows: Sequence[Window], offset: int, past: int) -> None:
        """Take windows that were read from these offsets of their file."""
        minutes: dict[tuple[int, int], _Sums] = defaultdict(_Sums)
        cells: dict[tuple[str, str, int], _Sums] = defaultdict(_Sums)
        rows: dict[str, list[Window]] = defaultdict(list)
        for window in windows:
            limits = self.limits(window.conversation_id)
            if window.labels != limits.labels:
                self._label(limits, window.labels)
            breaching = self.breaches(window, limits)
            minute = int(window.start // MINUTE_S) * MINUTE_S
            minutes[minute, limits.n].add(window, breaching=breaching)
            for name, value in self._places(limits):
                sums = cells[name, value, minute]
                sums.add(window, breaching=breaching)
                sums.conversations += self._is_new(minute, name, value, limits.n)
            rows[window.conversation_id].append(window)
            self.newest = max(self.newest, window.end)
            if window.conversation_id in self._recent:
                self._peak(window)
        self.db.executemany(
            _MINUTE,
            [
                (minute, n, s.windows, s.breaching, s.frames, s.p95, s.loss_sum, s.loss_count, s.mos)
                for (minute, n), s in minutes.items()
            ],
        )
        self.db.executemany(
            _CELL,
            [
                (
                    *(name, value, minute, s.windows, s.breaching, s.conversations, s.frames),
                    *(s.p95, s.loss_sum, s.loss_count, s.mos),
                )
                for (name, value, minute), s in cells.items()
            ],
        )
        self.db.executemany(_CONVERSATION, [self._row(id_, own, offset, past) for id_, own in rows.items()])
        self.version += 1

    def take_alerts(self, alerts: Iterable[Alert]) -> None:
        """Take alerts: they raise, resolve or are incidents."""
        framewise = self.settings.get("alerts", {}).get("policy") == "frame"
        for alert in alerts:
            lasting = alert.alert_type in LASTING and not framewise
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

    def take_groups(self, groups: Iterable[Group]) -> None:
        """Take the newest window of each group."""
        rows = [(*next(iter(g.group.items())), g.end, g.conversations, g.breaching) for g in groups if g.group]
        self.db.executemany("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?, ?)", rows)
        self.version += 1

    def take_audit(self, lines: Sequence[Audit]) -> None:
        """Take lines of the audit log: the attempts to deliver callbacks are kept."""
        self.audit_lines += len(lines)
        self.db.executemany(
            "INSERT INTO attempts (alert, at, action, outcome, endpoint, attempt) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (line.id, line.time, line.action, line.outcome, line.endpoint, line.attempt)
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
        since = self.newest - self.keep_s
        (count,) = self.db.execute("SELECT COUNT(*) FROM minutes").fetchone()
        if count > MAX_MINUTES:  # a large fleet: its oldest quarter
            (oldest, latest) = self.db.execute("SELECT MIN(minute), MAX(minute) FROM minutes").fetchone()
            self.db.execute("DELETE FROM minutes WHERE minute < ?", (oldest + (latest - oldest) / 4,))
        for table, column in (("minutes", "minute"), ("cells", "minute"), ("attempts", "at"), ("alerts", "at")):
            self.db.execute(f"DELETE FROM {table} WHERE {column} < ?", (since,))  # noqa: S608 - names of ours
        self.db.execute("DELETE FROM incidents WHERE resolved < ? OR (NOT lasting AND raised < ?)", (since, since))
        for n, id_ in self.db.execute("SELECT n, id FROM conversations WHERE last < ?", (since,)).fetchall():
            self._known.pop(id_, None)
            self.db.execute("DELETE FROM labels WHERE n = ?", (n,))
        self.db.execute("DELETE FROM conversations WHERE last < ?", (since,))
        for minute in [minute for minute in self._seen if minute < self.newest - 5 * MINUTE_S]:
            del self._seen[minute]

    def _places(self, limits: Limits) -> Iterable[tuple[str, str]]:
        yield EVERYTHING, EVERYTHING
        if limits.feed:
            yield "feed", limits.feed
        yield from limits.labels.items()

    def _is_new(self, minute: int, name: str, value: str, n: int) -> bool:
        seen = self._seen.setdefault(minute, {}).setdefault((name, value), set())
        if n in seen:
            return False
        seen.add(n)
        return True

    def _row(self, id_: str, windows: list[Window], offset: int, past: int) -> tuple[Any, ...]:
        limits = self._known[id_]
        p95 = [w.latency_ms.p95 for w in windows if w.latency_ms]
        loss = [w.packet_loss.max for w in windows if w.packet_loss]
        mos = [w.mos.value for w in windows if w.mos]
        return (
            *(min(w.start for w in windows), max(w.end for w in windows), len(windows)),
            sum(self.breaches(w, limits) for w in windows),
            sum(w.frames for w in windows),
            *(max(p95, default=None), max(loss, default=None), min(mos, default=None)),
            next((w.mos.model for w in windows if w.mos), None),
            *(offset, past, limits.n),
        )

    def _label(self, limits: Limits, labels: dict[str, str]) -> None:
        limits.labels = labels
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
        if isinstance(labels := watch.get("labels"), dict) and labels:
            self._label(limits, limits.labels | {str(k): str(v) for k, v in labels.items()})
        self.db.execute(
            "UPDATE conversations SET max_latency_ms = ?, packet_loss_threshold = ?, feed = ?, leg = ? WHERE n = ?",
            (limits.max_latency_ms, limits.packet_loss_threshold, limits.feed, watch.get("leg_id"), limits.n),
        )

    def _feed(self, feed: dict[str, Any], record: dict[str, Any]) -> None:
        name, state, at = str(feed.get("name")), str(feed.get("state")), float(record["received_at"])
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
            " grouped, conversations, breaching, inhibited, lasting) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(alert.incident_id, alert.conversation_id, alert.alert_type, alert.timestamp),
                *(alert.metric_value, alert.metric_value, alert.threshold, alert.leg_id, labels, group),
                *(alert.conversations, alert.breaching, alert.inhibited_by, lasting),
            ),
        )

    def _track(self, alert: Alert, *, lasting: bool) -> None:
        """Keep which incidents of a conversation the next windows may show the peak of."""
        id_ = alert.conversation_id
        if id_ is None or not lasting:
            return
        if alert.state == "raised":
            limits = self.limits(id_)
            if alert.threshold is not None and alert.alert_type == "LATENCY_THRESHOLD_EXCEEDED":
                limits.max_latency_ms = alert.threshold
            elif alert.threshold is not None and alert.alert_type == "PACKET_LOSS_DETECTED":
                limits.packet_loss_threshold = alert.threshold
            self._recent[id_].append([alert.incident_id, alert.alert_type, alert.timestamp, None])
        else:
            for incident in self._recent.get(id_, ()):
                if incident[0] == alert.incident_id:
                    incident[3] = alert.timestamp

    def _peak(self, window: Window) -> None:
        """Raise the peaks of the incidents that a window overlaps; forget those that it begins after."""
        kept = []
        for incident in self._recent[window.conversation_id]:
            id_, rule, raised, resolved = incident
            if resolved is not None and window.start >= resolved:
                continue
            kept.append(incident)
            if window.end <= raised:
                continue
            if rule == "LATENCY_THRESHOLD_EXCEEDED" and window.latency_ms:
                self.db.execute("UPDATE incidents SET peak = MAX(peak, ?) WHERE id = ?", (window.latency_ms.max, id_))
            elif rule == "PACKET_LOSS_DETECTED" and window.packet_loss:
                self.db.execute("UPDATE incidents SET peak = MAX(peak, ?) WHERE id = ?", (window.packet_loss.max, id_))
            elif rule == "LOW_MOS" and window.mos:
                self.db.execute("UPDATE incidents SET peak = MIN(peak, ?) WHERE id = ?", (window.mos.value, id_))
        if kept:
            self._recent[window.conversation_id] = kept
        else:
            del self._recent[window.conversation_id]
