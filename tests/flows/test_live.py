"""The live run in processes of its own: stopped, killed, shut out, and with both of its ends failing."""

from __future__ import annotations

import json
import random
import resource
import signal
import socket
from pathlib import Path

import pytest

from connectors.callbacks.receiver import CallbackReceiver
from connectors.genesys.simulator.voice_events import running_simulator
from tests.support.callbacks import eventually
from tests.support.cli import several
from tests.support.live import Live, feed_is_up
from tests.support.simulators import duplicate_creates

# Processes that start while others do everything at once take their time.
pytestmark = pytest.mark.timeout(300)

MANY = {"conversations": 5, "rate": 20.0}
DEADLINE_S = 60.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_a_run_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Bootstrap, watch, deliver; a signal ends it with exit 0 and a summary, and nothing is left open or unsent."""
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        if number == signal.SIGINT:
            live.bootstrap()
        with live.running() as process:
            receiver.wait_for(6, DEADLINE_S)
            commands = [["run", live.config], ["run", live.config, "--no-bootstrap"], ["bootstrap", live.config]]
            for second in several(commands) if number == signal.SIGINT else ():
                assert second.returncode == 1
                assert f"(process {process.process.pid})" in second.stderr.splitlines()[-1]
                assert "Traceback" not in second.stderr
            assert process.stop(number) == 0, process.log
        assert len(simulator.created) == 5
        assert duplicate_creates(simulator) == 0
        assert live.frames() == simulator.frames_sent
        received = {one.id for one in receiver.received}
    *_, total, summary = process.output.splitlines()
    created = 0 if number == signal.SIGINT else 5
    assert total == f"{created} created, {5 - created} existing, 0 failed"
    assert summary.startswith(f"{live.frames()} frames of 5 watched conversation(s); ")
    assert [state for state, _ in live.feed_states()] == ["up", "down"]
    assert live.feed_states()[-1] == ("down", "voicewatch was stopped")
    live.assert_equals_its_replay()
    live.assert_audit_is_intact()
    assert received == live.alert_ids()
    assert live.pending() == 0
    assert "Traceback" not in process.log


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    """Killed at random moments and started again, the run delivers every alert of its journal and repeats no line."""
    chance = random.Random(9)
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        for _ in range(3):
            with live.running() as process:
                feed_is_up(simulator)
                live.wait_for_frames(chance.randrange(1, 250))
                assert process.stop(signal.SIGKILL) == -signal.SIGKILL, process.log
        with live.running() as process:
            feed_is_up(simulator)
            live.wait_for_frames(50)
            assert process.stop() == 0, process.log
        assert duplicate_creates(simulator) == 0
        received = [one.id for one in receiver.received]
    live.assert_equals_its_replay()
    live.assert_audit_is_intact()
    assert set(received) == live.alert_ids()
    assert live.pending() == 0
    lost = [reason for state, reason in live.feed_states() if state == "down"]
    assert lost == ["the run before this one ended without stopping"] * 3 + ["voicewatch was stopped"]
    audited = [json.loads(line) for line in live.state.audit.read_text().splitlines()]
    assert [entry["outcome"] for entry in audited if entry["action"] == "FEED_DOWN"] == lost
    assert len(live.alert_ids()) > 10


def test_kill_9_changes_no_group(tmp_path: Path) -> None:
    """Killed at random moments, the run writes each window and alert of a group once, as its replay."""
    chance = random.Random(15)
    groups = {"by": ["queue"], "min_conversations": 1, "raise_ratio": 0.5, "clear_after_s": 1.0}
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url, groups=groups)
        live.bootstrap()
        for _ in range(3):
            with live.running("run", "--no-bootstrap") as process:
                feed_is_up(simulator)
                live.wait_for_frames(chance.randrange(1, 250))
                assert process.stop(signal.SIGKILL) == -signal.SIGKILL, process.log
        with live.running("run", "--no-bootstrap") as process:
            feed_is_up(simulator)
            eventually(lambda: b'"inhibitedBy"' in live.state.alerts.read_bytes(), DEADLINE_S)
            live.wait_for_frames(50)
            assert process.stop() == 0, process.log
    live.assert_equals_its_replay()
    live.assert_audit_is_intact()
    alerts = live.alerts()
    degraded = {alert["incidentId"] for alert in alerts if alert["alertType"] == "GROUP_DEGRADED"}
    assert degraded
    assert {alert["inhibitedBy"] for alert in alerts if "inhibitedBy" in alert} <= degraded
    assert any("inhibitedBy" in alert for alert in alerts)
    values = {json.loads(line)["group"]["queue"] for line in live.state.groups.read_bytes().splitlines()}
    assert values == {"q0", "q1"}


def test_callbacks_outlive_a_dead_receiver_and_the_run(tmp_path: Path) -> None:
    """Without a receiver for the callbacks, a stop is clean; the next run delivers them, even without new frames."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with running_simulator(**MANY) as simulator:
        live = Live(tmp_path, simulator.base_url, f"http://127.0.0.1:{port}")
        live.bootstrap()
        with live.running() as process:
            eventually(lambda: live.state.audit.exists() and b"CALLBACK_FAILED" in live.state.audit.read_bytes(), 60)
            assert process.stop() == 0, process.log
    live.assert_equals_its_replay()
    expected = live.alert_ids()
    assert live.pending() == len(expected) > 0
    with (
        running_simulator(conversations=1, rate=0.01, seed=99) as quiet,
        CallbackReceiver(port=port) as receiver,
        live.running("run", "--no-bootstrap", VOICEWATCH_GENESYS_BASE_URL=quiet.base_url) as process,
    ):
        receiver.wait_until(lambda got: {one.id for one in got} >= expected, DEADLINE_S)
        eventually(lambda: live.pending() == 0, DEADLINE_S)
        assert process.stop() == 0, process.log
        order = [json.loads(one.body) for one in receiver.received]
    assert live.alert_ids() == expected
    for conversation in {alert["conversationId"] for alert in order}:
        times = [alert["timestamp"] for alert in order if alert["conversationId"] == conversation]
        assert times == sorted(times), "in the order in which they came to be"


