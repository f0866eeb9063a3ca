"""Run the real job against the simulator, with a receiver for its callbacks, in a temporary directory."""

from __future__ import annotations

import secrets
import socket
import tempfile
import threading
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.callbacks.outbox import Outbox
from connectors.callbacks.receiver import CallbackReceiver
from connectors.errors import UsageError, VoicewatchError
from connectors.format.decode import decode_block
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.faults import parse_faults
from connectors.genesys.simulator.voice_events import running_simulator
from connectors.journal.segments import segments
from connectors.runtime.shutdown import Shutdown
from connectors.state.audit import verify
from flows.analytics.merge import Counts
from flows.commands.run import run_live
from flows.settings.loading import parse_settings
from flows.settings.models import Settings
from flows.state import StateLayout

__all__ = ["DemoResult", "DemoRow", "Stage", "run_demo"]

SEED: Final = 7
CALLS: Final = 12
AUDIO_CALLS: Final = 5
FRAMES_PER_S: Final = 10.0
EVENTS_PER_S: Final = 4.0
_ALERTS: Final = {"clear_after_s": 2, "raise_n": 3, "raise_m": 5}
_GROUPS: Final = {"by": ["edge"], "min_conversations": 3, "raise_ratio": 0.75, "clear_after_s": 2}
_PATIENT: Final = {"clear_after_s": 2, "raise_n": 21, "raise_m": 25}
"""A conversation's alert needs 2.1 s of bad frames: its group is judged every second, and inhibits it."""
BAD_EDGE: Final = """
[[fault]]
on = "edge"
name = "edge-frankfurt-2"
do = "latency"
after_s = 3
for_s = 3
"""


@dataclass(frozen=True)
class DemoRow:
    """Hold what was measured of one conversation; losses as ratios, None where nothing was measured."""

    conversation_id: str
    labels: dict[str, str]
    frames: int
    worst_p95_ms: float | None
    worst_loss: float | None
    raised: int
    inhibited: int
    delivered: int


@dataclass(frozen=True)
class DemoResult:
    """Hold what a demo did; `delivered` counts the callbacks whose signature the receiver verified.

    `raised` has the number of raised alerts of each rule, by its `alertType`.
    """

    conversations: list[DemoRow]
    raised: dict[str, int]
    groups: list[dict[str, Any]]
    counts: Counts
    delivered: int
    pending: int
    audit_lines: int


@dataclass(frozen=True)
class Stage:
    """Describe a demo: configuration tables, variables of the environment, and the ids of the first calls.

    With `bootstrap`, interceptors are created first.
    """

    tables: dict[str, Any]
    environ: dict[str, str]
    conversation_ids: list[str]
    bootstrap: bool


def run_demo(seconds: float, shutdown: Shutdown, kind: str = "voice-events") -> DemoResult:
    """Run the whole job for a number of seconds, or until `shutdown` is requested. Raises UsageError for its kind."""
    if kind not in STAGES:
        raise UsageError(f"--kind {kind}: is not one of {', '.join(STAGES)}")
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
    environ = {
        "GENESYS_CLIENT_ID": "demo",
        "GENESYS_CLIENT_SECRET": secrets.token_urlsafe(16),
        "VOICEWATCH_CALLBACK_SECRET": secret,
    }
    with (
        tempfile.TemporaryDirectory(prefix="voicewatch-demo-") as directory,
        CallbackReceiver(secrets=[secret]) as receiver,
        STAGES[kind]() as stage,
    ):
        tables = _tables(receiver.url, Path(directory)) | stage.tables
        if "groups" in tables:
            tables["groups"] = {**tables["groups"], "qa_callback_url": f"{receiver.url}/groups"}
        settings = parse_settings(tables, "the demo")
        timer = threading.Timer(seconds, shutdown.requested.set)
        timer.daemon = True
        if not stage.bootstrap:
            timer.start()
        on_bootstrap = (lambda _: timer.start()) if stage.bootstrap else None
        counts = run_live(settings, environ | stage.environ, shutdown, on_bootstrap=on_bootstrap)
        return _result(settings, counts, receiver)


def _tables(receiver_url: str, directory: Path) -> dict[str, Any]:
    """Return the configuration of all demos: shorter windows and quiet times, so that there is something to see."""
    return {
        "windows": {"length_s": 4, "slide_s": 2},
        "alerts": _ALERTS,
        "delivery": {"allow_private_addresses": True},
        "state": {"dir": str(directory / "state")},
        "web": {"listen": "127.0.0.1:0"},
        "defaults": {
            "interceptor_address": "sip:qa@monitoring.internal",
            "qa_callback_url": f"{receiver_url}/alerts",
        },
    }


@contextmanager
def _voice_events() -> Iterator[Stage]:
    faults = parse_faults(BAD_EDGE)
    calls: dict[str, Any] = {"seed": SEED, "conversations": CALLS, "rate": FRAMES_PER_S, "faults": faults}
    # On a busy machine the simulator itself is late with the frames of all calls, which is not what is to be shown.
    with running_simulator(**calls, stamps_when_sent=True) as simulator:
        tables = {
            "genesys": {"base_url": simulator.base_url},
            "watch": {"mode": "discover"},
            "windows": {"length_s": 2, "slide_s": 1},
            "alerts": _PATIENT,
            "groups": _GROUPS,
        }
        yield Stage(tables, {}, conversation_ids(SEED, CALLS), bootstrap=True)


