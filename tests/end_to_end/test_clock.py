"""A live run whose system clock is set, by libfaketime: nothing freezes, and its journal replays to the same lines."""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.receiver import CallbackReceiver
from connectors.genesys.simulator.voice_events import running_simulator
from connectors.journal.segments import segments
from connectors.journal.writer import BEHIND, SET_BACK, SET_FORWARD
from flows.commands.replay import replay
from tests.support.live import Live
from tests.support.tape import until

pytestmark = pytest.mark.timeout(300)

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
HOUR_S = 3600


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian's package faketime)")
def test_a_clock_that_is_set_freezes_nothing(tmp_path: Path) -> None:
    """An hour forward and back, then a restart an hour behind: all goes on each time. Less than a second is slewed."""
    offset = tmp_path / "offset"

    def set_clock(seconds: float) -> None:
        unfinished = tmp_path / "offset.new"
        unfinished.write_text(f"{seconds:+.1f}\n")
        unfinished.replace(offset)

    def steps() -> list[dict[str, Any]]:
        return [record["clock"] for record in live.records() if "clock" in record]

    def windows() -> list[bytes]:
        return live.state.windows.read_bytes().splitlines()

    def step(seconds: int) -> None:
        noticed = len(steps())
        set_clock(seconds)
        until(lambda: len(steps()) > noticed)
        written = len(windows())
        live.wait_for_frames(100)
        until(lambda: len(windows()) > written)

    # libfaketime reads the file again each second. Without its cache it would read it at each switch of threads.
    faked = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_CACHE_DURATION": "1",
    }
    with running_simulator(conversations=5, rate=20.0) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        set_clock(0)
        with live.running("run", "--no-bootstrap", **faked) as process:
            live.wait_for_frames(300)
            set_clock(0.4)  # as a time service may do: a difference that is slewed
            until(lambda: any("arrived_at" in record for record in live.records()))
            live.wait_for_frames(100)
            assert steps() == []
            set_clock(0)
            for seconds in (HOUR_S, 0, HOUR_S):
                step(seconds)
            assert process.stop() == 0, process.log
        set_clock(0)
        with live.running("run", "--no-bootstrap", **faked) as process:
            live.wait_for_frames(300)
            assert process.stop() == 0, process.log
    reasons = [step["reason"] for step in steps()]
    assert reasons == [SET_FORWARD, SET_BACK, SET_FORWARD, BEHIND]
    lengths_s = [step["step_s"] for step in steps()]
    assert lengths_s[:3] == pytest.approx([HOUR_S, -HOUR_S, HOUR_S], abs=0.1)
    audited = [json.loads(line) for line in live.state.audit.read_bytes().splitlines()]
    assert [entry["step_s"] for entry in audited if entry["action"] == "CLOCK_STEPPED"] == lengths_s
    for before, after in pairwise(live.records()):
        assert "clock" in after or after["received_at"] >= before["received_at"]
    alerts = live.state.alerts.read_bytes().splitlines()
    last = list(live.records())[-1]["received_at"]
    assert last - 3 < json.loads(windows()[-1])["end"] <= last
    resolved = [json.loads(line) for line in alerts if b'"resolved"' in line]
    assert any(alert["metricValue"] < 1000 and last - 60 < alert["timestamp"] <= last for alert in resolved)
    out = tmp_path / "replayed"
    paths = segments(live.state.journal)
    replay(paths, out, settings=None, environ={}, speed=None, deliver=False, stop=threading.Event())
    assert (out / "alerts.jsonl").read_bytes().splitlines() == alerts
    assert (out / "windows.jsonl").read_bytes().splitlines()[: len(windows())] == windows()
