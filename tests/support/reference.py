"""Contract §4 to §6 once more, as plainly as Python can say it: what the analytics are compared with.

Nothing here is fast, and nothing is shared with `flows.analytics` but what defines an identity or a formula that is
tested elsewhere: `incident_id` and the E-model. Frames are kept in lists, windows found by trying every one, quantiles
by sorting; every record is looked at once, in order. Where the contract is silent, the comment says what was decided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from flows.analytics.alerts import incident_id
from flows.analytics.voice_quality import G711_PLC, MODEL, mos_from_r, r_factor
from tests.support.reference_records import ALERTS, LIMITS, WINDOWS, NoRecordError, milliseconds, parse

__all__ = ["Outcome", "replay"]

LATENCY, LOSS = "LATENCY_THRESHOLD_EXCEEDED", "PACKET_LOSS_DETECTED"
DAY_S = 86_400.0


@dataclass
class Outcome:
    """What a journal comes to; the `_lines` lists say which line made their neighbour's item known.

    Alerts are in journal order. A window is known at the first record at or past its end; at `len(lines)` if only the
    end of the recording closes it. `rejected` holds (line, reason).
    """

    windows: list[dict[str, Any]] = field(default_factory=list)
    window_lines: list[int] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    alert_lines: list[int] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)
    unwatched: int = 0


def replay(
    lines: list[bytes],
    config_settings: dict[str, Any] | None = None,
    config_watches: dict[str, dict[str, Any]] | None = None,
) -> Outcome:
    """The windows and alerts of a recording; a configuration goes before what was recorded."""
    journal = _Journal(config_settings, config_watches or {}, len(lines))
    for line, text in enumerate(lines):
        try:
            record = parse(text)
        except NoRecordError as error:
            journal.outcome.rejected.append((line, str(error)))
        else:
            journal.read(line, record)
    return journal.close()


@dataclass(eq=False)
class _Frame:
    line: int
    grid: _Grid
    arrival: float
    latency_ms: float | None
    loss: float | None
    ended: bool


@dataclass(eq=False)
class _Grid:
    """Window lengths in force from one settings record to the next that changes them."""

    length_ms: int
    slide_ms: int
    closed: int | None = None  # the line that put other lengths in force, and so closed the open windows early

    def around(self, arrival: float) -> list[tuple[float, float]]:
        """The windows (start, end) that hold an arrival; their bounds are the floats that are printed."""
        guess = math.floor(arrival * 1000 / self.slide_ms)
        some = range(guess - self.length_ms // self.slide_ms - 2, guess + 3)
        bounds = [(k * self.slide_ms / 1000, (k * self.slide_ms + self.length_ms) / 1000) for k in some]
        return [(start, end) for start, end in bounds if start <= arrival < end]


@dataclass
class _Rule:
    """An alert's state: flags of the frames since the last resolve, the open incident, the last value above."""

    history: list[bool] = field(default_factory=list)
    incident: UUID | None = None
    above_at: float = -math.inf


def _new_rules() -> dict[str, _Rule]:
    return {LATENCY: _Rule(), LOSS: _Rule()}


@dataclass
class _Life:
    """A watched conversation from its watch to its end, and on if it is watched again before its windows ended.

    Then it goes on with its windows, and everything else begins anew.
    """

    conversation_id: str
    watch: dict[str, Any]
    over: bool = False
    frames: list[_Frame] = field(default_factory=list)
    rules: dict[str, _Rule] = field(default_factory=_new_rules)

    def is_open(self, now: float) -> bool:
        """The last window of its last frame has not ended."""
        last = self.frames[-1]
        return any(end > now for _, end in last.grid.around(last.arrival))


