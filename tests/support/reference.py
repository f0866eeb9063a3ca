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
from tests.support.reference_calls import (
    LATENCY,
    LOSS,
    QUALITY,
    STALLED,
    Frame,
    Grid,
    Life,
    Moment,
    Rule,
    Stall,
    Window,
    new_rules,
)
from tests.support.reference_precedence import Precedence
from tests.support.reference_records import ALERTS, LIMITS, WINDOWS, NoRecordError, milliseconds, parse

__all__ = ["Outcome", "replay"]

DAY_S = 86_400.0
SILENT_ORDER = (LATENCY, LOSS, QUALITY, STALLED)


@dataclass
class Outcome:
    """What a journal comes to; the `_lines` lists say which line made their neighbour's item known.

    Alerts are in journal order, what time did before the record that tells that it has passed.
    A window is known at the first record at or past its end; at `len(lines)` if only the
    end of the recording closes it. `rejected` holds (line, reason).
    """

    windows: list[dict[str, Any]] = field(default_factory=list)
    window_lines: list[int] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    alert_lines: list[int] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)
    unwatched: int = 0
    silent: list[tuple[float, str]] = field(default_factory=list)
    # What the reference of groups needs: the times of lines, settings by the line that put them in force, windows, and
    # incidents as (conversation's life, time, 1 for opened and -1 for resolved).
    times: list[tuple[int, float]] = field(default_factory=list)
    settings: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    own_windows: list[Window] = field(default_factory=list)
    openings: list[tuple[Life, float, int]] = field(default_factory=list)


def replay(
    lines: list[bytes],
    config_settings: dict[str, Any] | None = None,
    config_watches: dict[str, dict[str, Any]] | None = None,
    config_feeds: dict[str, dict[str, Any]] | None = None,
    config_defaults: dict[str, Any] | None = None,
) -> Outcome:
    """The windows and alerts of a recording; a configuration takes precedence over what was recorded."""
    precedence = Precedence(config_settings or {}, config_watches or {}, config_feeds or {}, config_defaults or {})
    journal = _Journal(config_settings, precedence, len(lines))
    for line, text in enumerate(lines):
        try:
            record = parse(text)
        except NoRecordError as error:
            journal.outcome.rejected.append((line, str(error)))
        else:
            journal.read(line, record)
    return journal.close()