def test_a_lost_connection_is_in_the_journal_and_costs_only_what_was_not_sent(tmp_path: Path) -> None:
    """When Genesys closes the socket the feed comes back by itself; every frame sent to it is in the journal once."""
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        with live.running() as process:
            for code in (1011, 1012):
                feed_is_up(simulator)
                live.wait_for_frames(40)
                simulator.send_text('{"event":"cut', b"\x00\x01")
                simulator.drop_connections(code)
            feed_is_up(simulator)
            live.wait_for_frames(40)
            assert process.stop() == 0, process.log
        sent = simulator.frames_sent
    assert live.frames() == sent
    assert [state for state, _ in live.feed_states()] == ["up", "down"] * 3
    assert [reason for _, reason in live.feed_states()][1::2][0].startswith("received 1011")
    invalid = [record["invalid"] for record in live.records() if "invalid" in record]
    assert invalid == ['{"event":"cut', "\x00\x01"] * 2
    live.assert_equals_its_replay()
    live.assert_audit_is_intact()
    actions = [json.loads(line)["action"] for line in live.state.audit.read_bytes().splitlines()]
    assert actions.count("FEED_UP") == actions.count("FEED_DOWN") == 3


def test_a_full_disk_ends_the_run_with_its_reason_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """When a file takes no more, the run fails and says why; nothing that was written is lost or doubled."""
    with running_simulator(**MANY) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url)
        live.bootstrap()
        with live.running() as process:
            feed_is_up(simulator)
            live.wait_for_frames(40)
            size = sum(segment.stat().st_size for segment in live.state.journal.iterdir())
            resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (size + 5000, size + 5000))
            assert process.wait() == 1
            reason = process.log.splitlines()[-1]
            assert reason.startswith(("voicewatch: writing ", "voicewatch: the outbox ")), process.log
            assert "File too large" in reason or "check the free space" in reason
        with live.running() as process:
            feed_is_up(simulator)
            live.wait_for_frames(40)
            assert process.stop() == 0, process.log
        received = {one.id for one in receiver.received}
    live.assert_equals_its_replay()
    live.assert_audit_is_intact()
    assert received == live.alert_ids()