class _Journal:
    def __init__(self, settings: dict[str, Any] | None, watches: dict[str, dict[str, Any]], lines: int) -> None:
        self.outcome = Outcome()
        self.configured = settings is not None
        self.overrides = watches
        self.lines = lines
        self.time = -math.inf
        self.times: list[tuple[int, float]] = []
        self.down: set[str] = set()
        self.lives: list[_Life] = []
        self.ended_at: dict[str, float] = {}
        self.incidents: dict[tuple[str, str, float], int] = {}
        self.pending: list[tuple[dict[str, Any], _Life, _Frame]] = []
        self.alerts: dict[str, Any] = ALERTS
        self.limits: dict[str, Any] = LIMITS
        self.grid = _Grid(*milliseconds(WINDOWS))
        if settings is not None:
            self.adopt(-1, settings)

    def read(self, line: int, record: dict[str, Any]) -> None:
        received_at = record["received_at"]
        if received_at is None:
            received_at = record["frame"]["timestamp"]
        self.time = max(self.time, float(received_at))
        self.times.append((line, self.time))
        if "frame" in record:
            self.frame(line, record)
        elif "watch" in record:
            self.watch(record["watch"])
        elif "feed" in record:
            self.feed(**record["feed"])
        elif "settings" in record and not self.configured:
            self.adopt(line, record["settings"])

    def adopt(self, line: int, settings: dict[str, Any]) -> None:
        self.alerts = ALERTS | settings.get("alerts", {})
        self.limits = LIMITS | settings.get("defaults", {})
        grid = _Grid(*milliseconds(WINDOWS | settings.get("windows", {})))
        if (grid.length_ms, grid.slide_ms) != (self.grid.length_ms, self.grid.slide_ms):
            self.grid.closed = line
            self.grid = grid

    def feed(self, name: str, state: str, reason: str | None = None) -> None:
        if state == "down":
            self.down.add(name)
        elif name in self.down:
            self.down.remove(name)
            for life in self.lives:
                for rule in life.rules.values():
                    rule.above_at = self.time

    def last_life(self, conversation_id: str) -> _Life | None:
        return next((life for life in reversed(self.lives) if life.conversation_id == conversation_id), None)

    def watch(self, watch: dict[str, Any]) -> _Life:
        watch = {**LIMITS, "leg_id": None, **watch}
        override = self.overrides.get(watch["conversation_id"], {})
        watch |= {key: override[key] for key in LIMITS if key in override}
        life = self.last_life(watch["conversation_id"])
        if life is not None and not life.over:
            life.watch |= {key: watch[key] for key in LIMITS}
        elif life is not None and life.is_open(self.time):
            life.watch, life.over, life.rules = watch, False, _new_rules()
        else:
            life = _Life(watch["conversation_id"], watch)
            self.lives.append(life)
        return life

    def frame(self, line: int, record: dict[str, Any]) -> None:
        message = record["frame"]
        conversation_id = message["entity"]["id"]
        ended = message["event"] == "conversation.ended"
        latency_ms = None
        if record["received_at"] is not None:
            latency_ms = round((record["received_at"] - message["timestamp"]) * 1000, 3)
        loss = (message.get("metrics") or {}).get("packetLoss")
        frame = _Frame(line, self.grid, self.time, latency_ms, loss, ended)
        life = self.last_life(conversation_id)
        if life is None or life.over:
            if (
                self.alerts["unwatched"] == "ignore"
                or self.time < self.ended_at.get(conversation_id, -math.inf) + DAY_S
            ):
                self.outcome.unwatched += 1
                return
            leg_id = self.overrides.get(conversation_id, {}).get("leg_id")
            life = self.watch({"conversation_id": conversation_id, "leg_id": leg_id, **self.limits})
        life.frames.append(frame)
        self.evaluate(life, frame, LATENCY, frame.latency_ms, life.watch["max_latency_ms"])
        self.evaluate(life, frame, LOSS, frame.loss, life.watch["packet_loss_threshold"])
        if ended:
            life.over = True
            if self.alerts["unwatched"] == "default":
                self.ended_at[conversation_id] = self.time
            self.resolve_ended(life, frame, LATENCY, frame.latency_ms, life.watch["max_latency_ms"])
            self.resolve_ended(life, frame, LOSS, frame.loss, life.watch["packet_loss_threshold"])

    # Rules

    def evaluate(self, life: _Life, frame: _Frame, name: str, value: float | None, limit: float) -> None:
        if value is None:
            return
        rule, settings, breach = life.rules[name], self.alerts, value > limit
        if settings["policy"] == "frame":
            if breach:
                self.alert(life, frame, name, self.new_incident(life, frame, name), "raised", None, value, limit)
            return
        level = limit * settings["clear_ratio"]
        if rule.incident is None:
            rule.history = [*rule.history, breach][-settings["raise_m"] :]
            if sum(rule.history) >= settings["raise_n"]:
                rule.incident = self.new_incident(life, frame, name)
                rule.above_at = frame.arrival
                self.alert(life, frame, name, rule.incident, "raised", None, value, limit)
        elif value > level:
            rule.above_at = frame.arrival
        elif not self.down and frame.arrival - rule.above_at >= settings["clear_after_s"]:
            self.resolve(life, frame, name, "recovered", value, limit)

    def resolve_ended(self, life: _Life, frame: _Frame, name: str, value: float | None, limit: float) -> None:
        if life.rules[name].incident is not None:
            self.resolve(life, frame, name, "ended", value, limit)

    def resolve(self, life: _Life, frame: _Frame, name: str, reason: str, value: float | None, limit: float) -> None:
        incident = life.rules[name].incident
        assert incident is not None
        life.rules[name] = _Rule()
        self.alert(life, frame, name, incident, "resolved", reason, value, limit)

    def new_incident(self, life: _Life, frame: _Frame, name: str) -> UUID:
        key = (life.conversation_id, name, frame.arrival)
        ordinal = self.incidents.get(key, 0)
        self.incidents[key] = ordinal + 1
        return incident_id(*key, ordinal)

    def alert(
        self,
        life: _Life,
        frame: _Frame,
        name: str,
        incident: UUID,
        state: str,
        reason: str | None,
        value: float | None,
        limit: float,
    ) -> None:
        body = {
            "conversationId": life.conversation_id,
            "alertType": name,
            "metricValue": value,
            "timestamp": frame.arrival,
            "source": "genesys-interceptor",
            "alertId": str(uuid5(incident, state)),
            "incidentId": str(incident),
            "state": state,
            "reason": reason,
            "threshold": limit,
            "legId": life.watch["leg_id"],
            "window": None,
        }
        self.outcome.alerts.append(body)
        self.outcome.alert_lines.append(frame.line)
        self.pending.append((body, life, frame))

    # Windows

    def close(self) -> Outcome:
        known: list[tuple[int, float, str, float, dict[str, Any]]] = []
        by_life: dict[int, list[dict[str, Any]]] = {}
        for life in self.lives:
            windows = by_life[id(life)] = []
            grids: list[_Grid] = []
            for frame in life.frames:
                if frame.grid not in grids:
                    grids.append(frame.grid)
            for grid in grids:
                for window in _windows(life.conversation_id, grid, [f for f in life.frames if f.grid is grid]):
                    windows.append(window)
                    line = self.known_at(grid, window["end"])
                    known.append((line, window["end"], life.conversation_id, window["start"], window))
        for body, life, frame in self.pending:
            past = [window for window in by_life[id(life)] if window["end"] <= frame.arrival]
            body["window"] = max(reversed(past), key=lambda window: window["end"], default=None)
        known.sort(key=lambda row: row[:4])
        self.outcome.windows = [row[4] for row in known]
        self.outcome.window_lines = [row[0] for row in known]
        return self.outcome

    def known_at(self, grid: _Grid, end: float) -> int:
        at = next((line for line, time in self.times if time >= end), self.lines)
        return at if grid.closed is None else min(at, grid.closed)


