"""Clusters of real processes: the output of one, whatever is stopped or killed."""

from __future__ import annotations

import gzip
import os
import re
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from bytewax.testing import run_main

from connectors.callbacks.receiver import CallbackReceiver
from connectors.genesys.simulator.voice_events import running_simulator
from tests.support.callbacks import eventually
from tests.support.cli import ROOT, started, voicewatch
from tests.support.live import Live, feed_is_up
from tests.support.replay_flow import flow as replay_flow
from tests.support.simulators import duplicate_creates

# Processes that start while others do everything at once take their time.
pytestmark = pytest.mark.timeout(300)

MANY = {"conversations": 5, "rate": 20.0}
OUTPUTS = ("windows.jsonl", "alerts.jsonl", "rejected.jsonl")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_two_processes_replay_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped recording in many files, spread over two processes, gives the bytes that one process gives.

    Some are packed and some are marked as UTF-8, and each ends in a torn line.
    """
    recording = tmp_path / "recording"
    recording.mkdir()
    lines = (ROOT / "tests/data/three-minutes.jsonl").read_bytes().splitlines(keepends=True)
    for number, begin in enumerate(range(0, len(lines), 150)):
        text = b"\xef\xbb\xbf" * (number % 2) + b"".join(lines[begin : begin + 150]) + b"none\n"
        (recording / f"{number:08d}.jsonl").write_bytes(gzip.compress(text) if number % 3 == 0 else text)
    monkeypatch.setenv("RECORDING", str(recording))
    monkeypatch.setenv("OUT", str(tmp_path / "one"))
    run_main(replay_flow())
    addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))
    runner = [sys.executable, "-m", "bytewax.run", "tests.support.replay_flow", "-a", addresses, "-i"]
    with (
        started(tmp_path, [*runner, "0"], OUT=str(tmp_path / "two")) as first,
        started(tmp_path, [*runner, "1"], OUT=str(tmp_path / "two")) as second,
    ):
        assert first.wait() == 0, first.log
        assert second.wait() == 0, second.log
    for name in OUTPUTS:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert (tmp_path / "one" / "alerts.jsonl").stat().st_size > 0
    assert (tmp_path / "one" / "rejected.jsonl").read_bytes().count(b'"line":151,') >= number


def test_a_process_whose_recording_is_another_says_so(tmp_path: Path) -> None:
    """A file that is shorter where the second process runs ends both, and its log names the file and the reason."""
    lines = (ROOT / "tests/data/three-minutes.jsonl").read_bytes().splitlines(keepends=True)
    for process, missing in (("first", 0), ("second", 100)):
        recording = tmp_path / process / "recording"
        recording.mkdir(parents=True)
        for begin in range(0, len(lines), 150):
            text = b"".join(lines[begin : begin + 150])
            (recording / f"{begin:08d}.jsonl").write_bytes(text[: len(text) - missing])
    addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))
    runner = [sys.executable, "-m", "bytewax.run", "tests.support.replay_flow", "-a", addresses, "-i"]
    more = {"RECORDING": "recording", "OUT": str(tmp_path / "out")}
    with (
        started(tmp_path / "first", [*runner, "0"], **more) as first,
        started(tmp_path / "second", [*runner, "1"], **more) as second,
    ):
        assert first.wait() == 1, first.log
        assert second.wait() == 1, second.log
    assert re.search(r"recording/\d+\.jsonl: cannot be read: it has become shorter while it was", second.output)


def test_a_cluster_outlives_the_death_of_a_process(tmp_path: Path) -> None:
    """After kill -9 of one process all are started again, nothing is lost or repeated; SIGTERM to one stops all."""
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        with live.running("cluster", "--log-json") as process:
            receiver.wait_for(4, 60)
            for deaths, of_the_listener in enumerate([False, True], 1):
                before = children(process.process.pid)
                listening = int(live.state.lock.read_text())
                os.kill(next(pid for pid in before if (pid == listening) == of_the_listener), signal.SIGKILL)
                eventually(lambda: len(simulator.upgrade_attempts) > deaths, 60)  # noqa: B023 - called at once
                feed_is_up(simulator)
                receiver.wait_for(len(receiver.received) + 4, 60)
                after = children(process.process.pid)
                assert len(after) == 2
                assert not set(before) & set(after)
                assert all(map(has_ended, before))
                assert process.log.count('"event": "cluster_process_died"') == deaths
            began = time.monotonic()
            os.kill(next(pid for pid in after if pid != int(live.state.lock.read_text())), signal.SIGTERM)
            assert process.wait() == 0, process.log
            took_s = time.monotonic() - began
        received = {one.id for one in receiver.received}
        assert duplicate_creates(simulator) == 0
    assert all(map(has_ended, after))
    assert took_s < 10
    live.assert_equals_its_replay()
    live.assert_audit_is_intact()
    assert received == live.alert_ids()
    assert live.pending() == 0
    assert live.feed_states()[-1] == ("down", "voicewatch was stopped")
    *existing, summary, counts = process.output.splitlines()
    assert (len(existing), summary) == (5, "0 created, 5 existing, 0 failed")
    windows = len((tmp_path / "state/windows.jsonl").read_bytes().splitlines())
    assert re.match(rf"[1-9][0-9]* frames of 5 watched conversation\(s\); {windows} windows; ", counts)


def test_another_number_of_processes_goes_on_from_the_same_state(tmp_path: Path) -> None:
    """One process by Bytewax' own runner, then three under the supervisor, then a plain run: one output."""
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        with live.running("run") as process:
            feed_is_up(simulator)
            live.wait_for_frames(60)
            assert process.stop() == 0, process.log
        runner = [sys.executable, "-m", "bytewax.run", "flows.voice_qa", "-r", str(live.state.recovery), "-s", "1"]
        with live.started([*runner, "-b", "0"]) as process:
            feed_is_up(simulator)
            live.wait_for_frames(60)
            assert process.stop(signal.SIGINT) == 0, process.log
            assert process.output == ""
            assert "feed_changed" in process.log
        with live.running("cluster", "--processes", "3") as process:
            feed_is_up(simulator)
            live.wait_for_frames(60)
            refused = voicewatch("cluster", live.config)
            assert refused.returncode == 1
            assert "is in use by another voicewatch" in refused.stderr
            began = time.monotonic()
            assert process.stop() == 0, process.log
            assert time.monotonic() - began < 10
        received = {one.id for one in receiver.received}
    live.assert_equals_its_replay()
    assert received == live.alert_ids()
    assert [state for state, _ in live.feed_states()] == ["up", "down"] * 3


def test_a_killed_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    """After kill -9 of `voicewatch cluster` its processes stop with a last snapshot, and a run continues at once."""
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        with live.running("cluster") as process:
            feed_is_up(simulator)
            live.wait_for_frames(60)
            started_by_it = children(process.process.pid)
            assert len(started_by_it) == 2
            assert process.stop(signal.SIGKILL) == -signal.SIGKILL
            eventually(lambda: all(map(has_ended, started_by_it)), 15)
        assert process.log.count("launcher_ended") == 2
        assert live.feed_states()[-1] == ("down", "voicewatch was stopped")
        with live.running("run") as process:
            feed_is_up(simulator)
            live.wait_for_frames(60)
            assert process.stop() == 0, process.log
        received = {one.id for one in receiver.received}
    live.assert_equals_its_replay()
    assert received == live.alert_ids()