@contextmanager
def _notifications() -> Iterator[Stage]:
    from connectors.genesys.simulator.notifications import NotificationsOptions, NotificationsSimulator
    from connectors.genesys.simulator.server import running

    # Notifications arrive after a fifth of a second when all is well.
    feed = {"kind": "notifications", "defaults": {"max_latency_ms": 390}}
    options = NotificationsOptions(
        seed=SEED, conversations=CALLS, rate=FRAMES_PER_S, faults=parse_faults(BAD_EDGE), premature=True
    )
    with running(NotificationsSimulator(options)) as simulator:
        queues = [queue.name for queue in simulator.traffic.book.organisation.queues]
        tables = {
            "genesys": {"base_url": simulator.base_url, "resolve_names": True},
            "watch": {"mode": "discover"},
            "alerts": _PATIENT,
            "groups": _GROUPS,
            "feed": [{**feed, "queues": queues}],
        }
        yield Stage(tables, {}, conversation_ids(SEED, CALLS), bootstrap=False)


@contextmanager
def _audiohook() -> Iterator[Stage]:
    from connectors.genesys.simulator.audiohook import calling

    key, secret = "demo-key", b64encode(secrets.token_bytes(32)).decode()
    listen = f"127.0.0.1:{_unused_port()}"
    tables = {
        "feed": [{"kind": "audiohook", "labels_from": {"queue": "queue", "edge": "edge"}}],
        "alerts": {**_ALERTS, "silent_after_s": 6},
        "audiohook": {"listen": listen, "path": "/audiohook", "api_keys": [key]},
    }
    environ = {"VOICEWATCH_AUDIOHOOK_SECRETS": f"{key}={secret}"}
    with calling(f"ws://{listen}/audiohook", key, b64decode(secret), seed=SEED, conversations=AUDIO_CALLS) as ids:
        yield Stage(tables, environ, ids, bootstrap=False)


@contextmanager
def _eventbridge() -> Iterator[Stage]:
    from connectors.genesys.simulator.eventbridge import posting

    key, listen = secrets.token_urlsafe(24), f"127.0.0.1:{_unused_port()}"
    feed = {"kind": "eventbridge", "listen": listen, "key_env": "EVENTS_KEY", "defaults": {"max_latency_ms": 330}}
    tables = {"feed": [feed], "watch": {"mode": "discover"}}
    url, faults = f"http://{listen}/events", parse_faults(BAD_EDGE)
    with posting(url, key, seed=SEED, conversations=CALLS, rate=EVENTS_PER_S, faults=faults) as ids:
        yield Stage(tables, {"EVENTS_KEY": key}, ids, bootstrap=False)


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


STAGES: Final[dict[str, Callable[[], AbstractContextManager[Stage]]]] = {
    "voice-events": _voice_events,
    "notifications": _notifications,
    "audiohook": _audiohook,
    "eventbridge": _eventbridge,
}


def _result(settings: Settings, counts: Counts, receiver: CallbackReceiver) -> DemoResult:
    state = StateLayout(settings.state.dir)
    windows = _read(state.windows)
    alerts = _read(state.alerts)
    received = {one.id: orjson.loads(one.body) for one in receiver.received if one.verified}
    delivered = Counter(alert["conversationId"] for alert in received.values())
    frames = _frames(state.journal)
    rows = []
    for id_, labels in _watched(state.journal).items():
        own = [window for window in windows if window["conversation_id"] == id_]
        p95 = [window["latency_ms"]["p95"] for window in own if window["latency_ms"]]
        loss = [window["packet_loss"]["max"] for window in own if window["packet_loss"]]
        states = Counter(alert["state"] for alert in alerts if alert["conversationId"] == id_)
        rows.append(
            DemoRow(
                id_,
                labels,
                frames[id_],
                max(p95, default=None),
                max(loss, default=None),
                states["raised"],
                sum("inhibitedBy" in alert for alert in alerts if alert["conversationId"] == id_),
                delivered[id_],
            )
        )
    outbox = Outbox(state.outbox)
    pending = outbox.counts()["pending"]
    outbox.close()
    audit_lines = 0
    if state.audit.exists():
        verdict = verify(state.audit)
        audit_lines = verdict.lines
        if not verdict.ok:
            raise VoicewatchError(f"the demo's audit log is not intact: {verdict.faults[0].text}")
    groups = [alert for alert in alerts if alert["alertType"] == "GROUP_DEGRADED"]
    raised = Counter(alert["alertType"] for alert in alerts if alert["state"] == "raised")
    return DemoResult(rows, dict(sorted(raised.items())), groups, counts, len(received), pending, audit_lines)


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, none if a signal came before it was there."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _watched(journal: Path) -> dict[str, dict[str, str]]:
    """Return the labels of every conversation that was watched, in the order of their first watch records."""
    found: dict[str, dict[str, str]] = {}
    for segment in segments(journal):
        for record in _read(segment):
            if isinstance(watch := record.get("watch"), dict):
                found.setdefault(watch["conversation_id"], {}).update(watch.get("labels", {}))
    return found


def _frames(journal: Path) -> Counter[str]:
    """Count the frames of each conversation in the journal."""
    blocks = [decode_block(segment.read_bytes()) for segment in segments(journal)]
    return Counter(conversation_id for block in blocks for conversation_id in block.ids.texts())
