"""The calls of the plain reference: a watched conversation's frames, its windows, and the state of its alerts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np

from flows.analytics.voice_quality import G711, G711_PLC, G729A_VAD, mos_from_r, r_factor

__all__ = [
    "LATENCY",
    "LOSS",
    "QUALITY",
    "STALLED",
    "Frame",
    "Grid",
    "Life",
    "Moment",
    "Rule",
    "Stall",
    "Window",
    "new_rules",
]

LATENCY, LOSS = "LATENCY_THRESHOLD_EXCEEDED", "PACKET_LOSS_DETECTED"
QUALITY, STALLED = "LOW_MOS", "STREAM_STALLED"
CODECS = {"g711": G711_PLC, "g711-no-plc": G711, "g729a": G729A_VAD}


@dataclass(eq=False)
class Moment:
    line: int
    arrival: float


@dataclass(eq=False)
class Frame(Moment):
    grid: Grid
    latency_ms: float | None
    loss: float | None
    ended: bool
    breaching: bool = False


@dataclass(eq=False)
class Grid:
    """The `[windows]` in force from one settings record to the next that changes it."""

    length_ms: int
    slide_ms: int
    codec: str
    closed: int | None = None  # the line that put another one in force, and so closed the open windows early

    def around(self, arrival: float) -> list[tuple[float, float]]:
        """The windows (start, end) that hold an arrival; their bounds are the floats that are printed."""
        guess = math.floor(arrival * 1000 / self.slide_ms)
        some = range(guess - self.length_ms // self.slide_ms - 2, guess + 3)
        bounds = [(k * self.slide_ms / 1000, (k * self.slide_ms + self.length_ms) / 1000) for k in some]
        return [(start, end) for start, end in bounds if start <= arrival < end]


@dataclass(eq=False)
class Window:
    life: Life
    grid: Grid
    start: float
    end: float
    codec: str | None = None  # known when it is closed
    labels: dict[str, str] | None = None  # likewise

    def close(self) -> None:
        if self.labels is None:
            self.labels = self.life.watch["labels"]
        self.codec = self.codec or self.life.codec or self.grid.codec

    def told(self) -> dict[str, Any]:
        frames = [frame for frame in self.life.frames if frame.grid is self.grid]
        within = [frame for frame in frames if self.start <= frame.arrival < self.end]
        told = _window(self.life.conversation_id, self.start, self.end, within, self.codec)
        return told | {"labels": self.labels}


@dataclass(eq=False)
class Stall:
    life: Life
    since: float
    limit: float
    incident: UUID


@dataclass
class Rule:
    """An alert's state: flags of the frames since the last resolve, the open incident, the last value above."""

    history: list[bool] = field(default_factory=list)
    incident: UUID | None = None
    above_at: float = -math.inf


def new_rules() -> dict[str, Rule]:
    return {LATENCY: Rule(), LOSS: Rule(), QUALITY: Rule()}


@dataclass
class Life:
    """A watched conversation from its watch to its end, and on if it is watched again before its windows ended.

    Then it continues with its windows, and everything else restarts.
    """

    conversation_id: str
    watch: dict[str, Any]
    over: bool = False
    frames: list[Frame] = field(default_factory=list)
    rules: dict[str, Rule] = field(default_factory=new_rules)
    codec: str | None = None
    heard: bool = False
    last_at: float = -math.inf
    waiting_since: float | None = None
    stall: Stall | None = None
    windows: list[Window] = field(default_factory=list)
    to_end: list[Window] = field(default_factory=list)

    def take(self, frame: Frame) -> None:
        self.heard = True
        self.frames.append(frame)
        for start, end in frame.grid.around(frame.arrival):
            if not any((w.grid, w.start, w.end) == (frame.grid, start, end) for w in self.to_end):
                self.windows.append(Window(self, frame.grid, start, end))
                self.to_end.append(self.windows[-1])

    def is_open(self, now: float) -> bool:
        """The last window of its last frame has not ended."""
        if not self.frames:
            return False
        last = self.frames[-1]
        return any(end > now for _, end in last.grid.around(last.arrival))


def _window(conversation_id: str, start: float, end: float, frames: list[Frame], codec: str | None) -> dict[str, Any]:
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
        assert codec is not None
        means = np.array([round(latency["mean"], 6)]), np.array([round(loss["mean"], 9)])
        r = r_factor(*means, CODECS[codec])
        model = f"G.107 narrowband, {CODECS[codec].name}"
        mos = {"value": round(float(mos_from_r(r)[0]), 3), "model": model}
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
