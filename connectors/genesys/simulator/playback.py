"""What the simulator sends: generated calls, or a recording that is played back.

A `Source` is a script of steps against a run's start. Neither source reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from connectors.errors import RecordingError
from connectors.format.lines import read_line, time_of
from connectors.format.records import CLOCK, BareFrame, Control, FrameLine, InvalidFrameError
from connectors.genesys.simulator.calls import ENDED, encode_frame
from connectors.genesys.simulator.traffic import Traffic
from connectors.journal.recording import Recording
from connectors.runtime.logs import get_logger

__all__ = ["Calls", "Playback", "Source", "Step", "moved"]


class Step(NamedTuple):
    """One thing to do, `due_s` seconds after the run's start.

    `message` goes to every subscriber, and `is_frame` tells whether it is meant as a frame; without a message, the
    event sockets are closed.
    """

    due_s: float
    message: str | bytes | None
    is_frame: bool


def moved(frame: str | bytes, late_s: float) -> str | bytes:
    """Return a frame with a later time; as it is if it is not late.

    >>> moved('{"timestamp":1.5}', 0.25)
    '{"timestamp":1.75}'
    """
    if late_s <= 0:
        return frame
    content = orjson.loads(frame)
    return orjson.dumps({**content, "timestamp": round(content["timestamp"] + late_s, 6)}).decode()


class Source(Protocol):
    """A run's content."""

    @property
    def active(self) -> Collection[str]:
        """Return the ids of the conversations that are on, as far as the steps were read."""

    def steps(self, start: float) -> Iterator[Step]:
        """Every step in order, for a run that starts at `start` (epoch seconds)."""


class Calls:
    """Generated calls without end."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    @property
    def active(self) -> Collection[str]:
        """Return the ids of the calls in progress."""
        return [call.id for call in self._traffic.book.in_progress()]

    def steps(self, start: float) -> Iterator[Step]:
        """Yield the frames of the calls."""
        for frame, _ in self._traffic.frames(start):
            yield Step(frame.due_s, encode_frame(frame, start).decode(), is_frame=True)


class Playback:
    """A recording as `replay` reads it, one file, played at `speed` times its own pace.

    Times are moved to the live clock so that every frame keeps the latency it had. `invalid` records are sent as
    their text, and where the feed was lost the sockets are closed. Lines that are not records are left out and counted
    in `skipped`. A few lines at a time are in memory.

    Raises RecordingError, at once, when the file cannot be read or has nothing to play.
    """

    def __init__(self, path: Path, speed: float = 1.0) -> None:
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be positive, not {speed}")
        self._path = path
        self._recording = Recording([path])
        self._speed = speed
        self.active: dict[str, None] = {}
        self.skipped = 0
        if next(self.steps(0.0), None) is None:
            raise RecordingError(f"{path}: there is no frame in it to play")
        self.active.clear()
        self.skipped = 0

    def steps(self, start: float) -> Iterator[Step]:
        """Yield what the recording's feed received, in its order."""
        first = reached = -math.inf
        for record, content in self._records():
            arrived = time_of(record)
            if arrived is None:
                continue
            if first == -math.inf:
                first = reached = arrived
            if isinstance(record, Control) and record.kind == CLOCK:
                first, reached = first + arrived - reached, arrived
            reached = max(reached, arrived)
            if isinstance(record, FrameLine) and record.arrived_at is not None:
                arrived = record.arrived_at  # which its latency is measured to
            step = self._step(content, arrived, (reached - first) / self._speed, start)
            if step is not None:
                yield step
        if self.skipped:
            get_logger(__name__).warning("recording_lines_skipped", path=str(self._path), lines=self.skipped)

    def _step(self, content: dict[str, Any], arrived: float, due_s: float, start: float) -> Step | None:
        message = content.get("frame", content) if "event" not in content else content
        if "event" in message:
            frame = {**message, "timestamp": round(start + due_s - (arrived - message["timestamp"]), 6)}
            frame.pop("receivedAt", None)
            try:
                text = orjson.dumps(frame).decode()
            except TypeError:  # orjson reads more levels than it writes
                self.skipped += 1
                return None
            self._follow(frame)
            return Step(due_s, text, is_frame=True)
        if "invalid" in content:
            return Step(due_s, content["invalid"], is_frame=False)
        if "feed" in content and content["feed"]["state"] == "down":
            return Step(due_s, None, is_frame=False)
        return None

    def _follow(self, frame: dict[str, Any]) -> None:
        name = frame["entity"]["id"]
        if frame["event"] == ENDED:
            self.active.pop(name, None)
        else:
            self.active[name] = None

    def _records(self) -> Iterator[tuple[FrameLine | BareFrame | Control, dict[str, Any]]]:
        """Yield the records, each as it is understood and as it is written."""
        for line in self._recording.lines(0):
            try:
                record, content = read_line(line), orjson.loads(line)
            except (InvalidFrameError, orjson.JSONDecodeError):
                self.skipped += bool(line.strip())
            else:
                yield record, content
