"""The socket is always read: bursts, and a dataflow that stands still, cost neither frames nor the connection."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import orjson
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.testing import run_main

from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.voice_events import VoiceEventsFeed
from connectors.genesys.simulator.voice_events import VoiceEventsSimulator, running_simulator
from connectors.journal.segments import segments
from connectors.journal.source import JournalSource
from connectors.journal.writer import Journal
from connectors.runtime.shutdown import Shutdown
from connectors.state.sinks import JsonLinesSink
from flows.dataflow import Outputs, build
from tests.support.callbacks import eventually

BURST = 20_000


class StandsStill(FixedPartitionedSink[bytes, None]):
    """A sink that takes nothing until it is allowed to."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.allowed = threading.Event()

    def list_parts(self) -> list[str]:
        return ["still"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> StatefulSinkPartition[bytes, None]:
        sink = self

        class Partition(StatefulSinkPartition[bytes, None]):
            def write_batch(self, values: list[bytes]) -> None:
                sink.reached.set()
                assert sink.allowed.wait(60)

            def snapshot(self) -> None:
                return None

        return Partition()


def feed_of(simulator: VoiceEventsSimulator, journal: Journal) -> VoiceEventsFeed:
    endpoints = Endpoints.from_base_url(simulator.base_url)
    tokens = TokenProvider(endpoints, Credentials("id", "secret"))
    return VoiceEventsFeed(url=endpoints.events_url, tokens=tokens, recorder=journal)


def message(number: int) -> str:
    return f'{{"event":"conversation.updated","entity":{{"id":"burst-{number}"}},"timestamp":1.0}}'


def journalled(directory: Path) -> list[str]:
    """The conversations of the frames in a journal that the burst sent, in order."""
    lines = (
        line
        for path in segments(directory)
        for line in path.read_bytes().rpartition(b"\n")[0].splitlines()
        if b'"frame":' in line
    )
    ids = (orjson.loads(line)["frame"]["entity"]["id"] for line in lines)
    return [id_ for id_ in ids if id_.startswith("burst-")]


def test_a_burst_is_recorded_while_the_dataflow_stands_still(tmp_path: Path) -> None:
    """20,000 frames at once reach the journal, over one connection, before a stalled flow goes on; then it has all."""
    shutdown, sink = Shutdown(), StandsStill()
    directory = tmp_path / "journal"
    settings: dict[str, Any] = {"alerts": {"unwatched": "default"}}

    def check(simulator: VoiceEventsSimulator) -> None:
        try:
            assert sink.reached.wait(60)
            simulator.wait_for(lambda s: s.subscribers > 0, 60)
            simulator.send_text(*map(message, range(BURST)))
            eventually(lambda: len(journalled(directory)) == BURST, 60)
            assert not sink.allowed.is_set()
        finally:
            sink.allowed.set()
            shutdown.requested.set()

    with running_simulator(conversations=1, rate=1.0) as simulator:
        source = JournalSource(
            tmp_path / "lock",
            lambda: Journal(directory, settings=settings),
            lambda journal: [feed_of(simulator, journal)],
            shutdown,
            keep_s=3600.0,
        )
        outputs = Outputs(windows=sink, alerts=JsonLinesSink(tmp_path / "alerts.jsonl"))
        checking = threading.Thread(target=check, args=[simulator])
        checking.start()
        run_main(build(source, outputs))
        checking.join()
        assert simulator.connections == 1
    assert journalled(directory) == [f"burst-{number}" for number in range(BURST)]