def _windows(conversation_id: str, grid: _Grid, frames: list[_Frame]) -> list[dict[str, Any]]:
    bounds = sorted({bounds for frame in frames for bounds in grid.around(frame.arrival)})
    return [
        _window(conversation_id, start, end, [frame for frame in frames if start <= frame.arrival < end])
        for start, end in bounds
    ]


def _window(conversation_id: str, start: float, end: float, frames: list[_Frame]) -> dict[str, Any]:
    latencies = sorted(frame.latency_ms for frame in frames if frame.latency_ms is not None)
    losses = [frame.loss for frame in frames if frame.loss is not None]
    latency = loss = mos = None
    if latencies:
        latency = {
            "count": len(latencies),
            "min": latencies[0],
            "mean": math.fsum(latencies) / len(latencies),
            "max": latencies[-1],
            "p50": _nearest_rank(latencies, 50),
            "p95": _nearest_rank(latencies, 95),
            "p99": _nearest_rank(latencies, 99),
        }
    if losses:
        loss = {"count": len(losses), "mean": math.fsum(losses) / len(losses), "max": max(losses)}
    if latency and loss:
        r = r_factor(np.array([latency["mean"]]), np.array([loss["mean"]]), G711_PLC)
        mos = {"value": round(float(mos_from_r(r)[0]), 3), "model": MODEL}
    return {
        "conversation_id": conversation_id,
        "start": start,
        "end": end,
        "frames": len(frames),
        "latency_ms": latency,
        "packet_loss": loss,
        "mos": mos,
    }


def _nearest_rank(ordered: list[float], percent: int) -> float:
    return ordered[-(-percent * len(ordered) // 100) - 1]
