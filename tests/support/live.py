"""A live run in a process of its own, against a simulator and a receiver, and what its journal says it should give."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backports import zstd

from connectors.callbacks.outbox import Outbox
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.voice_events import VoiceEventsSimulator
from connectors.journal.segments import segments
from connectors.state.audit import verify
from flows.commands.bootstrap import run_bootstrap
from flows.commands.replay import replay
from flows.settings.loading import load_settings
from flows.state import StateLayout
from tests.support.cli import DEADLINE_S, Running, configuration, environ, running, started

__all__ = ["Live", "feed_is_up", "frames_in", "text_of"]


@dataclass
class Live:
    """A state directory with its configuration: limits so low that alerts come all the time.

    With `groups`, the table of that name, the conversations are in the queues q0 and q1 by turns.
    """

    directory: Path
    base_url: str
    receiver_url: str
    seed: int = 1
    conversations: int = 5
    process: Running | None = None
    groups: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        tables: dict[str, Any] = {
            "genesys": {"base_url": self.base_url},
            "windows": {"length_s": 2, "slide_s": 1},
            "alerts": {"clear_after_s": 0.3},
            "delivery": {"allow_private_addresses": True, "timeout_s": 20},
            "state": {"dir": str(self.state.dir)},
            "defaults": {
                "interceptor_address": "sip:qa@monitoring.internal",
                "qa_callback_url": f"{self.receiver_url}/alerts",
                "max_latency_ms": 60,
                "packet_loss_threshold": 0.004,
            },
            "interceptor": [
                {"conversation_id": one, "leg_id": f"leg-{number}"}
                for number, one in enumerate(conversation_ids(self.seed, self.conversations))
            ],
        }
        if self.groups is not None:
            tables["groups"] = self.groups
            for number, table in enumerate(tables["interceptor"]):
                table["labels"] = {"queue": f"q{number % 2}"}
        self.config = configuration(self.directory / "voicewatch.toml", tables)

    @property
    def state(self) -> StateLayout:
        """The places in the state directory."""
        return StateLayout(self.directory / "state")

    def bootstrap(self) -> None:
        """Create the interceptors from here: a process that has nothing to create starts seconds earlier."""
        report = run_bootstrap(load_settings(self.config, {}), environ({}))
        assert not report.failed

    @contextmanager
    def running(self, command: str = "run", *options: str, **more: str | None) -> Iterator[Running]:
        """Start it, once more."""
        with running(self.directory, command, self.config, *options, **more) as self.process:
            yield self.process

    @contextmanager
    def started(self, arguments: Sequence[str]) -> Iterator[Running]:
        """Start something else on the same configuration."""
        with started(self.directory, arguments, VOICEWATCH_CONFIG=str(self.config)) as self.process:
            yield self.process

    def records(self) -> Iterator[dict[str, Any]]:
        """What is in the journal, whole lines of it."""
        for segment in segments(self.state.journal):
            for line in text_of(segment).splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def frames(self) -> int:
        """How many frames the journal holds."""
        return frames_in(self.state.journal)

    def wait_for_frames(self, more: int) -> None:
        """Wait until the journal holds `more` frames more than now, or fail with the log of the process."""
        wanted = self.frames() + more
        assert self.process is not None
        end = time.monotonic() + DEADLINE_S
        while self.frames() < wanted:
            code = self.process.process.poll()
            assert code is None, f"exit code {code}: {self.process.log}"
            assert time.monotonic() < end, f"{self.frames()} of {wanted} frames: {self.process.log}"
            time.sleep(0.02)

    def feed_states(self) -> list[tuple[str, str]]:
        """What became of the feed, and why; without what heads of segments repeat."""
        feeds = [record["feed"] for record in self.records() if "feed" in record]
        return [(feed["state"], feed["reason"]) for feed in feeds if feed["reason"] != "as in the segment before"]

    def alerts(self) -> list[dict[str, Any]]:
        """The lines of `alerts.jsonl`."""
        return [json.loads(line) for line in self.state.alerts.read_bytes().splitlines()]

    def alert_ids(self) -> set[str]:
        """The ids in `alerts.jsonl`, each of which is there once."""
        ids = [alert["alertId"] for alert in self.alerts()]
        assert len(set(ids)) == len(ids)
        return set(ids)

    def pending(self) -> int:
        """How many callbacks wait in the outbox; none is dead."""
        outbox = Outbox(self.state.outbox)
        counts = outbox.counts()
        outbox.close()
        assert counts["dead"] == 0
        return counts["pending"]

    def assert_equals_its_replay(self) -> None:
        """Results are those of one replay of the journal, but for windows, also of groups, that are open still."""
        out = self.directory / "replayed"
        paths = segments(self.state.journal)
        replay(paths, out, settings=None, environ={}, speed=None, deliver=False, stop=threading.Event())
        assert (out / "rejected.jsonl").read_bytes() == b""
        expected = (out / "alerts.jsonl").read_bytes().splitlines()
        assert self.state.alerts.read_bytes().splitlines() == expected
        end = max(record["received_at"] for record in self.records())
        for path in (self.state.windows, self.state.groups):
            replayed = (out / path.name).read_bytes().splitlines()
            found = path.read_bytes().splitlines()
            assert found == [line for line in replayed if json.loads(line)["end"] <= end]

    def assert_audit_is_intact(self) -> None:
        """The chain of the audit log holds, and every alert is in it once."""
        verdict = verify(self.state.audit)
        assert verdict.ok, verdict.faults
        lines = [json.loads(line) for line in self.state.audit.read_bytes().splitlines()]
        told = [line["id"] for line in lines if line["action"] in ("ALERT_RAISED", "ALERT_RESOLVED")]
        assert len(set(told)) == len(told)
        assert set(told) == self.alert_ids()


def text_of(segment: Path) -> bytes:
    """Return the text of a segment, which may be packed."""
    data = segment.read_bytes()
    if segment.suffix != ".zst":
        return data
    return zstd.decompress(data)


def frames_in(journal: Path) -> int:
    """Count the frames in a journal, which may be written and packed meanwhile."""
    while True:
        try:
            return sum(text_of(segment).count(b',"frame":') for segment in segments(journal))
        except FileNotFoundError:  # packed since it was listed
            continue


def feed_is_up(simulator: VoiceEventsSimulator) -> None:
    """Wait until a client has subscribed."""
    simulator.wait_for(lambda s: s.subscribers > 0, 60)
