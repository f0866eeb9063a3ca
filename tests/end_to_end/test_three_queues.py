"""300 agents on three queues: no call is named, all are found, and labels and groups are those of the calls."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from connectors.format.labels import joined_labels
from connectors.genesys.client import REQUESTS_PER_MINUTE
from connectors.genesys.simulator.call_book import SimulatedCall
from connectors.genesys.simulator.faults import Faults, parse_faults
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running as serving
from connectors.genesys.simulator.voice_events import SimulatorOptions, VoiceEventsSimulator
from connectors.journal.recording import Recording
from connectors.journal.segments import segments
from tests.support.cli import Running, configuration, running, voicewatch
from tests.support.simulators import duplicate_creates

pytestmark = pytest.mark.timeout(300)
DEADLINE_S = 120.0
CALLS = 300
DEFAULT_MS, MAX_LATENCY_MS, MAX_LOSS = 500.0, 1000.0, 0.05
"""The limits of a call before its direction is known, and then; high, as a busy machine delays all calls at once."""
DIRECTIONS = ("inbound", "outbound")
Labels = dict[str, str]


def late(on: str, name: str) -> Faults:
    """Return a fault that delays the calls of an edge or a queue after four seconds."""
    return parse_faults(f'[[fault]]\non = "{on}"\nname = "{name}"\ndo = "latency"\nlatency_ms = 1500\nafter_s = 4')


def config(directory: Path, base_url: str, by: Sequence[str], **tables: Any) -> Path:
    """Write a configuration that names no call."""
    groups = {"min_conversations": 20, "clear_after_s": 2}
    path = configuration(
        directory / "voicewatch.toml",
        {
            "genesys": {"base_url": base_url, "max_concurrent": 1000, "resolve_names": True},
            "windows": {"length_s": 2, "slide_s": 1},
            "watch": {"mode": "discover"},
            "groups": {"by": list(by), **groups},
            "defaults": {
                "interceptor_address": "sip:qa@monitoring.internal",
                "qa_callback_url": "https://qa/",
                "max_latency_ms": DEFAULT_MS,
                "packet_loss_threshold": MAX_LOSS,
            },
            "limits": [
                {"match": {"direction": one}, "max_latency_ms": MAX_LATENCY_MS} for one in ("inbound", "outbound")
            ],
            "state": {"dir": str(directory / "state")},
            **tables,
        },
    )
    assert voicewatch("check", path).returncode == 0
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file."""
    whole = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in whole.splitlines(keepends=True) if line.endswith(b"\n")]


def journal(directory: Path) -> list[dict[str, Any]]:
    """Return the records of the journal."""
    found = segments(directory / "state" / "journal")
    text = b"".join(chunk for one in found for chunk in Recording([one]).chunks(0, 0, 1 << 20))
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def watched(directory: Path) -> dict[str, Labels]:
    """Return the labels that each conversation has in the end."""
    found: dict[str, Labels] = {}
    for watch in (record["watch"] for record in journal(directory) if "watch" in record):
        id_ = watch["conversation_id"]
        found[id_] = joined_labels(found.get(id_, {}), watch.get("labels", {}))
    return found


def raised(directory: Path) -> list[Labels]:
    """Return the groups of the incidents in the results, each once."""
    alerts = lines(directory / "state" / "alerts.jsonl")
    groups = [one["group"] for one in alerts if one["alertType"] == "GROUP_DEGRADED"]
    return [group for at, group in enumerate(groups) if group not in groups[:at]]


