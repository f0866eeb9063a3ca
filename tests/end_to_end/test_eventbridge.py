"""A live run with an EventBridge feed: nothing acknowledged is lost, and nothing is recorded twice."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.genesys.simulator.eventbridge import posting
from tests.support.callbacks import eventually
from tests.support.cli import DEADLINE_S, Running, configuration, running, voicewatch
from tests.support.events import PRIVATE, detail_event, journaled_ids

KEY = "key-of-the-connection"


@pytest.fixture
def port() -> int:
    """A free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def config(directory: Path, port: int) -> Path:
    """Write a configuration with one feed."""
    feed = {"kind": "eventbridge", "listen": f"127.0.0.1:{port}", "key_env": "EVENTS_KEY"}
    tables: dict[str, Any] = {"feed": [feed], "state": {"dir": str(directory / "state")}}
    return configuration(directory / "voicewatch.toml", tables)


class Bus:
    """Posts events from several threads, each again until it is acknowledged, as EventBridge does."""

    def __init__(self, port: int, threads: int) -> None:
        self.url = f"http://127.0.0.1:{port}/events"
        self.acknowledged: list[str] = []
        self.attempts = 0
        self.stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self, thread: int) -> None:
        with httpx.Client(headers={"X-Api-Key": KEY}, timeout=DEADLINE_S) as client:
            number = 0
            while not self.stopping.is_set():
                event = detail_event(f"c{thread}-{number}", "customer.start")
                number += 1
                while not self._is_acknowledged(client, event):
                    self.stopping.wait(0.05)

    def _is_acknowledged(self, client: httpx.Client, event: dict[str, Any]) -> bool:
        try:
            self.attempts += 1
            answer = client.post(self.url, json=event)
        except httpx.TransportError:
            return False
        if answer.status_code == 200:
            self.acknowledged.append(event["id"])
        return answer.status_code == 200

    def wait_for(self, events: int, process: Running) -> None:
        """Wait until a process has acknowledged this many events more."""
        enough = len(self.acknowledged) + events
        eventually(lambda: len(self.acknowledged) > enough or process.process.poll() is not None, DEADLINE_S)

    def stop(self) -> None:
        """Wait until every event is acknowledged."""
        self.stopping.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)


def test_kill_9_loses_and_repeats_nothing(tmp_path: Path, port: int) -> None:
    """Killed twice under load: the journal has each acknowledged event once, and no personal data."""
    path = config(tmp_path, port)
    bus = Bus(port, threads=8)
    try:
        for kill in range(3):
            with running(tmp_path, "run", path, EVENTS_KEY=KEY) as process:
                bus.wait_for(30, process)
                if kill < 2:
                    assert process.stop(signal.SIGKILL) == -signal.SIGKILL, process.log
                else:
                    bus.stop()
                    assert process.stop() == 0, process.log
    finally:
        bus.stop()
    journaled = journaled_ids(tmp_path / "state" / "journal")
    assert set(bus.acknowledged) == set(journaled)
    assert set(journaled.values()) == {1}
    assert len(bus.acknowledged) == len(set(bus.acknowledged)) > 90
    assert bus.attempts > len(bus.acknowledged)
    assert all(PRIVATE.encode() not in file.read_bytes() for file in (tmp_path / "state").rglob("*") if file.is_file())


def test_a_run_on_the_simulated_bus(tmp_path: Path, port: int) -> None:
    """Calls of the simulator become windows, with the delivery time of events as latency."""
    path = config(tmp_path, port)
    windows = tmp_path / "state" / "windows.jsonl"
    with (
        posting(f"http://127.0.0.1:{port}/events", KEY, seed=1, conversations=3, rate=5.0) as ids,
        running(tmp_path, "run", path, EVENTS_KEY=KEY) as process,
    ):
        eventually(lambda: windows.exists() and windows.read_bytes().count(b"\n") >= 3, DEADLINE_S)
        assert process.stop() == 0, process.log
    rows = [json.loads(line) for line in windows.read_bytes().splitlines()]
    assert {row["conversation_id"] for row in rows} == set(ids)
    assert all(row["latency_ms"]["min"] >= 100 for row in rows if row["latency_ms"])


def test_configuration_mistakes(tmp_path: Path) -> None:
    """A key that is missing is reported before anything starts, without its value."""
    path = config(tmp_path, 8444)
    missing = voicewatch("run", path)
    assert (missing.returncode, "EVENTS_KEY is not set" in missing.stderr) == (2, True)
    short = voicewatch("run", path, EVENTS_KEY="short-key")
    assert (short.returncode, "at least 16" in short.stderr, "short-key" in short.stderr) == (2, True, False)
