"""The demo: the real job against the simulator, with a receiver for its callbacks, in a directory of its own."""

from __future__ import annotations

import secrets
import tempfile
import threading
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.audit import verify
from connectors.errors import VoicewatchError
from connectors.genesys.calls import conversation_ids
from connectors.genesys.simulator import running_simulator
from connectors.outbox import Outbox
from connectors.receiver import CallbackReceiver
from connectors.shutdown import Shutdown
from flows.analytics.merge import Tally
from flows.live import StateLayout
from flows.run import run_live
from flows.settings import Settings, parse_settings

__all__ = ["DemoResult", "DemoRow", "run_demo"]

SEED: Final = 7
CALLS: Final = 5
FRAMES_PER_S: Final = 10.0


@dataclass(frozen=True)
class DemoRow:
    """What was seen of one conversation; losses as ratios, None where nothing was measured."""

    conversation_id: str
    frames: int
    windows: int
    worst_p95_ms: float | None
    worst_loss: float | None
    raised: int
    resolved: int
    delivered: int


@dataclass(frozen=True)
class DemoResult:
    """What a demo did; `delivered` counts the callbacks that the receiver got and whose signature it verified."""

    conversations: list[DemoRow]
    tally: Tally
    delivered: int
    pending: int
    audit_lines: int


def run_demo(seconds: float, shutdown: Shutdown) -> DemoResult:
    """Run the whole job for so many seconds, or until `shutdown` is requested."""
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
    environ = {
        "GENESYS_CLIENT_ID": "demo",
        "GENESYS_CLIENT_SECRET": secrets.token_urlsafe(16),
        "VOICEWATCH_CALLBACK_SECRET": secret,
    }
    with (
        tempfile.TemporaryDirectory(prefix="voicewatch-demo-") as directory,
        CallbackReceiver(secrets=[secret]) as receiver,
        running_simulator(seed=SEED, conversations=CALLS, rate=FRAMES_PER_S) as simulator,
    ):
        settings = parse_settings(_tables(simulator.base_url, receiver.url, Path(directory)), "the demo")
        timer = threading.Timer(seconds, shutdown.requested.set)
        timer.daemon = True
        tally = run_live(settings, environ, shutdown, on_bootstrap=lambda _: timer.start())
        return _result(settings, tally, receiver)


def _tables(base_url: str, receiver_url: str, directory: Path) -> dict[str, Any]:
    """The demo's configuration: shorter windows and quiet times than usual, so that there is something to see."""
    return {
        "genesys": {"base_url": base_url},
        "windows": {"length_s": 4, "slide_s": 2},
        "alerts": {"clear_after_s": 2},
        "delivery": {"allow_private_addresses": True},
        "state": {"dir": str(directory / "state")},
        "defaults": {
            "interceptor_address": "sip:qa@monitoring.internal",
            "qa_callback_url": f"{receiver_url}/alerts",
        },
        "interceptor": [
            {"conversation_id": conversation_id, "leg_id": f"leg-{number}"}
            for number, conversation_id in enumerate(conversation_ids(SEED, CALLS), 1)
        ],
    }


def _result(settings: Settings, tally: Tally, receiver: CallbackReceiver) -> DemoResult:
    state = StateLayout(settings.state.dir)
    windows = _read(state.windows)
    alerts = _read(state.alerts)
    received = {one.id: orjson.loads(one.body) for one in receiver.received if one.verified}
    delivered = Counter(alert["conversationId"] for alert in received.values())
    frames = _frames(state.journal)
    rows = []
    for interceptor in settings.interceptors:
        id_ = interceptor.conversation_id
        own = [window for window in windows if window["conversation_id"] == id_]
        p95 = [window["latency_ms"]["p95"] for window in own if window["latency_ms"]]
        loss = [window["packet_loss"]["max"] for window in own if window["packet_loss"]]
        states = Counter(alert["state"] for alert in alerts if alert["conversationId"] == id_)
        rows.append(
            DemoRow(
                id_,
                frames[id_],
                len(own),
                max(p95, default=None),
                max(loss, default=None),
                states["raised"],
                states["resolved"],
                delivered[id_],
            )
        )
    outbox = Outbox(state.outbox)
    pending = outbox.counts()["pending"]
    outbox.close()
    verdict = verify(state.audit)
    if not verdict.ok:
        raise VoicewatchError(f"the demo's audit log is not intact: {verdict.faults[0].text}")
    return DemoResult(rows, tally, len(received), pending, verdict.lines)


def _read(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def _frames(journal: Path) -> Counter[str]:
    """Frames by conversation, as they stand in the journal."""
    records = (record for segment in sorted(journal.iterdir()) for record in _read(segment))
    return Counter(record["frame"]["entity"]["id"] for record in records if "frame" in record)
