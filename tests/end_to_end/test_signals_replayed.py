"""One run with media records, failures, audio levels, late and platform events, killed on the way: as its replay."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.genesys.feeds.audiohook.api_keys import SECRETS_VARIABLE
from connectors.genesys.simulator.audiohook import calling
from connectors.genesys.simulator.eventbridge import event_of
from connectors.genesys.simulator.faults import parse_faults
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running as serving
from connectors.genesys.simulator.telephony import ORGANISATION_ID, operational_event
from connectors.journal.segments import segments
from tests.support.callbacks import eventually
from tests.support.cli import Running, configuration, running, voicewatch

pytestmark = pytest.mark.timeout(300)
DEADLINE_S = 120.0
KEY, SECRET = "key-of-the-connection", b"0123456789abcdef0123456789abcdef"
PLAYED_S = 400
LOW_MOS = '[[fault]]\non = "edge"\nname = "edge-frankfurt-1"\ndo = "low-mos"\nmos = 2.82\n'
ONE_WAY = '[[fault]]\non = "provider"\nname = "Edge"\ndo = "one-way"\n'
ONE_WAY += ONE_WAY.replace('"Edge"', '"PureCloud Voice - AWS"')
EDGE = "0c0ffee0-0000-4000-8000-00000000000e"
CODE = "error.ininedgecontrol.connection.webrtc.endpoint.disconnect.iceIdleDetection"
RULES = {"CALL_FAILED", "LOW_MOS", "ONE_WAY_AUDIO", "PLATFORM_EVENT"}


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def config(directory: Path, base_url: str, events: int, audio: int) -> Path:
    """Write a configuration with a feed of each kind that has signals."""
    edge = f"v2.telephony.providers.edges.{EDGE}"
    topics = [f"v2.operations.events.{ORGANISATION_ID}", edge]
    feeds = [
        {"kind": "notifications", "topics": topics, "sweep": True},
        {"kind": "eventbridge", "listen": f"127.0.0.1:{events}", "key_env": "EVENTS_KEY"},
        {"kind": "audiohook"},
    ]
    tables: dict[str, Any] = {
        "genesys": {"base_url": base_url},
        "windows": {"length_s": 2, "slide_s": 1},
        "alerts": {"genesys_mos_below": 3.5, "silent_after_s": 1, "trunk_mismatch_above": 5},
        "audiohook": {"listen": f"127.0.0.1:{audio}", "path": "/audiohook", "api_keys": ["bench"]},
        "state": {"dir": str(directory / "state")},
        "feed": feeds,
    }
    return configuration(directory / "voicewatch.toml", tables)


def played() -> NotificationsSimulator:
    """Return a simulator whose calls have ended, as analytics tells them."""
    faults = parse_faults(LOW_MOS)
    simulator = NotificationsSimulator(conversations=6, rate=1, faults=faults, calls=False, analytics_after_s=0.0)
    for _ in itertools.islice(simulator.traffic.frames(time.time() - PLAYED_S - 1), PLAYED_S * 6):
        pass
    return simulator


def bus_events(now: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of a call that fails, with one that is late, and those of the platform."""
    call, user = "cccccccc-0000-4000-8000-000000000001", "u-1"
    body = {"conversationId": call, "mediaType": "VOICE", "sessionId": "s-1", "userId": user}
    topic = f"v2.detail.events.conversation.{call}"
    yield f"{topic}.customer.start", {**body, "eventTime": round(now * 1000)}
    yield f"{topic}.user.start", {**body, "eventTime": round((now - 60) * 1000)}
    agent = {"id": "p-a", "purpose": "agent", "state": "terminated", "user": {"id": user}, "errorInfo": {"code": CODE}}
    customer = {"id": "p-c", "purpose": "customer", "state": "connected"}
    yield f"v2.users.{user}.conversations.calls", {"id": call, "participants": [agent, customer]}
    yield operational_event("AUDIOHOOK-0002", now)
    yield f"v2.telephony.providers.edges.{EDGE}", {"id": EDGE, "onlineStatus": "OFFLINE"}
    trunk = {"trunk": {"id": "t-1"}, "qos": {"mismatchCount": 9}}
    yield "v2.telephony.providers.edges.trunks.t-1.metrics", trunk


