"""Read what a journal says about itself: when it was written, feeds, clock steps, settings, watches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from connectors.format.lines import line_time
from connectors.journal.recording import Recording
from connectors.journal.segments import segments
from flows.web.lines import CONTROL, control_records
from flows.web.reader import segment_before

__all__ = ["FeedEvent", "JournalFacts", "Stretch", "Watched", "journal_files", "read_journal"]

PIECE_BYTES: Final = 4 << 20
# Ticks are written once a second; a busy machine may be late by a few.
GAP_S: Final = 10.0


class Stretch(NamedTuple):
    """A stretch of time in epoch seconds, and why it is named."""

    start: float
    end: float
    reason: str


class FeedEvent(NamedTuple):
    """A change of a feed: `up` or `down`."""

    at: float
    feed: str
    state: str
    reason: str


@dataclass(slots=True)
class Watched:
    """The limits of a conversation, in milliseconds and as a ratio, and its feed."""

    max_latency_ms: float
    packet_loss_threshold: float
    feed: str = ""


@dataclass
class JournalFacts:
    """What a journal says; `files` are empty if none was read, `has_ticks` tells whether its gaps can be seen."""

    files: list[Path] = field(default_factory=list)
    begin: float | None = None
    end: float | None = None
    has_ticks: bool = False
    gaps: list[Stretch] = field(default_factory=list)
    feeds: list[FeedEvent] = field(default_factory=list)
    clocks: list[tuple[float, float, str]] = field(default_factory=list)
    settings: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    watches: dict[str, Watched] = field(default_factory=dict)
    bytes_read: int = 0
    _last: float | None = None

    @property
    def in_force(self) -> dict[str, Any]:
        """Return the last settings, {} if none are recorded."""
        return self.settings[-1][1] if self.settings else {}

    def take(self, data: bytes) -> None:
        """Take some complete lines."""
        self.bytes_read += len(data)
        if self.begin is None:
            self.begin = line_time(data[: data.find(b"\n")])
        for record in control_records(data, (*CONTROL, "tick")):
            at = record.get("received_at")
            if not isinstance(at, int | float):
                continue
            self._pass(float(at), record)
            if "tick" in record:
                self.has_ticks = True
            elif isinstance(watch := record.get("watch"), dict):
                self._watch(watch)
            elif isinstance(feed := record.get("feed"), dict):
                texts = (str(feed.get(key) or "") for key in ("name", "state", "reason"))
                self.feeds.append(FeedEvent(float(at), *texts))
            elif isinstance(settings := record.get("settings"), dict) and settings != self.in_force:
                self.settings.append((float(at), settings))
        last = data.rstrip(b"\n")
        at = line_time(last[last.rfind(b"\n") + 1 :])
        self.end = self.end if at is None else at

    def _pass(self, at: float, record: dict[str, Any]) -> None:
        """Note a gap before a record, and the step of a clock, which is not one."""
        clock = record.get("clock")
        step_s = 0.0
        if isinstance(clock, dict):
            step_s = float(clock.get("step_s") or 0.0)
            self.clocks.append((at, step_s, str(clock.get("reason") or "")))
        if self._last is not None and self.has_ticks:
            silent_s = at - self._last - step_s
            if silent_s > GAP_S:
                self.gaps.append(Stretch(at - silent_s, at, "nothing was recorded: voicewatch was not running"))
        self._last = at

    def _watch(self, watch: dict[str, Any]) -> None:
        id_ = watch.get("conversation_id")
        if not isinstance(id_, str):
            return
        defaults = self.in_force.get("defaults", {})
        known = self.watches.setdefault(
            id_,
            Watched(float(defaults.get("max_latency_ms", 150.0)), float(defaults.get("packet_loss_threshold", 0.02))),
        )
        for key in ("max_latency_ms", "packet_loss_threshold"):
            if isinstance(value := watch.get(key), int | float):
                setattr(known, key, float(value))
        if isinstance(feed := watch.get("feed"), str):
            known.feed = feed


def journal_files(directory: Path, since: float) -> list[Path]:
    """Return the segments of a journal that hold what was recorded since a time."""
    if not directory.is_dir():
        return []
    first = segment_before(directory, since)
    return [path for path in segments(directory) if path.name >= first]


def read_journal(files: Sequence[Path], *, are_segments: bool) -> Iterator[JournalFacts]:
    """Yield what some files say, after each piece that was read. Raises RecordingError.

    `are_segments` says that they are in their order already.
    """
    facts = JournalFacts(list(files))
    recordings = [Recording([path]) for path in files if path.stat().st_size] if are_segments else [Recording(files)]
    for recording in recordings:
        for index in range(len(recording.paths)):
            for data in recording.chunks(index, 0, PIECE_BYTES):
                facts.take(data)
                yield facts
    yield facts