class _Journal:
    def __init__(self, settings: dict[str, Any] | None, precedence: Precedence, lines: int) -> None:
        self.outcome = Outcome()
        self.configured = settings or {}
        self.precedence = precedence
        self.lines = lines
        self.time = -math.inf
        self.times: list[tuple[int, float]] = []
        self.down: set[str] = set()
        self.lives: list[Life] = []
        self.ended_at: dict[str, float] = {}
        self.incidents: dict[tuple[str, str, float], int] = {}
        self.pending: list[tuple[dict[str, Any], Life, Window | None]] = []
        self.mos_below = math.nan
        self.alerts: dict[str, Any] = ALERTS
        self.feeds: dict[str, Any] = {}
        self.silent_after_s = 21_600.0
        self.limits: dict[str, Any] = LIMITS
        self.grid = Grid(*milliseconds(WINDOWS), WINDOWS["codec"])
        self.grids = [self.grid]
        if settings:
            self.adopt(-1, settings)

    def read(self, line: int, record: dict[str, Any]) -> None:
        received_at = record["received_at"]
        if received_at is None:
            received_at = record["frame"]["timestamp"]
        self.time = max(self.time, float(received_at))
        self.times.append((line, self.time))
        self.pass_time(line, self.time)
        if "frame" in record:
            self.frame(line, record)
        elif "watch" in record:
            self.watch(record["watch"])
        elif "feed" in record:
            self.feed(**record["feed"])
        elif "settings" in record:
            self.precedence.recorded_limits = record["settings"].get("limits", [])
            for life in self.lives:
                if not life.over:
                    life.watch |= self.precedence.limits(life.watch)
            self.adopt(line, self.over(record["settings"]))

    def over(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Return recorded tables with each key that the configuration sets."""
        tables = {name: dict(table) for name, table in recorded.items() if name != "limits"}
        if "stalled_after_s" in self.configured.get("alerts", {}):
            for feed, rules in recorded.get("feeds", {}).items():
                if rules["stalled_after_s"] is not None:
                    del tables["feeds"][feed]
        for name, table in self.configured.items():
            for key, value in table.items() if name != "limits" else ():
                tables.setdefault(name, {})[key] = value
        return tables

    def adopt(self, line: int, settings: dict[str, Any]) -> None:
        self.outcome.settings.append((line, settings))
        before = [self.stalled_after_s(life) for life in self.lives]
        self.alerts = ALERTS | settings.get("alerts", {})
        self.feeds = settings.get("feeds", {})
        self.mos_below = self.alerts["mos_below"] or self.mos_below
        for life, before_s in zip(self.lives, before, strict=True):
            self.change_wait(life, before_s, self.stalled_after_s(life))
        self.limits = LIMITS | settings.get("defaults", {})
        windows = WINDOWS | settings.get("windows", {})
        silent_after_s = max(settings.get("watch", {}).get("forget_after_s", 21_600), windows["length_s"])
        for life in self.lives if silent_after_s != self.silent_after_s else ():
            life.last_at = self.time
        self.silent_after_s = silent_after_s
        grid = Grid(*milliseconds(windows), windows["codec"])
        if (grid.length_ms, grid.slide_ms, grid.codec) != (self.grid.length_ms, self.grid.slide_ms, self.grid.codec):
            self.grid.closed = line
            self.grid = grid
            self.grids.append(grid)
            for life in self.lives:
                for window in life.to_end:
                    window.close()

    def stalled_after_s(self, life: Life) -> float | None:
        shared: float | None = self.alerts["stalled_after_s"]
        own = self.feeds.get(life.watch["feed"])
        return shared if own is None else own.get("stalled_after_s")

    def change_wait(self, life: Life, before: float | None, after: float | None) -> None:
        can_wait = life.heard and not life.over and life.stall is None
        if after is None:
            life.waiting_since = None
        elif before != after and (can_wait if before is None else life.waiting_since is not None):
            life.waiting_since = self.time

    def feed(self, name: str, state: str, reason: str | None = None) -> None:
        if state == "down":
            self.down.add(name)
        elif name in self.down:
            self.down.remove(name)
            for life in self.lives:
                if life.watch["feed"] not in (None, name):
                    continue
                for rule in life.rules.values():
                    rule.above_at = self.time
                if life.waiting_since is not None:
                    life.waiting_since = self.time

    def is_frozen(self, life: Life) -> bool:
        feed = life.watch["feed"]
        return bool(self.down) if feed is None else feed in self.down

    def last_life(self, conversation_id: str) -> Life | None:
        return next((life for life in reversed(self.lives) if life.conversation_id == conversation_id), None)

    def watch(self, watch: dict[str, Any]) -> Life:
        life = self.last_life(watch["conversation_id"])
        if life is not None and not life.over:
            life.watch = self.precedence.rewatched(life.watch, watch)
            return life
        last_at = watch.get("last_frame_at")
        watch = self.precedence.watched(watch)
        if life is not None and life.is_open(self.time):
            life.watch, life.over, life.rules, life.heard = watch, False, new_rules(), False
            life.codec = watch["codec"] or life.codec
        else:
            life = Life(watch["conversation_id"], watch, codec=watch["codec"])
            self.lives.append(life)
        life.last_at = self.time if last_at is None else min(last_at, self.time)
        if self.silent_at(life) <= self.time:
            life.last_at = self.time
        return life

    def frame(self, line: int, record: dict[str, Any]) -> None:
        message = record["frame"]
        conversation_id = message["entity"]["id"]
        ended = message["event"] == "conversation.ended"
        latency_ms = None
        if record["received_at"] is not None:
            latency_ms = round((record["received_at"] - message["timestamp"]) * 1000, 3)
        loss = (message.get("metrics") or {}).get("packetLoss")
        frame = Frame(line, self.time, self.grid, latency_ms, loss, ended)
        life = self.last_life(conversation_id)
        if life is None or life.over:
            if (
                self.alerts["unwatched"] == "ignore"
                or self.time < self.ended_at.get(conversation_id, -math.inf) + DAY_S
            ):
                self.outcome.unwatched += 1
                return
            leg_id = self.precedence.watches.get(conversation_id, {}).get("leg_id")
            watch = {"conversation_id": conversation_id, "leg_id": leg_id, **self.limits}
            life = self.watch(watch | {"default_limits": list(LIMITS)})
        life.take(frame)
        life.last_at = self.time
        self.evaluate(life, frame, LATENCY, frame.latency_ms, life.watch["max_latency_ms"])
        self.evaluate(life, frame, LOSS, frame.loss, life.watch["packet_loss_threshold"])
        stall = life.stall
        if stall is not None and not ended:
            self.resolve_stall(stall, frame, "recovered")
        life.waiting_since = None if ended or self.stalled_after_s(life) is None else self.time
        if ended:
            life.over = True
            if self.alerts["unwatched"] == "default":
                self.ended_at[conversation_id] = self.time
            self.resolve_ended(life, frame, LATENCY, frame.latency_ms, life.watch["max_latency_ms"])
            self.resolve_ended(life, frame, LOSS, frame.loss, life.watch["packet_loss_threshold"])
            self.resolve_ended(life, frame, QUALITY, None, self.mos_below)
            if stall is not None:
                self.resolve_stall(stall, frame, "ended")

    # What time does, before the records of that time: windows end, and streams stall

    def pass_time(self, line: int, now: float) -> None:
        events: list[tuple[float, int, str, Window | Life]] = []
        for life in self.lives:
            name = life.conversation_id
            events += [(window.end, 0, name, window) for window in life.to_end if window.end <= now]
            life.to_end = [window for window in life.to_end if window.end > now]
            if life.waiting_since is not None and self.stalls_at(life) <= now and not self.is_frozen(life):
                events.append((self.stalls_at(life), 1, name, life))
            if not life.over and self.silent_at(life) <= now:
                events += [(self.silent_at(life), 2 + rule, name, life) for rule in range(len(SILENT_ORDER))]
        for time, kind, _, what in sorted(events, key=lambda event: event[:3]):
            if isinstance(what, Window):
                self.end_window(what, Moment(line, time))
            elif kind >= 2:
                self.forget(what, Moment(line, time), SILENT_ORDER[kind - 2])
            elif not what.over:
                self.stall(what, Moment(line, time))

    def end_window(self, window: Window, at: Moment) -> None:
        window.close()
        if self.alerts["mos_below"] is None or window.life.over:
            return
        mos = window.told()["mos"]
        if mos is not None:
            missing, limit = round(5 - mos["value"], 3), round(5 - self.mos_below, 9)
            self.evaluate(window.life, at, QUALITY, missing, limit, window)

    def silent_at(self, life: Life) -> float:
        return float(np.round(life.last_at + self.silent_after_s, 6))

    def forget(self, life: Life, at: Moment, name: str) -> None:
        """Resolve one rule of a watch that was silent for too long; of one time, the rules come one after the other."""
        if not life.over:
            life.over, life.waiting_since = True, None
            self.outcome.silent.append((at.arrival, life.conversation_id))
        if name == STALLED:
            if life.stall is not None:
                self.resolve_stall(life.stall, at, "silent")
        elif life.rules[name].incident is not None:
            watch = life.watch
            limits = {LATENCY: watch["max_latency_ms"], LOSS: watch["packet_loss_threshold"], QUALITY: self.mos_below}
            self.resolve(life, at, name, "silent", None, limits[name])

    def stalls_at(self, life: Life) -> float:
        limit = self.stalled_after_s(life)
        assert life.waiting_since is not None
        assert limit is not None
        return float(np.round(life.waiting_since + limit, 6))

    def stall(self, life: Life, at: Moment) -> None:
        limit = self.stalled_after_s(life)
        incident = self.new_incident(life, at, STALLED)
        assert life.waiting_since is not None
        assert limit is not None
        if self.alerts["policy"] == "incident":
            life.stall = Stall(life, life.waiting_since, limit, incident)
        life.waiting_since = None
        self.alert(life, at, STALLED, incident, "raised", None, limit, limit)

    def resolve_stall(self, stall: Stall, frame: Moment, reason: str) -> None:
        stall.life.stall = None
        gap_s = round(frame.arrival - stall.since, 6)
        self.alert(stall.life, frame, STALLED, stall.incident, "resolved", reason, gap_s, stall.limit)

    # Rules

    def evaluate(
        self,
        life: Life,
        frame: Moment,
        name: str,
        value: float | None,
        limit: float,
        window: Window | None = None,
    ) -> None:
        if value is None:
            return
        rule, settings, breach = life.rules[name], self.alerts, value > limit
        if isinstance(frame, Frame) and (self.outcome.settings or [(0, {})])[-1][1].get("groups", {}).get("by"):
            frame.breaching = frame.breaching or breach
        if settings["policy"] == "frame":
            if breach:
                self.alert(
                    life, frame, name, self.new_incident(life, frame, name), "raised", None, value, limit, window
                )
            return
        level = float(f"{limit * settings['clear_ratio']:.12g}")
        if rule.incident is None:
            rule.history = [*rule.history, breach][-settings["raise_m"] :]
            if sum(rule.history) >= settings["raise_n"]:
                rule.incident = self.new_incident(life, frame, name)
                rule.above_at = frame.arrival
                self.alert(life, frame, name, rule.incident, "raised", None, value, limit, window)
        elif value > level:
            rule.above_at = frame.arrival
        elif (
            not self.is_frozen(life) and float(np.round(frame.arrival - rule.above_at, 6)) >= settings["clear_after_s"]
        ):
            self.resolve(life, frame, name, "recovered", value, limit, window)

    def resolve_ended(self, life: Life, frame: Moment, name: str, value: float | None, limit: float) -> None:
        if life.rules[name].incident is not None:
            self.resolve(life, frame, name, "ended", value, limit)

    def resolve(
        self,
        life: Life,
        frame: Moment,
        name: str,
        reason: str,
        value: float | None,
        limit: float,
        window: Window | None = None,
    ) -> None:
        incident = life.rules[name].incident
        assert incident is not None
        life.rules[name] = Rule()
        self.alert(life, frame, name, incident, "resolved", reason, value, limit, window)

    def new_incident(self, life: Life, frame: Moment, name: str) -> UUID:
        key = (life.conversation_id, name, frame.arrival)
        ordinal = self.incidents.get(key, 0)
        self.incidents[key] = ordinal + 1
        return UUID(bytes=incident_id(*key, ordinal))

    def alert(
        self,
        life: Life,
        frame: Moment,
        name: str,
        incident: UUID,
        state: str,
        reason: str | None,
        value: float | None,
        limit: float,
        window: Window | None = None,
    ) -> None:
        if window is not None:
            value, limit = window.told()["mos"]["value"], self.mos_below
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
            "labels": life.watch["labels"],
        }
        if state == "resolved" or self.alerts["policy"] == "incident":
            self.outcome.openings.append((life, frame.arrival, 1 if state == "raised" else -1))
        self.outcome.alerts.append(body)
        self.outcome.alert_lines.append(frame.line)
        self.pending.append((body, life, window))

    # Windows

    def close(self) -> Outcome:
        for life in self.lives:
            for window in life.to_end:
                window.close()
        known: list[tuple[int, float, str, float, dict[str, Any]]] = []
        by_life: dict[int, list[dict[str, Any]]] = {}
        for life in self.lives:
            in_order = sorted(life.windows, key=lambda window: (self.grids.index(window.grid), window.start))
            by_life[id(life)] = [window.told() for window in in_order]
            for window, told in zip(in_order, by_life[id(life)], strict=True):
                line = self.known_at(window.grid, window.end)
                known.append((line, window.end, life.conversation_id, window.start, told))
        for body, life, shown in self.pending:
            past = [told for told in by_life[id(life)] if told["end"] <= body["timestamp"]]
            last = max(reversed(past), key=lambda told: told["end"], default=None)
            body["window"] = last if shown is None else shown.told()
        self.outcome.times = self.times
        self.outcome.own_windows = [window for life in self.lives for window in life.windows]
        known.sort(key=lambda row: row[:4])
        self.outcome.windows = [row[4] for row in known]
        self.outcome.window_lines = [row[0] for row in known]
        return self.outcome

    def known_at(self, grid: Grid, end: float) -> int:
        at = next((line for line, time in self.times if time >= end), self.lines)
        return at if grid.closed is None else min(at, grid.closed)