@contextmanager
def posted(port: int) -> Iterator[Callable[[Running], None]]:
    """Yield a function that posts the events of the bus to a run, each until it is acknowledged."""
    with httpx.Client(headers={"X-Api-Key": KEY}, timeout=DEADLINE_S) as client:

        def post(process: Running) -> None:
            for event in (event_of(one, time.time()) for one in bus_events(time.time())):
                eventually(partial(is_taken, client, port, event, process), DEADLINE_S)

        yield post


def is_taken(client: httpx.Client, port: int, event: dict[str, Any], process: Running) -> bool:
    """Post an event; return whether it was acknowledged. Fail if the run has ended."""
    assert process.process.poll() is None, process.log
    try:
        return client.post(f"http://127.0.0.1:{port}/events", json=event).status_code == 200
    except httpx.TransportError:
        return False


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def test_all_signals_replay_byte_for_byte(tmp_path: Path) -> None:
    """Legs, low MOS, a failure, one-way audio, an operational event, an edge, a trunk and a late event."""
    events, audio = free_ports(2)
    variables: dict[str, str | None] = {"EVENTS_KEY": KEY, SECRETS_VARIABLE: f"bench={b64encode(SECRET).decode()}"}
    url = f"ws://127.0.0.1:{audio}/audiohook"
    state = tmp_path / "state"
    alerts = state / "alerts.jsonl"
    with (
        serving(played()) as simulator,
        posted(events) as post,
        calling(url, "bench", SECRET, seed=5, conversations=3, faults=parse_faults(ONE_WAY)),
    ):
        path = config(tmp_path, simulator.base_url, events, audio)
        with running(tmp_path, "run", path, **variables) as process:
            post(process)

            def operations() -> bool:
                simulator.publish(*operational_event("AUDIOHOOK-0001", time.time()))
                return kinds() >= RULES

            def kinds() -> set[str]:
                return {one["alertType"] for one in lines(alerts)}

            eventually(lambda: operations() or process.process.poll() is not None, DEADLINE_S)
            assert process.stop(signal.SIGKILL) == -signal.SIGKILL, process.log
        before = len(lines(alerts))
        with running(tmp_path, "run", path, **variables) as process:
            online = {"id": EDGE, "onlineStatus": "ONLINE"}
            topic = f"v2.telephony.providers.edges.{EDGE}"

            def is_over() -> bool:
                simulator.publish(topic, online)
                return any(edge_state(one) == "resolved" for one in lines(alerts)[before:])

            eventually(lambda: is_over() or process.process.poll() is not None, DEADLINE_S)
            assert process.stop() == 0, process.log
    found = lines(alerts)
    events_of_platform = {one["evidence"]["event"] for one in found if one["alertType"] == "PLATFORM_EVENT"}
    assert events_of_platform >= {"AUDIOHOOK-0001", "AUDIOHOOK-0002", "edge.onlineStatus", "trunk.qos.mismatchCount"}
    windows = lines(state / "windows.jsonl")
    assert any(leg["genesys_mos"]["min"] == 2.82 for one in windows for leg in one.get("legs", []))
    [lag] = {one["event_lag_ms"]["max"] for one in windows if "event_lag_ms" in one}
    assert lag > 60_000
    assert not [one for one in found if one["alertType"] == "LATENCY_THRESHOLD_EXCEEDED" and one["metricValue"] > 5e4]
    journal = segments(state / "journal")
    end = max(json.loads(line)["received_at"] for one in journal for line in one.read_bytes().splitlines())
    for workers in ("1", "2"):
        out = tmp_path / f"replayed-{workers}"
        done = voicewatch("replay", *journal, "--out", out, "--processes", workers)
        assert (done.returncode, lines(out / "rejected.jsonl")) == (0, []), done.stderr
        assert (out / "alerts.jsonl").read_bytes() == alerts.read_bytes()
        replayed = (out / "windows.jsonl").read_bytes().splitlines()
        closed = [line for line in replayed if json.loads(line)["end"] <= end]
        assert closed == (state / "windows.jsonl").read_bytes().splitlines()


def edge_state(alert: dict[str, Any]) -> str | None:
    """Return the state of an alert of an edge."""
    is_edge = alert["alertType"] == "PLATFORM_EVENT" and alert["evidence"]["event"] == "edge.onlineStatus"
    return str(alert["state"]) if is_edge else None
