"""The flows in `examples/`, against the simulator and a receiver, in processes of their own."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.receiver import CallbackReceiver
from connectors.genesys.simulator.voice_events import VoiceEventsSimulator, running_simulator
from connectors.journal.segments import segments
from connectors.operators import VoiceEventsSource
from tests.support.callbacks import eventually
from tests.support.cli import ROOT, Running, started, voicewatch

RECORDING = ROOT / "tests/data/three-minutes.jsonl"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SECRET = "whsec_" + "A" * 32

pytestmark = pytest.mark.timeout(300)


def in_journal(state: Path) -> list[dict[str, Any]]:
    """The voice events in the journal of a flow, in their order."""
    lines = (line for path in segments(state / "journal") for line in path.read_bytes().splitlines())
    whole = (json.loads(line) for line in lines if line.endswith(b"}"))  # the last line of a crash may be torn
    return [record["frame"] for record in whole if "frame" in record]


CONVERSATIONS = RECORDING.read_bytes().count(b'"conversation.ended"')


@pytest.fixture
def simulator() -> Iterator[VoiceEventsSimulator]:
    """A simulator that plays the recording to its first subscriber, in about three seconds."""
    with running_simulator(recording=RECORDING, speed=60.0) as simulator:
        yield simulator


def example(
    directory: Path, name: str, simulator: VoiceEventsSimulator, *options: str, **more: str
) -> AbstractContextManager[Running]:
    """One of the flows while it runs, with its files in a directory."""
    command = [sys.executable, "-m", "bytewax.run", f"examples.{name}", *options]
    return started(directory, command, GENESYS_URL=simulator.base_url, STATE=str(directory / "state"), **more)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    """An example has at most 40 lines, and imports nothing of ours but the public names."""
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert re.findall(r"^(?:from|import) ((?:connectors|flows)[.\w]*)", text, re.MULTILINE) == ["connectors.operators"]


def test_frames_are_split_from_what_is_not_a_frame(tmp_path: Path, simulator: VoiceEventsSimulator) -> None:
    """Each lossy frame is printed; a message that is not a frame goes to the other stream, with the reason."""
    with example(tmp_path, "lossy_frames", simulator) as process:
        eventually(lambda: simulator.finished, 90)
        topic = "v2.detail.events.conversation.c1.customer.start"
        simulator.send_text(f'{{"topicName":"{topic}","eventBody":{{"conversationId":"c1"}}}}')
        simulator.send_text("not a frame")
        eventually(lambda: "lossy_frames.rejected not a voice event" in process.log, 60)
        received = [frame for frame in in_journal(tmp_path / "state") if "entity" in frame]
        losses = [(frame["entity"]["id"], frame.get("metrics", {}).get("packetLoss") or 0.0) for frame in received]
        expected = [f"{id_} lost {loss:.1%}" for id_, loss in losses if loss > 0.02]
        eventually(lambda: process.output.count(" lost ") >= len(expected), 60)
        assert [line for line in process.output.splitlines() if " lost " in line] == expected
        assert len(expected) > 10
        assert "lossy_frames.rejected not JSON" in process.log


def test_the_source_works_alone(tmp_path: Path, simulator: VoiceEventsSimulator) -> None:
    """Each conversation gives a line when it ends, with the number of its frames."""
    out = tmp_path / "means.csv"
    with example(tmp_path, "mean_latency", simulator, OUT=str(out)):
        eventually(lambda: simulator.finished, 90)
        eventually(lambda: out.exists() and len(out.read_text().splitlines()) >= CONVERSATIONS, 60)
    received = in_journal(tmp_path / "state")
    ended = [frame["entity"]["id"] for frame in received if frame["event"] == "conversation.ended"]
    frames = Counter(frame["entity"]["id"] for frame in received if frame["event"] != "conversation.ended")
    lines = [line.split(",") for line in out.read_text().splitlines()]
    assert [(id_, int(count)) for id_, count, _ in lines] == [(id_, frames[id_]) for id_ in ended]


def test_callbacks_survive_a_kill(tmp_path: Path) -> None:
    """Killed amid the calls and started again, a flow without an audit log sends a signed callback for each frame."""
    assert voicewatch("recovery", "init", tmp_path / "recovery").returncode == 0
    options = ("-r", str(tmp_path / "recovery"), "-s", "0", "-b", "0")
    with running_simulator(conversations=3, rate=10.0) as simulator, CallbackReceiver(secrets=[SECRET]) as receiver:
        more = {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET, "ALLOW_PRIVATE": "1", "LIMIT_MS": "-1e15"}
        more["OUTBOX"] = str(tmp_path / "outbox.sqlite3")
        with example(tmp_path, "slow_frames_to_webhook", simulator, *options, **more):
            eventually(lambda: len(receiver.received) > 20, 90)
        # Leaving the block has killed the process.
        before = ids(in_journal(tmp_path / "state"))
        with example(tmp_path, "slow_frames_to_webhook", simulator, *options, **more):
            eventually(lambda: len(ids(in_journal(tmp_path / "state"))) > len(before) + 20, 90)
            written = ids(in_journal(tmp_path / "state"))
            eventually(lambda: {got.id for got in receiver.received} >= written, 90)
        assert before < written
        assert all(got.verified for got in receiver.received)


def ids(frames: Iterable[dict[str, Any]]) -> set[str]:
    """The ids of the callbacks of frames."""
    return {f"{frame['entity']['id']}:{float(frame['timestamp'])}" for frame in frames}


def test_a_clock_that_is_set_back_delays_no_poll(tmp_path: Path, simulator: VoiceEventsSimulator) -> None:
    """As of the journal's source: the time of the next poll has passed, whatever the system clock says."""
    source = VoiceEventsSource(tmp_path, client_id="id", client_secret="secret", base_url=simulator.base_url)
    part = source.build_part("step", "journal", None)
    try:
        part.next_batch()
        assert part.next_awake() == datetime(1970, 1, 1, tzinfo=UTC)
    finally:
        part.close()
