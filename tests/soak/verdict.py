"""What became of a soak: what is in the journal, at the receivers and in the outputs, against what was promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from connectors.callbacks.outbox import Outbox
from connectors.callbacks.receiver import Received
from connectors.genesys.simulator.voice_events import VoiceEventsSimulator
from connectors.journal.recording import Recording
from connectors.journal.segments import segments
from connectors.state.audit import verify
from tests.soak.job import Job
from tests.soak.receivers import Receivers
from tests.support.simulators import duplicate_creates

__all__ = ["Memory", "Verdict", "judge"]

STEADY_AGE_S = 10.0
STORM_S = 10.0


class Memory(NamedTuple):
    """The memory of run number `run` when it was `age_s` old."""

    run: int
    age_s: float
    rss_mib: float


@dataclass
class Verdict:
    """The rows of the table, and the promises that were broken."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The rows as a Markdown table."""
        return "\n".join(["| soak | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self.rows)])

    def row(self, name: str, value: object) -> None:
        """Add a row."""
        self.rows.append((name, str(value)))

    def must(self, holds: bool, promise: str) -> None:
        """Note a promise that does not hold."""
        if not holds:
            self.broken.append(promise)


@dataclass
class Journaled:
    """What is in the journal: frames of the calls, each once and again; breaks in their order that no feed explains."""

    frames: int = 0
    repeated: int = 0
    unexplained: list[str] = field(default_factory=list)
    invalid: int = 0
    feeds_up: int = 0
    feeds_down: int = 0
    conversations: set[str] = field(default_factory=set)


def judge(
    job: Job,
    simulator: VoiceEventsSimulator,
    receivers: Receivers,
    took_s: float,
    done: Mapping[str, int],
    broken: Sequence[str],
    memory: Sequence[Memory],
) -> Verdict:
    """Replay the journal and compare. The run must have ended."""
    verdict = Verdict(broken=list(broken))
    paths = segments(job.state / "journal")
    replayed = job.state.with_name("replayed")
    verdict.row("seconds", f"{took_s:.0f}")
    struck = Counter(
        each.do for each in simulator.options.faults.of_stream() if each.after_frames <= simulator.frames_sent
    )
    faults = sorted((Counter(done) + struck).items())
    verdict.row("faults", ", ".join(f"{count} {what}" for what, count in faults if what != "come back"))
    _frames(verdict, simulator, _journaled(paths))
    trouble = job.replay(paths, replayed)
    verdict.must(not trouble, f"the journal cannot be replayed: {trouble}")
    if not trouble:
        _outputs(verdict, job.state, replayed)
        _callbacks(verdict, replayed, receivers.received)
    _interceptors(verdict, job.state, simulator)
    _connections(verdict, job, simulator)
    audit = verify(job.state / "audit.jsonl")
    verdict.row("audit log", f"{audit.lines} lines, {'intact' if audit.ok else 'NOT intact'}")
    verdict.must(audit.ok, f"the audit chain is broken: {audit.faults[:1]}")
    _memory(verdict, memory)
    return verdict


def _frames(verdict: Verdict, simulator: VoiceEventsSimulator, journal: Journaled) -> None:
    lost = simulator.frames_sent - journal.frames - journal.repeated
    verdict.row("conversations", len(journal.conversations))
    verdict.row("frames sent to a subscriber", simulator.frames_sent)
    verdict.row("frames in the journal", journal.frames + journal.repeated)
    verdict.row("frames lost in a socket that was cut", lost)
    verdict.row("gaps in the frames that no feed record explains", len(journal.unexplained))
    verdict.row("messages that are not frames, journaled as invalid", journal.invalid)
    verdict.must(not journal.unexplained, f"frames are missing without a feed record: {journal.unexplained[:3]}")
    verdict.must(lost >= 0, f"{-lost} frames are in the journal more often than they were sent")


def _outputs(verdict: Verdict, state: Path, replayed: Path) -> None:
    for name in ("windows", "alerts"):
        live, again = (Counter(_lines(place / f"{name}.jsonl")) for place in (state, replayed))
        missing, extra = (live - again).total(), (again - live).total()
        verdict.row(
            f"{name} of the run / of the replay / different", f"{live.total()} / {again.total()} / {missing + extra}"
        )
        verdict.must(live == again, f"{name}: {missing} of the run are not in the replay, {extra} the other way round")


def _callbacks(verdict: Verdict, replayed: Path, received: Sequence[Received]) -> None:
    alerts = [orjson.loads(line) for line in _lines(replayed / "alerts.jsonl")]
    expected = {alert["alertId"] for alert in alerts}
    accepted = [one for one in received if 200 <= one.status < 300]
    delivered = Counter(one.id for one in accepted)
    missing = expected - delivered.keys()
    unknown = delivered.keys() - expected
    repeated = sum(count - 1 for count in delivered.values())
    verdict.row("alerts due by the replay", len(expected))
    verdict.row("alerts delivered / missing", f"{len(delivered)} / {len(missing)}")
    verdict.row("deliveries of an alert that had been delivered", repeated)
    verdict.row("attempts that the receivers saw", len(received))
    verdict.must(len(expected) == len(alerts), "alert ids repeat")
    verdict.must(not missing, f"{len(missing)} alerts were never delivered: {sorted(missing)[:3]}")
    verdict.must(not unknown, f"{len(unknown)} callbacks are of no alert: {sorted(unknown)[:3]}")
    verdict.must(all(one.verified for one in received), "a callback's signature was wrong")
    bodies = {alert["alertId"]: alert for alert in alerts}
    differing = [one.id for one in accepted if one.id in bodies and orjson.loads(one.body) != bodies[one.id]]
    verdict.must(not differing, f"{len(differing)} callbacks say something else than the alert: {differing[:3]}")
    first: dict[str, int] = {}
    for place, one in enumerate(accepted):
        first.setdefault(one.id, place)
    raised = {alert["incidentId"]: alert["alertId"] for alert in alerts if alert["state"] == "raised"}
    hasty = [
        alert["alertId"]
        for alert in alerts
        if alert["state"] == "resolved"
        and first.get(alert["alertId"], 0) < first.get(raised.get(alert["incidentId"], ""), 0)
    ]
    verdict.must(not hasty, f"{len(hasty)} incidents were resolved before they were raised: {hasty[:3]}")


def _interceptors(verdict: Verdict, state: Path, simulator: VoiceEventsSimulator) -> None:
    outbox = Outbox(state / "outbox" / "outbox.sqlite3")
    counts = outbox.counts()
    outbox.close()
    verdict.row("callbacks pending / dead at the end", f"{counts['pending']} / {counts['dead']}")
    verdict.must(counts["dead"] == 0, f"{counts['dead']} callbacks were given up")
    verdict.row("interceptors created / created twice", f"{len(simulator.created)} / {duplicate_creates(simulator)}")
    verdict.must(duplicate_creates(simulator) == 0, f"{duplicate_creates(simulator)} interceptors were created twice")


def _connections(verdict: Verdict, job: Job, simulator: VoiceEventsSimulator) -> None:
    attempts = [attempt.at for attempt in simulator.upgrade_attempts]
    most = max((sum(at <= other < at + STORM_S for other in attempts) for at in attempts), default=0)
    verdict.row("starts of the run", job.starts)
    verdict.row("WebSocket connections / attempts", f"{simulator.connections} / {len(attempts)}")
    verdict.row(f"most attempts within {STORM_S:g} s", most)


def _memory(verdict: Verdict, memory: Sequence[Memory]) -> None:
    last = [each for each in memory if each.run == memory[-1].run]
    steady = next((each for each in last if each.age_s >= STEADY_AGE_S), last[-1])
    verdict.row(
        "memory of the last run",
        f"{steady.rss_mib:.0f} MiB when it was {steady.age_s:.0f} s old, {last[-1].rss_mib:.0f} MiB at its end, "
        f"{last[-1].age_s - steady.age_s:.0f} s later",
    )
    verdict.row("most memory of any run", f"{max(each.rss_mib for each in memory):.0f} MiB")


def _journaled(paths: Sequence[Path]) -> Journaled:
    found = Journaled()
    last, lost = -1, True
    for record in _records(paths):
        if "feed" in record:
            lost = lost or record["feed"]["state"] == "down"
            found.feeds_up += record["feed"]["state"] == "up"
            found.feeds_down += record["feed"]["state"] == "down"
        found.invalid += "invalid" in record
        frame = record.get("frame", {})
        serial = frame.get("serial")
        if serial is None:
            continue
        found.conversations.add(frame["entity"]["id"])
        found.repeated += serial == last
        found.frames += serial != last
        if serial < last or (serial > last + 1 and not lost):
            found.unexplained.append(f"serial {serial} follows {last}")
        last, lost = max(serial, last), False
    return found


def _records(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    recording = Recording(paths)
    for index in range(len(recording.paths)):
        for chunk in recording.chunks(index, 0, 1 << 20):
            yield from map(orjson.loads, chunk.splitlines())


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []
