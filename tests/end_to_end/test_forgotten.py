"""Watches without a frame end in a live run, through kill -9 and starts; a stop with many watches is quick."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

from connectors.callbacks.receiver import CallbackReceiver
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.voice_events import running_simulator
from connectors.journal.writer import Journal
from flows.settings.loading import load_settings
from tests.support.callbacks import eventually
from tests.support.cli import DEADLINE_S
from tests.support.live import Live
from tests.support.simulators import duplicate_creates

FORGET_AFTER_S = 3
MANY = 20_000


def ended(live: Live, conversation_id: str) -> list[dict[str, Any]]:
    """The entries of the audit log for ended watches of a conversation."""
    if not live.state.audit.exists():
        return []
    entries = [json.loads(line) for line in live.state.audit.read_bytes().splitlines(keepends=True) if b"\n" in line]
    return [one for one in entries if (one["action"], one["conversation"]) == ("WATCH_ENDED", conversation_id)]


def test_a_silent_watch_ends_once_and_a_bootstrap_begins_it_again(tmp_path: Path) -> None:
    """The wait for a frame outlasts kill -9; a bootstrap with other limits watches the conversation again."""
    silent = conversation_ids(1, 3)[-1]
    limit = {"VOICEWATCH_WATCH__FORGET_AFTER_S": str(FORGET_AFTER_S)}
    with running_simulator(conversations=2, rate=20.0) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url, conversations=3)
        live.bootstrap()
        with live.running("run", "--no-bootstrap", **limit) as process:
            live.wait_for_frames(20)
            assert ended(live, silent) == []
            process.stop(signal.SIGKILL)
        with live.running("run", "--no-bootstrap", **limit) as process:
            eventually(lambda: len(ended(live, silent)) == 1, DEADLINE_S)
            live.wait_for_frames(20)
            process.stop(signal.SIGKILL)
        with live.running("run", "--no-bootstrap", **limit) as process:
            live.wait_for_frames(60)
            assert process.stop() == 0, process.log
        assert len(ended(live, silent)) == 1
        # A watch of the configuration is journaled again if it has changed.
        with live.running("run", VOICEWATCH_DEFAULTS__MAX_LATENCY_MS="61", **limit) as process:
            eventually(lambda: len(ended(live, silent)) == 2, DEADLINE_S)
            assert process.stop() == 0, process.log
        assert duplicate_creates(simulator) == 0
    assert [entry["outcome"] for entry in ended(live, silent)] == ["silent", "silent"]
    watched = [record["watch"] for record in live.records() if record.get("watch", {}).get("conversation_id") == silent]
    began = [watch for watch in watched if "last_frame_at" not in watch]
    assert len(began) == 2
    live.assert_equals_its_replay()
    live.assert_audit_is_intact()


def test_a_stop_with_many_watches_is_within_its_limit(tmp_path: Path) -> None:
    """With 20,000 watched conversations SIGTERM ends a run with 0 within its 30 s, and the next start goes on."""
    with running_simulator(conversations=1) as simulator:
        live = Live(tmp_path, simulator.base_url, "http://127.0.0.1:9", conversations=1)
        live.bootstrap()
        journal = Journal(live.state.journal, settings=load_settings(live.config, {}).flow_record())
        limits = {"max_latency_ms": 500, "packet_loss_threshold": 0.1, "qa_callback_url": "http://127.0.0.1:9/x"}
        for number in range(MANY):
            journal.watch({"conversation_id": f"many-{number}", "leg_id": "l", **limits})
        frames = [
            {"event": "conversation.updated", "entity": {"id": f"many-{number}"}, "timestamp": time.time()}
            for number in range(MANY)
        ]
        journal.frames([json.dumps(frame).encode() for frame in frames])
        journal.close()
        for _ in range(2):
            with live.running("run", "--no-bootstrap") as process:
                live.wait_for_frames(1)
                eventually(lambda: windows(live) >= MANY, DEADLINE_S)
                began = time.monotonic()
                assert process.stop() == 0, process.log
                assert time.monotonic() - began < 25.0
    ids = [json.loads(line)["conversation_id"] for line in live.state.windows.read_bytes().splitlines()]
    assert len({one for one in ids if one.startswith("many-")}) == MANY


def windows(live: Live) -> int:
    """The number of windows of the many conversations."""
    return live.state.windows.read_bytes().count(b'"many-') if live.state.windows.exists() else 0
