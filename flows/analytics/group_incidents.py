"""Incidents of groups, the alerts that they inhibit, and the cap of what is sent in a minute.

Judged where the results of all shards come together, in the order of journal time. What is decided at a time follows
from what was before it in the journal, however the journal is cut into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from flows.analytics.alerts import Alert, alert_id_of, incident_id_of, uuid_text
from flows.analytics.group_parts import GroupPart
from flows.analytics.group_progress import progress_lines
from flows.analytics.group_windows import GroupWindow, group_windows
from flows.analytics.groups import Span
from flows.analytics.rules import NO_FRAME, elapsed_s

__all__ = ["GroupIncidents", "Judged"]

DEGRADED: Final = "GROUP_DEGRADED"
STORM: Final = "ALERT_STORM"
MINUTE_S: Final = 60.0
MAX_UNSENT: Final = 100_000
VERSION: Final = f"1-{','.join(GroupPart._fields)}"

Group = tuple[str, str]


class Judged(NamedTuple):
    """What a block led to: lines of groups' windows, all alerts in their order, and how far an instance has come."""

    lines: list[dict[str, Any]]
    alerts: list[Alert]
    progress: list[dict[str, Any]]


class _Open(NamedTuple):
    """An open incident of a group: its id, and the last end at which the share was above the clear level."""

    incident: str
    above_at: float


