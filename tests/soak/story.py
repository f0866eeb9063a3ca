"""What happens in a soak: a seeded plan of faults, carried out while the job runs, and the end of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from connectors.callbacks.outbox import Outbox
from connectors.genesys.simulator.faults import Faults, parse_faults
from connectors.genesys.simulator.voice_events import VoiceEventsSimulator, running_simulator
from tests.soak.calls import HOSTILE, RATE, write_calls
from tests.soak.job import CREDENTIALS, LENGTH_S, SECRET, Job, write_config
from tests.soak.receivers import Receivers
from tests.soak.verdict import Memory, Verdict, judge

__all__ = ["soak"]

SLOTS = 16
WATCHED = 6
TOKEN_LIFE_S = 45
FIRST_FRAME_S = 60.0
DRAIN_S = 120.0

# How many seconds of the soak there is one of each for.
EVERY_S = {
    "kill": 20.0,
    "stop": 45.0,
    "freeze": 40.0,
    "drop": 15.0,
    "revoke": 40.0,
    "hostile": 10.0,
    "misbehave": 20.0,
    "leave": 25.0,
}
STREAM_EVERY_S = {"abort": 30.0, "stall": 30.0, "garbage": 20.0, "duplicate": 10.0, "oversize": 40.0, "close": 30.0}
REQUEST_FAULTS = """
[[fault]]
on = "token"
status = 503
[[fault]]
on = "load"
do = "reset"
[[fault]]
on = "create"
status = 429
retry_after = 1
[[fault]]
on = "create"
do = "reset"
[[fault]]
on = "upgrade"
status = 401
[[fault]]
on = "upgrade"
status = 503
retry_after = 1
[[fault]]
on = "upgrade"
do = "reset"
"""


@dataclass(frozen=True, order=True)
class Fault:
    """What to do at a moment, in seconds after the first frame."""

    at_s: float
    what: str
    lasts_s: float = 0.0


class Soak:
    """A soak under way."""

    def __init__(self, job: Job, simulator: VoiceEventsSimulator, receivers: Receivers, rng: random.Random) -> None:
        self.job = job
        self.simulator = simulator
        self.receivers = receivers
        self.began = 0.0
        self.done: Counter[str] = Counter()
        self.broken: list[str] = []
        self.memory: list[Memory] = []
        self._rng = rng

    def begin(self) -> None:
        """Start, with a kill in the middle of the bootstrap, and wait for the first frame."""
        self.job.start()
        self._until(lambda: len(self.simulator.created) > 0, FIRST_FRAME_S, "the first interceptor")
        self._strike(Fault(0.0, "kill"))
        self._until(lambda: self.simulator.frames_sent > 0, FIRST_FRAME_S, "the first frame")
        self.began = time.monotonic()

    def suffer(self, plan: Sequence[Fault]) -> None:
        """Carry out the plan."""
        for fault in plan:
            self._until(partial(_is_past, self.began + fault.at_s), fault.at_s + 60.0, fault.what)
            self._strike(fault)

    def end(self) -> None:
        """Let the calls end, everybody be well and everything be delivered; then stop."""
        self._until(lambda: self.simulator.finished, 3600.0, "the end of the calls")
        self.receivers.heal()
        self._until(partial(_is_past, time.monotonic() + LENGTH_S + 3.0), 60.0, "the end of the last windows")
        outbox = Outbox(self.job.state / "outbox" / "outbox.sqlite3")
        try:
            self._until(lambda: outbox.counts()["pending"] == 0, DRAIN_S, "the delivery of every callback")
        finally:
            outbox.close()
        self._note_memory()
        self._stop()

    def _strike(self, fault: Fault) -> None:
        self.done[fault.what] += 1
        match fault.what:
            case "kill":
                self.job.kill()
                self.job.start()
            case "stop":
                self._stop()
                self.job.start()
            case "freeze":
                self.job.freeze(fault.lasts_s)
            case "drop":
                self.simulator.drop_connections(self._rng.choice([None, 1001, 1008, 1011, 1013]))
            case "revoke":
                self.simulator.revoke_tokens()
                self.simulator.drop_connections(1008)
            case "hostile":
                self.simulator.send_text(*self._rng.sample(HOSTILE, 4))
            case "misbehave":
                self.receivers.misbehave(fault.lasts_s)
            case "leave":
                self.receivers.leave()
            case "come back":
                self.receivers.come_back()

    def _stop(self) -> None:
        if trouble := self.job.stop():
            self.broken.append(trouble)

    def _until(self, happened: Callable[[], bool], deadline_s: float, what: str) -> None:
        """Wait, and look after the run: one that dies of something else than we did to it is a broken promise."""
        end = time.monotonic() + deadline_s
        while not happened():
            if time.monotonic() > end:
                self.broken.append(f"{what}: not within {deadline_s:g} s")
                return
            code = self.job.exit_code()
            if code is not None:
                self.broken.append(f"the run died by itself with exit code {code}: {self.job.last_words()}")
                time.sleep(1.0)
                self.job.start()
            self._note_memory()
            time.sleep(0.05)

    def _note_memory(self) -> None:
        age_s = time.monotonic() - self.job.started_at
        if not self.memory or self.memory[-1].run != self.job.starts or age_s > self.memory[-1].age_s + 1.0:
            self.memory.append(Memory(self.job.starts, age_s, self.job.rss_mib()))


def _is_past(moment: float) -> bool:
    return time.monotonic() >= moment


def soak(place: Path, seconds: float, seed: int, *, say: Callable[[str], None] = lambda _: None) -> Verdict:
    """Run the job in the directory `place` while calls go on for `seconds`, and judge what became of it."""
    rng = random.Random(seed)
    recording, config = place / "calls.jsonl", place / "soak.toml"
    frames = write_calls(recording, seed=seed, slots=SLOTS, seconds=seconds)
    plan = _plan(rng, seconds)
    planned = ", ".join(f"{count} {what}" for what, count in Counter(fault.what for fault in plan).items())
    say(f"{frames} frames to come; planned: {planned}")
    with (
        Receivers(SECRET, seed) as receivers,
        running_simulator(
            recording=recording,
            faults=_simulator_faults(rng, frames),
            credentials=CREDENTIALS,
            token_life_s=TOKEN_LIFE_S,
        ) as simulator,
    ):
        write_config(config, simulator.base_url, receivers.urls, WATCHED)
        run = Soak(Job(config), simulator, receivers, rng)
        run.begin()
        run.suffer(plan)
        run.end()
        took_s = time.monotonic() - run.began
        say("stopped; replaying the journal ...")
        return judge(run.job, simulator, receivers, took_s, run.done, run.broken, run.memory)


def _plan(rng: random.Random, seconds: float) -> list[Fault]:
    """The faults that are carried out from outside, in order. The last third has no kills: it shows the memory."""
    plan = []
    for what, every_s in EVERY_S.items():
        until_s = seconds * (2 / 3 if what in ("kill", "stop") else 0.95)
        for _ in range(max(1, round(until_s / every_s))):
            at_s, lasts_s = rng.uniform(1.0, until_s), rng.uniform(0.5, min(6.0, seconds / 5))
            plan.append(Fault(at_s, what, lasts_s))
            if what == "leave":
                plan.append(Fault(at_s + lasts_s, "come back"))
            if what == "kill" and rng.random() < 0.4:  # and again, while it is still starting or has just caught up
                plan.append(Fault(at_s + rng.uniform(0.1, 4.0), what))
    return sorted(plan)


def _simulator_faults(rng: random.Random, frames: int) -> Faults:
    """The faults that the simulator carries out itself, by the number of frames sent."""
    tables = [REQUEST_FAULTS]
    details = {"stall": "seconds = 3.5", "oversize": f"bytes = {3 * 2**20}"}
    for what, every_s in STREAM_EVERY_S.items():
        for _ in range(max(1, round(frames / SLOTS / RATE / every_s))):
            after = rng.randrange(20, max(21, frames * 3 // 4))
            tables.append(f'[[fault]]\nafter_frames = {after}\ndo = "{what}"\n{details.get(what, "")}')
    return parse_faults("\n".join(tables))
