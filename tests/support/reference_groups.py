"""Contract section 12 as plainly as Python can say it: every instant is judged, over all frames."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tests.support.reference import Outcome
from tests.support.reference_calls import Window
from tests.support.reference_records import ALERTS, GROUPS, WINDOWS

__all__ = ["GroupOutcome", "groups_of"]

Group = tuple[str, str]


@dataclass
class GroupOutcome:
    """Lines of groups; incidents as (group, raised at, resolved at); alerts as (time, type, state, inhibited, sent)."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    incidents: list[list[Any]] = field(default_factory=list)
    alerts: list[tuple[Any, ...]] = field(default_factory=list)


def groups_of(outcome: Outcome) -> GroupOutcome:
    return _Judge(outcome).run()


class _Judge:
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.result = GroupOutcome()
        self.told: list[tuple[float, int, tuple[Any, ...]]] = []

    def settings_at(self, line: int) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Groups, alerts and slide in force before the record in a line."""
        value: dict[str, Any] = next((settings for at, settings in reversed(self.outcome.settings) if at < line), {})
        slide_s = (WINDOWS | value.get("windows", {}))["slide_s"]
        return GROUPS | value.get("groups", {}), ALERTS | value.get("alerts", {}), round(slide_s * 1000)

    def run(self) -> GroupOutcome:
        begin, before = self.outcome.times[0][1], -math.inf
        for line, time in self.outcome.times:
            groups, _, slide_ms = self.settings_at(line)
            number = math.floor(max(before, begin - 1) * 1000 / slide_ms) - 1
            while number * slide_ms / 1000 <= time:
                if number * slide_ms / 1000 > before:
                    self.judge(number * slide_ms / 1000, groups)
                number += 1
            before = max(before, time)
        for window in self.outcome.own_windows:
            if window.end > before:
                self.lines_at(window.end, self.settings_at(len(self.outcome.times) + 1)[0])
        self.result.lines = list({repr(sorted(line.items(), key=str)): line for line in self.result.lines}.values())
        self.pass_alerts()
        return self.result

    def members(self, end: float, groups: dict[str, Any]) -> dict[Group, list[Window]]:
        found: dict[Group, list[Window]] = {}
        for window in self.outcome.own_windows:
            for name in groups["by"]:
                if window.end == end and name in (window.labels or {}):
                    found.setdefault((name, (window.labels or {})[name]), []).append(window)
        return found

    def is_breaching(self, window: Window) -> bool:
        if any(frame.breaching for frame in window.life.frames if window.start <= frame.arrival < window.end):
            return True
        openings = self.outcome.openings
        return sum(opened for life, at, opened in openings if life is window.life and at < window.end) > 0

    def lines_at(self, end: float, groups: dict[str, Any]) -> dict[Group, tuple[int, int]]:
        counts = {}
        for (name, value), windows in sorted(self.members(end, groups).items()):
            frames = [frame for w in windows for frame in w.life.frames if w.start <= frame.arrival < w.end]
            breaching = sum(self.is_breaching(window) for window in windows)
            counts[name, value] = (len(windows), breaching)
            told = [window.told() for window in windows]
            mos = [one["mos"]["value"] for one in told if one["mos"]]
            self.result.lines.append(
                {
                    "group": {name: value},
                    "start": windows[0].start,
                    "end": end,
                    "conversations": len(windows),
                    "breaching": breaching,
                    "frames": len(frames),
                    "latency_ms": _latency([f.latency_ms for f in frames if f.latency_ms is not None]),
                    "packet_loss": _loss([f.loss for f in frames if f.loss is not None]),
                    "mos": {"min": min(mos), "mean": math.fsum(mos) / len(mos), "model": "G.107 narrowband, G.711+PLC"}
                    if mos
                    else None,
                }
            )
        return counts

    def judge(self, end: float, groups: dict[str, Any]) -> None:
        counts = self.lines_at(end, groups)
        opened = {tuple(i[0]): i for i in self.result.incidents if i[2] == math.inf}
        for group in sorted({*counts, *opened}):
            conversations, breaching = counts.get(group, (0, 0))
            share = breaching / conversations if conversations else 0.0
            if group in opened:
                incident = opened[group]
                if share > groups["clear_ratio"]:
                    incident[3] = end
                elif round(end - incident[3], 6) >= groups["clear_after_s"]:
                    incident[2] = end
                    self.tell(end, "GROUP_DEGRADED", "resolved", group, share)
            elif conversations >= groups["min_conversations"] and share >= groups["raise_ratio"]:
                self.result.incidents.append([group, end, math.inf, end])
                self.tell(end, "GROUP_DEGRADED", "raised", group, share)

    def tell(self, time: float, rule: str, state: str, group: Group | None, value: float) -> None:
        self.told.append((time, len(self.told), (time, rule, state, group, value)))

    def pass_alerts(self) -> None:
        """Say of each conversation's alert what inhibits it and whether it is sent."""
        sent: dict[float, int] = {}
        over: dict[float, int] = {}
        unsent: set[str] = set()
        for body, line in zip(self.outcome.alerts, self.outcome.alert_lines, strict=True):
            groups, alerts, _ = self.settings_at(line)
            time, incident = body["timestamp"], body["incidentId"]
            by: Any = next(
                (
                    name_value
                    for name_value in ((name, body["labels"].get(name)) for name in groups["by"])
                    if any(i[0] == name_value and i[1] <= time < i[2] for i in self.result.incidents)
                ),
                None,
            )
            was_sent = body["state"] == "resolved" and incident not in unsent
            is_sent = by is None or not groups["inhibit"] or was_sent
            minute = math.floor(time / 60) * 60.0
            if is_sent and alerts["max_per_minute"] is not None:
                if sent.get(minute, 0) >= alerts["max_per_minute"] and not was_sent:
                    by, is_sent = by or "rate", False
                    over[minute] = over.get(minute, 0) + 1
                else:
                    sent[minute] = sent.get(minute, 0) + 1
            if not is_sent and body["state"] == "raised" and alerts["policy"] == "incident":
                unsent.add(incident)
            self.told.append((time, 10**9 + len(self.told), (time, body["alertId"], by, is_sent)))
        for minute, times in over.items():
            self.told.append((minute + 60, -1, (minute + 60, "ALERT_STORM", "raised", None, times)))
        self.result.alerts = [told for _, _, told in sorted(self.told, key=lambda one: one[:2])]


def _latency(latencies: list[float]) -> dict[str, Any] | None:
    if not latencies:
        return None
    ordered = sorted(latencies)
    rank = {f"p{percent}": ordered[-(-percent * len(ordered) // 100) - 1] for percent in (50, 95, 99)}
    mean = math.fsum(ordered) / len(ordered)
    return {"count": len(ordered), "min": ordered[0], "mean": mean, "max": ordered[-1], **rank}


def _loss(losses: list[float]) -> dict[str, Any] | None:
    if not losses:
        return None
    return {"count": len(losses), "mean": math.fsum(losses) / len(losses), "max": max(losses)}