class GroupIncidents:
    """The state of all groups, which blocks are applied to in their order."""

    def __init__(self) -> None:
        self._pending: dict[tuple[float, float, str, str], list[GroupPart]] = {}
        self._open: dict[Group, _Open] = {}
        self._judged_at = -math.inf
        self._latest: dict[Group, tuple[float, int]] = {}
        self._unsent: dict[str, None] = {}
        self._minute = -math.inf
        self._sent = self._over = 0

    def apply(
        self, spans: Sequence[Span], parts: Sequence[GroupPart], alerts: Sequence[Alert], *, last: bool
    ) -> Judged:
        """Apply a block: the spans of its settings, what shards add to groups, and the conversations' alerts in order.

        At the `last` block of a recording the windows that have not ended are written, and not judged.
        """
        for part in parts:
            self._pending.setdefault((part.end, part.start, part.name, part.value), []).append(part)
        judged = Judged([], [], [])
        at = 0
        for number, span in enumerate(spans):
            mine = at
            is_last = number == len(spans) - 1
            while mine < len(alerts) and (is_last or (alerts[mine].time, alerts[mine].row) < (span.until, span.row)):
                mine += 1
            self._pass(span, alerts[at:mine], judged)
            at = mine
            if span.step_s is not None:
                self._step_clock(span, judged)
        if last:
            self._write_pending(spans[-1], judged)
            self._end_minute(spans[-1], judged)
        return judged

    def _pass(self, span: Span, alerts: Sequence[Alert], judged: Judged) -> None:
        """Go through the time of a span: of one time, groups are judged before the alerts."""
        reached, lines = self._judged_at, len(judged.lines)
        for alert in alerts:
            self._judge_until(min(alert.time, span.until), span, judged)
            judged.alerts.append(self._inhibited(alert, span))
        self._judge_until(span.until, span, judged)
        judged.progress.extend(progress_lines(reached, span, judged.lines[lines:]))
        self._judged_at = max(self._judged_at, span.until)

    def _judge_until(self, until: float, span: Span, judged: Judged) -> None:
        while (end := self._next_end(span)) <= until:
            if self._over and end >= self._minute + MINUTE_S:
                self._end_minute(span, judged)
            if end < math.inf:
                self._judge(end, span, judged)
        if self._over and until >= self._minute + MINUTE_S:
            self._end_minute(span, judged)

    def _next_end(self, span: Span) -> float:
        """Return the next end at which anything may change: one with conversations, or one that resolves."""
        ends = [key[0] for key in self._pending]
        for state in self._open.values():
            number = math.floor((state.above_at + span.groups.clear_after_s) * 1000.0 / span.slide_ms) - 1
            while (
                elapsed_s(state.above_at, number * span.slide_ms / 1000.0) < span.groups.clear_after_s
                or number * span.slide_ms / 1000.0 <= self._judged_at
            ):
                number += 1
            ends.append(number * span.slide_ms / 1000.0)
        return min(ends, default=math.inf)

    def _judge(self, end: float, span: Span, judged: Judged) -> None:
        windows = self._take_windows(end, span, judged)
        self._judged_at = end
        for group in sorted({*windows, *self._open}):
            window = windows.get(group)
            share = window.breaching / window.conversations if window else 0.0
            state = self._open.get(group)
            if state is None:
                if (
                    window is not None
                    and span.groups.part is None  # else another process judges, which knows all parts
                    and window.conversations >= span.groups.min_conversations
                    and share >= span.groups.raise_ratio
                ):
                    incident = self._new_incident(group, end)
                    self._open[group] = _Open(incident, end)
                    judged.alerts.append(_group_alert(group, incident, "raised", end, share, window, span))
            elif share > span.groups.clear_ratio:
                self._open[group] = state._replace(above_at=end)
            elif elapsed_s(state.above_at, end) >= span.groups.clear_after_s:
                del self._open[group]
                judged.alerts.append(_group_alert(group, state.incident, "resolved", end, share, window, span))

    def _take_windows(self, end: float, span: Span, judged: Judged) -> dict[Group, GroupWindow]:
        keys = sorted(key for key in self._pending if key[0] == end)
        windows = group_windows([self._pending.pop(key) for key in keys], span.groups.part)
        judged.lines.extend(window.line for window in windows)
        return {key[2:]: window for key, window in zip(keys, windows, strict=True)}

    def _write_pending(self, span: Span, judged: Judged) -> None:
        windows = group_windows([self._pending[key] for key in sorted(self._pending)], span.groups.part)
        judged.lines.extend(window.line for window in windows)
        self._pending = {}

    def _new_incident(self, group: Group, end: float) -> str:
        time, number = self._latest.get(group, (end, -1))
        self._latest[group] = (end, number + 1 if time == end else 0)
        return uuid_text(incident_id_of([dict([group]), DEGRADED, *self._latest[group]]))

    def _inhibited(self, alert: Alert, span: Span) -> Alert:
        """Return the alert, marked and not sent if an incident of its groups or the cap says so."""
        by = self._inhibiting(alert.labels, span.groups.by)
        is_resolve = alert.state == "resolved"
        was_sent = is_resolve and alert.incident_id not in self._unsent
        self._unsent.pop(alert.incident_id, None)
        is_sent = by is None or not span.groups.inhibit or was_sent
        if is_sent and span.max_per_minute is not None:
            minute = math.floor(alert.time / MINUTE_S) * MINUTE_S
            if minute != self._minute:
                self._minute, self._sent, self._over = minute, 0, 0
            if self._sent >= span.max_per_minute and not was_sent:
                by, is_sent = by or "rate", False
                self._over += 1
            else:
                self._sent += 1
        if not is_sent and not is_resolve and span.keeps_open:
            self._unsent[alert.incident_id] = None
            if len(self._unsent) > MAX_UNSENT:  # some alerts are never resolved
                del self._unsent[next(iter(self._unsent))]
        if by is None:
            return alert
        return alert._replace(is_sent=is_sent, body=b'%b,"inhibitedBy":"%b"}' % (alert.body[:-1], by.encode()))

    def _inhibiting(self, labels: Mapping[str, str], by: Sequence[str]) -> str | None:
        """Return the open incident of the first group of a conversation that has one."""
        if not self._open or not labels:
            return None
        states = (self._open.get((name, labels[name])) for name in by if name in labels)
        return next((state.incident for state in states if state is not None), None)

    def _end_minute(self, span: Span, judged: Judged) -> None:
        """Tell how many alerts of the minute were not sent."""
        if self._over:
            judged.alerts.append(_storm_alert(self._minute, self._over, span))
        self._sent = self._over = 0

    def _step_clock(self, span: Span, judged: Judged) -> None:
        """Go on at another time: what has not ended is written, what waits keeps what it has waited."""
        assert span.step_s is not None
        lines = len(judged.lines)
        self._write_pending(span, judged)
        judged.progress.extend(progress_lines(span.until, span, judged.lines[lines:]))
        self._end_minute(span, judged)
        self._minute = -math.inf
        self._judged_at += min(0.0, span.step_s)
        self._open = {
            group: state._replace(above_at=state.above_at + span.step_s) for group, state in self._open.items()
        }

    def snapshot(self) -> tuple[Any, ...]:
        """Return a plain value that `restore` takes, sharing nothing with this."""
        pending = [tuple(part) for parts in self._pending.values() for part in parts]
        minute = (self._minute, self._sent, self._over)
        opened = {group: tuple(state) for group, state in self._open.items()}
        return (VERSION, pending, opened, self._judged_at, dict(self._latest), list(self._unsent), minute)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot. Raises ValueError for one of another version."""
        version, *kept = snapshot
        if version != VERSION:
            raise ValueError(f"the snapshot of groups is of version {version}, and this program reads {VERSION}")
        pending, opened, self._judged_at, latest, unsent, (self._minute, self._sent, self._over) = kept
        for part in map(GroupPart._make, pending):
            self._pending.setdefault((part.end, part.start, part.name, part.value), []).append(part)
        self._open = {group: _Open(*state) for group, state in opened.items()}
        self._latest, self._unsent = dict(latest), dict.fromkeys(unsent)


def _group_alert(
    group: Group, incident: str, state: str, end: float, share: float, window: GroupWindow | None, span: Span
) -> Alert:
    more = {
        "group": dict([group]),
        "conversations": window.conversations if window else 0,
        "breaching": window.breaching if window else 0,
    }
    reason = "recovered" if state == "resolved" else None
    line = window.line if window else None
    threshold = span.groups.raise_ratio
    return _alert(DEGRADED, incident, (state, reason), end, (share, threshold), span, dict([group]), line, more)


def _storm_alert(minute: float, over: int, span: Span) -> Alert:
    incident = uuid_text(incident_id_of([None, STORM, minute, 0]))
    limit = span.max_per_minute
    return _alert(STORM, incident, ("raised", None), minute + MINUTE_S, (over, limit), span, {}, None, {})


def _alert(
    rule: str,
    incident: str,
    state: tuple[str, str | None],
    time: float,
    value: tuple[float, float | None],
    span: Span,
    labels: dict[str, str],
    window: dict[str, Any] | None,
    more: dict[str, Any],
) -> Alert:
    alert_id = alert_id_of(incident, state[0])
    body = {
        "conversationId": None,
        "alertType": rule,
        "metricValue": value[0],
        "timestamp": time,
        "source": "genesys-interceptor",
        "alertId": alert_id,
        "incidentId": incident,
        "state": state[0],
        "reason": state[1],
        "threshold": value[1],
        "legId": None,
        "window": window,
        "labels": labels,
        **more,
    }
    url = span.groups.qa_callback_url
    return Alert(time, NO_FRAME, -1, None, 0, alert_id, rule, *state, url, orjson.dumps(body), labels, incident)