def run_twice(directory: Path, path: Path, is_killed: Callable[[], bool], is_done: Callable[[], bool]) -> None:
    """Run, kill -9 at a moment, and run again until all is done."""

    def wait(process: Running, true: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not true():
            assert process.process.poll() is None, process.log
            assert time.monotonic() < end
            time.sleep(0.1)  # reading the journal again and again takes the processor that the run needs

    with running(directory, "run", path) as process:
        wait(process, is_killed)
        process.stop(signal.SIGKILL)
    with running(directory, "run", path) as process:
        wait(process, is_done)
        assert process.stop() == 0, process.log


def check_labels(found: Mapping[str, Labels], calls: Mapping[str, SimulatedCall], names: set[str]) -> None:
    """Compare the labels of each conversation with what its call was; a name may not be known yet."""
    for id_, labels in found.items():
        story = calls[id_].story
        queues = {leg.queue for leg in story.legs if leg.queue is not None}
        agents = {leg.agent for leg in story.legs if leg.agent is not None}
        assert labels["queue"] in {name for queue in queues for name in (queue.name, queue.id)}
        divisions = {queue.division for queue in queues}
        assert labels.get("division") in {None, *(name for one in divisions for name in (one.name, one.id))}
        assert labels.get("agent") in {None, *(name for agent in agents for name in (agent.name, agent.id))}
        assert labels["direction"] == story.direction
        assert labels.get("provider") in {None, story.edge.provider}
        assert labels.get("edge") in {None, story.edge.name}
        assert labels.keys() <= names
    assert is_labelled(found)


def is_labelled(found: Mapping[str, Labels]) -> bool:
    """Return whether half of the calls or more have the labels of an answered one: a kill may cost the event of it."""
    whole = [labels for labels in found.values() if {"queue", "agent", "direction", "provider"} <= labels.keys()]
    return sum(" " in labels["agent"] for labels in whole) > 0.5 * CALLS  # which a name has, and an id has not


def check_groups(directory: Path) -> None:
    """Compare each line of a group with the windows and the incidents of its conversations."""
    members: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for window in lines(directory / "windows.jsonl"):
        for name, value in window["labels"].items():
            members.setdefault((name, value, window["end"]), []).append(window)
    opened: dict[str, list[list[float]]] = {}
    for alert in lines(directory / "alerts.jsonl"):
        id_ = alert["conversationId"]
        if id_ is not None and alert["state"] == "raised":
            opened.setdefault(id_, []).append([alert["timestamp"], float("inf"), hash(alert["incidentId"])])
        elif id_ is not None:
            next(one for one in opened[id_] if one[2] == hash(alert["incidentId"]))[1] = alert["timestamp"]
    found = lines(directory / "groups.jsonl")
    checked = 0
    for line in found:
        [(name, value)], end = line["group"].items(), line["end"]
        windows = members[name, value, end]
        is_open = [any(a < end <= b for a, b, _ in opened.get(one["conversation_id"], [])) for one in windows]
        assert line["conversations"] == len(windows)
        assert line["frames"] == sum(one["frames"] for one in windows)
        latencies = [one["latency_ms"] for one in windows if one["latency_ms"]]
        if not any(DEFAULT_MS < one["max"] <= MAX_LATENCY_MS for one in latencies):
            breaching = [is_breaching(one) or was_open for one, was_open in zip(windows, is_open, strict=True)]
            assert line["breaching"] == sum(breaching), line
            checked += 1
        assert (line["latency_ms"] or {}).get("max") == max((one["max"] for one in latencies), default=None)
    assert checked >= 10
    names = {name for line in found for name in line["group"]}
    assert {key[2:] for key in members if key[0] in names} == {(line["end"],) for line in found}


def is_breaching(window: dict[str, Any]) -> bool:
    """Return whether a frame of the window is above a limit."""
    latency, loss = window["latency_ms"], window["packet_loss"]
    return bool(latency and latency["max"] > MAX_LATENCY_MS) or bool(loss and loss["max"] > MAX_LOSS)


def check_replay(directory: Path) -> None:
    """Compare the results of the runs with those of a replay of their journal."""
    done = voicewatch("replay", *segments(directory / "state" / "journal"), "--out", directory / "replayed")
    assert (done.returncode, lines(directory / "replayed" / "rejected.jsonl")) == (0, []), done.stderr
    end = max(record["received_at"] for record in journal(directory))
    for name in ("windows", "groups", "alerts"):
        live, replayed = (directory / place / f"{name}.jsonl" for place in ("state", "replayed"))
        closed = [line for line in replayed.read_bytes().splitlines() if json.loads(line).get("end", end) <= end]
        assert closed == live.read_bytes().splitlines(), name


def without_details(simulator: NotificationsSimulator) -> set[str]:
    """Return the calls in progress of which no connected channel has the details."""
    topics = {topic for channel in simulator.connected for topic in channel.topics}
    calls = {call.id for call in simulator.traffic.book.in_progress()}
    return {id_ for id_ in calls if f"v2.detail.events.conversation.{id_}.user.start" not in topics}


def test_voice_events(tmp_path: Path) -> None:
    """All calls get one interceptor within the request budget; the edge that fails is the one incident of an edge."""
    faults = late("edge", "edge-frankfurt-2")
    options = SimulatorOptions(conversations=CALLS, rate=1, seed=3, faults=faults)
    simulator = VoiceEventsSimulator(options)
    edge = {"edge": "edge-frankfurt-2"}
    with serving(simulator):
        path = config(tmp_path, simulator.base_url, ("queue", "edge"))
        started = time.monotonic()
        first = {call.id for call in simulator.traffic.book.calls}
        run_twice(
            tmp_path,
            path,
            lambda: len(simulator.created) >= 100,
            lambda: len(simulator.created) >= 290 and edge in raised(tmp_path) and is_labelled(watched(tmp_path)),
        )
        assert duplicate_creates(simulator) == 0
        assert time.monotonic() - started > 60 or len(simulator.created) <= 2 * REQUESTS_PER_MINUTE
        calls = {call.id: call for call in simulator.traffic.book.calls}
    found = watched(tmp_path)
    assert len(first & found.keys()) >= 290  # a call may have ended before its turn, or at the kill
    names = {"queue", "agent", "division", "edge", "provider", "direction", "region"}
    check_labels(found, calls, names)
    assert {labels["edge"] for labels in found.values()} == {
        one.name for one in simulator.traffic.book.organisation.edges
    }
    assert [group for group in raised(tmp_path) if "edge" in group] == [edge]
    check_groups(tmp_path / "state")
    check_replay(tmp_path)


def test_notifications(tmp_path: Path) -> None:
    """Named queues are enough: the calls are subscribed on channels of at most 1,000 topics, within the budget."""
    simulator = NotificationsSimulator(conversations=CALLS, rate=1, seed=3, faults=late("queue", "Sales"))
    group, names = {"queue": "Sales"}, {"queue", "agent", "division", "provider", "direction"}
    feed = {"kind": "notifications", "name": "desk", "queues": ["Support", "Sales", "Billing"]}
    with serving(simulator):
        path = config(tmp_path, simulator.base_url, ("queue",), feed=[feed])
        run_twice(
            tmp_path,
            path,
            lambda: len(simulator.channels) >= 3,
            lambda: not without_details(simulator) and group in raised(tmp_path) and is_labelled(watched(tmp_path)),
        )
        assert sum(simulator.requests.values()) < REQUESTS_PER_MINUTE
        assert max(len(channel.topics) for channel in simulator.channels.values()) <= 1000
        calls = {call.id: call for call in simulator.traffic.book.calls}
    found = watched(tmp_path)
    assert len(found) >= CALLS
    check_labels(found, calls, names)
    assert raised(tmp_path) == [group]
    check_groups(tmp_path / "state")
    check_replay(tmp_path)
