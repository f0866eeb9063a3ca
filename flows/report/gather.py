"""Read everything that a report is about, out of the files of a state directory or of a replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from connectors.errors import UsageError
from connectors.state.audit import AuditVerdict, verify
from connectors.state.files import state_errors
from flows.data.results import result_files
from flows.report.incidents import Incident, incidents_of, learn_limits, read_alerts
from flows.report.journal import FeedEvent, JournalFacts, Watched, journal_files, read_journal
from flows.report.windows import PIECE_BYTES, Windows, WindowsReader
from flows.state import StateLayout
from flows.web.lines import Alert, Audit, decode_lines
from flows.web.reader import newest_result

__all__ = ["Attempts", "Gathered", "Period", "gather", "size_of"]

# Takes the bytes that were read since the last call.
Read = Callable[[int], None]
EVER: Final = float("-inf")


@dataclass(frozen=True)
class Period:
    """A stretch of time in epoch seconds; `before` is one of the same length before it, if it was asked for."""

    start: float
    end: float
    before: tuple[float, float] | None = None


@dataclass
class Attempts:
    """What the audit log says: attempts to deliver callbacks, feeds, and whether its chain is whole."""

    callbacks: list[tuple[float, str, str]] = field(default_factory=list)
    feeds: list[FeedEvent] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    verdict: AuditVerdict | None = None


@dataclass(frozen=True)
class Gathered:
    """Everything that was read."""

    directory: Path
    period: Period
    windows: Windows
    incidents: list[Incident]
    journal: JournalFacts
    audit: Attempts
    limits: dict[str, Watched]
    files: list[Path]


def gather(directory: Path, journal: Sequence[Path], begin: float, end: float, progress: Read) -> Gathered:
    """Read the results in a directory, and its journal or the recordings that a replay was of.

    An infinite `begin` or `end` stands for the first or last time in the files. Raises UsageError for a directory
    without results, StateError and RecordingError for files that cannot be read.
    """
    kinds = {kind: result_files(directory, kind) for kind in ("windows", "alerts")}
    if not any(kinds.values()):
        raise UsageError(f"{directory} holds no results: neither windows.jsonl nor alerts.jsonl")
    state = StateLayout(directory)
    latest = newest_result(state.windows, "end") if end == float("inf") else end
    since = EVER if begin == EVER or latest is None else begin - max(latest - begin, 0.0)
    segments = list(journal) or journal_files(state.journal, since)
    facts = JournalFacts()
    if segments:
        done = 0
        for facts in read_journal(segments, are_segments=not journal):
            progress(facts.bytes_read - done)
            done = facts.bytes_read
    usual = _usual(facts)
    alerts: list[Alert] = []
    for path in kinds["alerts"]:
        _drain(read_alerts(path, alerts.extend), progress)
    limits = facts.watches
    learn_limits(alerts, limits, usual)
    reader = WindowsReader(since)
    for path in kinds["windows"]:
        _drain(reader.read(path), progress)
    windows = reader.done(limits, usual, facts.in_force.get("alerts", {}).get("mos_below"))
    framewise = facts.in_force.get("alerts", {}).get("policy") == "frame"
    return Gathered(
        directory,
        _period(begin, end, windows, facts, alerts),
        windows,
        incidents_of(alerts, framewise=framewise),
        facts,
        _audit(state.audit, progress),
        limits,
        [*kinds["windows"], *kinds["alerts"], *segments],
    )


def size_of(directory: Path, journal: Sequence[Path]) -> int:
    """Return about how many bytes `gather` reads."""
    state = StateLayout(directory)
    files = [*result_files(directory, "windows"), *result_files(directory, "alerts")]
    files += [path for one in journal for path in (sorted(one.iterdir()) if one.is_dir() else [one])]
    if not journal:
        files += journal_files(state.journal, EVER)
    return sum(path.stat().st_size for path in [*files, state.audit] if path.is_file())


def _drain(pieces: Iterator[int], progress: Read) -> None:
    for size in pieces:
        progress(size)


def _usual(facts: JournalFacts) -> Watched:
    """Return the limits of a conversation without a watch record."""
    defaults: dict[str, Any] = facts.in_force.get("defaults", {})
    return Watched(float(defaults.get("max_latency_ms", 150.0)), float(defaults.get("packet_loss_threshold", 0.02)))


def _period(begin: float, end: float, windows: Windows, facts: JournalFacts, alerts: Sequence[Alert]) -> Period:
    """Return the period that was asked for, with the one before it if its beginning was named."""
    times = [float(windows.start.min()), float(windows.end.max())] if len(windows) else []
    times += [at for at in (facts.begin, facts.end) if at is not None and at != EVER]
    times += [alert.timestamp for alert in (alerts[:1] + alerts[-1:])]  # type: ignore[operator]
    is_open = begin == EVER
    if is_open and not times:
        raise UsageError("the files hold no window, alert or record, so there is no period to report")
    start = min(times) if is_open else begin
    # A window that ends with the last record counts, and so does an alert at that time.
    stop = max(times, default=start) + 0.001 if end == float("inf") else end
    if stop <= start:
        raise UsageError("the period is empty: it ends before it begins")
    return Period(start, stop, None if is_open else (start - (stop - start), start))


def _audit(path: Path, progress: Read) -> Attempts:
    found = Attempts()
    if not path.exists():
        return found
    decoder = msgspec.json.Decoder(Audit)
    with state_errors(f"reading {path}"), path.open("rb") as file:
        while data := file.read(PIECE_BYTES):
            data += file.readline()
            lines = decode_lines(decoder, data[: data.rfind(b"\n") + 1])[0]
            for line in lines:
                if line.action.startswith("CALLBACK_"):
                    found.callbacks.append((line.time, line.action, line.outcome))
                elif line.action in ("FEED_UP", "FEED_DOWN"):
                    state = line.action.removeprefix("FEED_").lower()
                    found.feeds.append(FeedEvent(line.time, line.feed or "", state, line.outcome))
            found.times += [line.time for line in (lines[:1] + lines[-1:])]
            progress(len(data))
    found.verdict = verify(path)
    return found
