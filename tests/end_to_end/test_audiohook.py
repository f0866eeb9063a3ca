"""The whole way of an AudioHook call: dialled, measured, journaled, judged, called back."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.receiver import CallbackReceiver
from connectors.genesys.feeds.audiohook.api_keys import SECRETS_VARIABLE
from connectors.genesys.simulator.voice_events import running_simulator
from connectors.runtime.shutdown import Shutdown
from flows.commands.demo import STAGES
from flows.commands.run import run_live
from flows.settings.loading import parse_settings
from tests.support.cli import voicewatch


def test_a_late_and_a_lossy_call_are_told_to_the_quality_platform(tmp_path: Path) -> None:
    """Emulated calls, the real feed and the real flow: callbacks for what goes wrong, and an order in the end."""
    shutdown = Shutdown()
    with CallbackReceiver() as receiver, STAGES["audiohook"]() as stage:

        def stop_when_both_are_told() -> None:
            with suppress(TimeoutError):
                receiver.wait_until(lambda received: len({json.loads(one.body)["legId"] for one in received}) >= 2, 30)
            shutdown.requested.set()

        tables = {
            "delivery": {"allow_private_addresses": True},
            "state": {"dir": str(tmp_path / "state")},
            "defaults": {"qa_callback_url": f"{receiver.url}/alerts"},
        }
        settings = parse_settings(tables | stage.tables, "the test")
        threading.Thread(target=stop_when_both_are_told, daemon=True).start()
        counts = run_live(settings, stage.environ, shutdown, on_bootstrap=None)
    late, lossy, *_ = stage.conversation_ids
    alerts = [json.loads(line) for line in (tmp_path / "state" / "alerts.jsonl").read_bytes().splitlines()]
    assert {(alert["conversationId"], alert["alertType"], alert["state"], alert["reason"]) for alert in alerts} == {
        (late, "LATENCY_THRESHOLD_EXCEEDED", "raised", None),
        (late, "LATENCY_THRESHOLD_EXCEEDED", "resolved", "ended"),
        (lossy, "PACKET_LOSS_DETECTED", "raised", None),
        (lossy, "PACKET_LOSS_DETECTED", "resolved", "ended"),
    }
    called_back = {
        (body["conversationId"], body["state"]) for body in (json.loads(one.body) for one in receiver.received)
    }
    assert called_back >= {(late, "raised"), (lossy, "raised")}
    assert counts.unwatched == 0
    assert counts.conversations == len(stage.conversation_ids)
    audit = [json.loads(line) for line in (tmp_path / "state" / "audit.jsonl").read_bytes().splitlines()]
    feeds = [(line["action"], line["feed"]) for line in audit if line["action"].startswith("FEED_")]
    assert feeds == [("FEED_UP", "audiohook"), ("FEED_DOWN", "audiohook")]


@pytest.mark.parametrize("command", ["run", "cluster"])
def test_an_address_that_is_taken_is_told_before_anything_starts(tmp_path: Path, command: str) -> None:
    """One line and exit 2, without Bytewax' panic, and nothing is journaled or created at Genesys."""
    with socket.create_server(("127.0.0.1", 0)) as other, running_simulator() as simulator:
        address = "{}:{}".format(*other.getsockname())
        config = tmp_path / "voicewatch.toml"
        config.write_text(
            f'[genesys]\nbase_url = "{simulator.base_url}"\n[state]\ndir = "{tmp_path / "state"}"\n'
            f'[audiohook]\nlisten = "{address}"\napi_keys = ["key"]\n[[feed]]\nkind = "audiohook"\n[[feed]]\n'
            '[[interceptor]]\nconversation_id = "c"\nleg_id = "l"\ninterceptor_address = "sip:qa@example.com"\n'
            'qa_callback_url = "https://qa.example.com/alerts"\n'
        )
        secrets: dict[str, Any] = {SECRETS_VARIABLE: f"key={b64encode(b'secret' * 6).decode()}"}
        done = voicewatch(command, config, **secrets)
        assert simulator.created == []
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"voicewatch: the AudioHook feed cannot listen on {address}: Address already in use")
    assert line.endswith("choose another [audiohook] listen")
    assert not (tmp_path / "state" / "journal").exists()
