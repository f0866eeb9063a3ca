"""What the simulator sends: made-up calls, or a recording played back.

A `Source` is a script of steps against a run's start; neither source reads a clock.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import orjson
import zstandard

from connectors.errors import RecordingError
from connectors.genesys.simulator.calls import ENDED, STARTED, call_frames, conversation_ids, encode_frame
from connectors.runtime.logs import get_logger

__all__ = ["Calls", "Playback", "Source", "Step"]

_MAX_LINE_BYTES = 16 * 2**20


class Step(NamedTuple):
    """One thing to do, `due_s` seconds after the run's start.

    `message` goes to every subscriber, and `is_frame` tells whether it is meant as a frame; without a message, the
    event sockets are closed.
    """

    due_s: float
    message: str | bytes | None
    is_frame: bool


class Source(Protocol):
    """A run's content."""

    @property
    def active(self) -> Collection[str]:
        """The ids of the conversations that are on, as far as the steps were read."""

    def steps(self, start: float) -> Iterator[Step]:
        """Every step in order, for a run that starts at `start` (epoch seconds)."""


class Calls:
    """Made-up calls without end; `rate` is frames/s for each conversation.

    Raises ValueError, at once, when `conversations` or `rate` is not positive.
    """

    def __init__(self, seed: int, conversations: int, rate: float) -> None:
        self._arguments = (seed, conversations, rate)
        next(call_frames(*self._arguments))
        self.active: dict[str, None] = dict.fromkeys(conversation_ids(seed, conversations))

    def steps(self, start: float) -> Iterator[Step]:
        """The frames of `calls.call_frames`."""
        for frame in call_frames(*self._arguments):
            if frame.event is STARTED:
                self.active[frame.conversation_id] = None
            elif frame.event is ENDED:
                self.active.pop(frame.conversation_id, None)
            yield Step(frame.due_s, encode_frame(frame, start).decode(), is_frame=True)


class Playback:
    """A journal or a file of bare frames (plain, `.gz`, `.zst`), played at `speed` times its own pace.

    Times are moved to the live clock so that every frame keeps the latency it had. `invalid` records are sent as
    their text, and where the feed was lost the sockets are closed. Lines that are neither are left out and counted
    in `skipped`. One line at a time is in memory.

    Raises RecordingError, at once, when the file cannot be read or has nothing to play.
    """

    def __init__(self, path: Path, speed: float = 1.0) -> None:
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be positive, not {speed}")
        self._path = path
        self._speed = speed
        self.active: dict[str, None] = {}
        self.skipped = 0
        if next(self.steps(0.0), None) is None:
            raise RecordingError(f"{path}: there is no frame in it to play")
        self.active.clear()
        self.skipped = 0

    def steps(self, start: float) -> Iterator[Step]:
        """What the recording's feed heard, in its order."""
        first = reached = -math.inf
        for record in self._records():
            arrived = _arrival(record)
            if arrived is None:
                self.skipped += 1
                continue
            if first == -math.inf:
                first = arrived
            reached = max(reached, arrived)
            step = self._step(record, arrived, (reached - first) / self._speed, start)
            if step is not None:
                yield step
        if self.skipped:
            get_logger(__name__).warning("recording_lines_skipped", path=str(self._path), lines=self.skipped)

    def _step(self, record: dict[str, Any], arrived: float, due_s: float, start: float) -> Step | None:
        if "invalid" in record:
            return Step(due_s, str(record["invalid"]), is_frame=False)
        if "feed" in record:
            lost = isinstance(record["feed"], dict) and record["feed"].get("state") == "down"
            return Step(due_s, None, is_frame=False) if lost else None
        frame = record.get("frame", record)
        if not isinstance(frame, dict) or "event" not in frame:
            return None
        stamped = frame.get("timestamp")
        if isinstance(stamped, int | float):
            frame = {**frame, "timestamp": round(start + due_s - (arrived - stamped), 6)}
        frame.pop("receivedAt", None)
        self._follow(frame)
        return Step(due_s, orjson.dumps(frame).decode(), is_frame=True)

    def _follow(self, frame: dict[str, Any]) -> None:
        entity = frame.get("entity")
        name = entity.get("id") if isinstance(entity, dict) else None
        if not isinstance(name, str):
            return
        if frame["event"] == ENDED:
            self.active.pop(name, None)
        else:
            self.active[name] = None

    def _records(self) -> Iterator[dict[str, Any]]:
        try:
            with _open(self._path) as lines:
                while line := lines.readline(_MAX_LINE_BYTES):
                    try:
                        record = orjson.loads(line)
                    except orjson.JSONDecodeError:
                        record = None
                    if isinstance(record, dict):
                        yield record
                    else:
                        self.skipped += bool(line.strip())
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise RecordingError(f"{self._path}: cannot be read: {error}") from error


def _arrival(record: dict[str, Any]) -> float | None:
    """When a record arrived; a bare frame without `receivedAt` is placed at its own timestamp."""
    names = ("receivedAt", "timestamp") if "event" in record else ("received_at",)
    for name in names:
        value = record.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix == ".zst":
        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader)))
    return path.open("rb")
