"""An AudioHook feed on a real socket with a real journal behind it, and calls without either."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from connectors.genesys.feeds.audiohook.feed import AudioHookFeed, AudioHookTiming
from connectors.genesys.feeds.audiohook.monitor import CallMonitor, MonitoredSession
from connectors.genesys.feeds.audiohook.session import Session, SessionTiming
from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.simulator.caller import Caller, CallPlan, Fault, plan_call
from connectors.journal.segments import segments
from connectors.journal.writer import Journal
from tests.support.clocks import same_clocks

DEADLINE_S = 20.0
KEY = "dGVzdC1rZXk"
SECRET = b"0123456789abcdef0123456789abcdef"
LIMITS = FeedLimits("audiohook", 150.0, 0.02, "https://qa.example.com/alerts")
SETTINGS = {"windows": {"length_s": 10, "slide_s": 5}, "alerts": {"policy": "incident"}}
QUICK = AudioHookTiming(
    session=SessionTiming(open_s=0.3, close_s=0.3, quiet_s=2.0),
    sample_s=0.1,
    pulse_s=0.02,
    handshake_s=5.0,
    hang_up_s=0.3,
    stop_s=5.0,
)


def open_journal(directory: Path, now: Callable[[], float] = time.time) -> Journal:
    return Journal(directory, settings=SETTINGS, read_clocks=same_clocks(now))


@dataclass
class Listening:
    """A feed that listens, and what it has recorded so far."""

    feed: AudioHookFeed
    journal: Journal
    states: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        host, port = self.feed.address
        return f"ws://{host}:{port}/audiohook"

    def records(self) -> list[dict[str, Any]]:
        lines = b"".join(path.read_bytes() for path in segments(self.journal.directory)).splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def frames(self, conversation_id: str | None = None) -> list[dict[str, Any]]:
        frames = [record["frame"] for record in self.records() if "frame" in record]
        return [frame for frame in frames if conversation_id in (None, frame["entity"]["id"])]

    def wait_for(self, what: Callable[[Listening], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not what(self):
            assert time.monotonic() < end, (self.feed.counts, self.feed.refused, self.records()[-5:])
            time.sleep(0.01)


@contextmanager
def listening(directory: Path, timing: AudioHookTiming = QUICK, **options: Any) -> Iterator[Listening]:
    """A feed on a port of its own."""
    journal = options.pop("journal", None) or open_journal(directory / "journal")
    states: list[tuple[str, str, str]] = []
    arguments: dict[str, Any] = {
        "name": "audiohook",
        "listen": ("127.0.0.1", 0),
        "path": "/audiohook",
        "keys": {KEY: SECRET, "open": None},
        "recorder": journal.recorder("audiohook"),
        "limits": LIMITS,
        "timing": timing,
        "on_state": lambda *state: states.append(state),
    }
    feed = AudioHookFeed(**(arguments | options))
    feed.start()
    try:
        yield Listening(feed, journal, states)
    finally:
        feed.stop("the test is over")
        journal.close()


@dataclass
class _Line:
    """A caller and the session that it talks to."""

    caller: Caller
    session: MonitoredSession
    sample_at: float
    over: bool = False

    def due(self) -> float:
        return min(self.caller.due, self.sample_at)

    def step(self, now: float) -> None:
        self.caller.poll(now)
        for _ in range(3):  # what one says may make the other say something
            for message in self.caller.to_send():
                self.session.receive(message, now)
            for text in self.session.session.to_send():
                self.caller.receive(text, now)
        if self.sample_at <= now:
            self.sample_at += 1.0
            self.session.expire(now)
            self.session.sample(now)
        if self.caller.finished or self.caller.hung_up:
            self.session.lost(now)
            self.over = True


def record_calls(directory: Path, plans: list[tuple[float, CallPlan]], *, start: float) -> None:
    """Record calls, each with the time at which it begins, without a socket and without waiting, as a feed would.

    The same arguments give the same bytes.
    """
    clock = [0.0]
    journal = open_journal(directory, lambda: round(start + clock[0], 6))
    journal.feed("audiohook", "up", "listening")
    monitor = CallMonitor(journal.recorder("audiohook"), LIMITS, wall=lambda: round(start + clock[0], 6))
    waiting = sorted(plans, key=lambda one: one[0])
    lines: list[_Line] = []
    tick = 1.0
    while waiting or lines:
        times = [line.due() for line in lines] + [one[0] for one in waiting[:1]] + [tick]
        clock[0] = now = max(clock[0], min(times))
        if now >= tick:
            journal.tick()
            monitor.expire(now)
            tick += 1.0
        while waiting and waiting[0][0] <= now:
            plan = waiting.pop(0)[1]
            session = Session(plan.session_id, plan.organization_id, now)
            lines.append(_Line(Caller(plan, now), monitor.session(session), now + 1.0))
        for line in lines:
            line.step(now)
        lines = [line for line in lines if not line.over]
    journal.feed("audiohook", "down", "stopped")
    journal.close()


START = 1_767_225_600.0


def example_calls() -> list[tuple[float, CallPlan]]:
    """The calls of `tests/data/audiohook.jsonl`: late, lossy, paused, cut off, and one that is well."""
    first = [replace(plan_call(3, slot, seconds=18.0 + slot), frame_s=0.2) for slot in range(4)]
    cut_off = replace(first[3], faults=(Fault(12.5, "abrupt-end"),))
    well = replace(plan_call(3, 4, seconds=15.0), frame_s=0.2, late=(), network_s=0.031)
    return [(0.25, first[0]), (0.5, first[1]), (1.0, first[2]), (1.3, cut_off), (6.4, well)]
