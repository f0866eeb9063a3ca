"""Calls that no configuration names: found, watched within the limits, and never given two interceptors."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from connectors.genesys.feeds.base import is_sampled
from connectors.genesys.simulator.connection import Answer
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.organisation import FIRST_QUEUE_ID
from connectors.genesys.simulator.server import running as running_sim
from connectors.genesys.simulator.voice_events import running_simulator
from tests.support.cli import configuration, running, voicewatch
from tests.support.simulators import duplicate_creates
from tests.support.tape import until


def config(directory: Path, base_url: str, *, max_concurrent: int = 50, **watch: Any) -> Path:
    """A configuration without a conversation."""
    return configuration(
        directory / "voicewatch.toml",
        {
            "genesys": {"base_url": base_url, "max_concurrent": max_concurrent},
            "state": {"dir": str(directory / "state")},
            "watch": {"mode": "discover", **watch},
            "defaults": {
                "interceptor_address": "sip:qa@monitoring.internal",
                "qa_callback_url": "http://127.0.0.1:9/x",
            },
        },
    )


def records(directory: Path) -> list[dict[str, Any]]:
    """The records of the journal."""
    return [
        json.loads(line)
        for path in sorted((directory / "state" / "journal").glob("*.jsonl"))
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def watched(directory: Path) -> list[str]:
    """The conversations with a watch record, in order, without those that heads of segments repeat."""
    found = (record["watch"]["conversation_id"] for record in records(directory) if "watch" in record)
    return list(dict.fromkeys(found))


def audited(directory: Path) -> list[dict[str, Any]]:
    """The entries of the audit log."""
    return [json.loads(line) for line in (directory / "state" / "audit.jsonl").read_bytes().splitlines()]


def test_calls_are_found_and_no_interceptor_is_created_twice_across_kills(tmp_path: Path) -> None:
    """A run without a conversation in its configuration watches the calls, killed at any moment or not."""
    with running_simulator(conversations=8, rate=5, wait_for_subscriber=False) as simulator:
        path = config(tmp_path, simulator.base_url)
        for created in (1, 4, 8):
            with running(tmp_path, "run", path) as process:
                simulator.wait_for(lambda s, wanted=created: len(s.created) >= wanted, 60)  # type: ignore[misc]
                process.stop(signal.SIGKILL)
        with running(tmp_path, "run", path) as process:
            process.wait_for_log("feed_changed")
            # Each kill may cost the one call whose create was in progress, if that is over before the next start.
            until(lambda: len(_missed(tmp_path, {one.conversation_id for one in simulator.created})) <= 3)
            assert process.stop() == 0
        ids = {one.conversation_id for one in simulator.created}
        assert duplicate_creates(simulator) == 0
        assert len(ids) >= 8
    assert not any(line.startswith("0 frames of") for line in process.output.splitlines())


def test_found_calls_have_the_labels_of_the_load_check(tmp_path: Path) -> None:
    """Queue, edge and so on come with the first watch, or soon after a call was found by its frames alone."""
    with running_simulator(conversations=6, rate=5) as simulator:
        path = config(tmp_path, simulator.base_url)
        match = '{"direction": "inbound"}'
        with running(tmp_path, "run", path, VOICEWATCH_WATCH__MATCH=match) as process:
            book = simulator.traffic.book
            wanted = {call.id for call in book.calls if call.story.direction == "inbound"}
            until(lambda: wanted <= set(watched(tmp_path)))
            assert process.stop() == 0
            calls = {call.id: call for call in book.calls}
    for record in (r["watch"] for r in records(tmp_path) if "watch" in r):
        labels, call = record["labels"], calls[record["conversation_id"]]
        assert labels["direction"] == "inbound"
        assert labels["edge"] == call.story.edge.name
        assert labels["provider"] == call.story.edge.provider
        assert labels["queue"] in ("Support", "Sales", "Billing")
        assert labels["division"] in ("Home", "North")


def test_what_is_not_watched_is_counted_by_reason(tmp_path: Path) -> None:
    """Only sampled calls are watched, at most `max`; the first of each reason is audited, the summary counts all."""
    with running_simulator(conversations=12, rate=5, wait_for_subscriber=False) as simulator:
        path = config(tmp_path, simulator.base_url, sample=0.5, max=2)
        with running(tmp_path, "run", path) as process:
            until(lambda: len(simulator.created) >= 2 and _reasons(tmp_path) == {"sample", "max"})
            assert process.stop() == 0
        assert len(simulator.created) == 2
        assert all(is_sampled(one.conversation_id, 0.5) for one in simulator.created)
    [summary] = [line for line in process.output.splitlines() if line.startswith("calls found and not watched: ")]
    counts = dict(part.split() for part in summary.partition(": ")[2].split(", "))
    assert set(counts) == {"sample", "max"}
    assert sum(map(int, counts.values())) >= 10
    output = process.output.splitlines()
    assert (
        "discover: interceptors are created for all calls, a share of 0.5 of them, at most 2 at a time"
        in process.output
    )
    assert "interceptors created for calls found: 2" in output
    assert not any(line.startswith("0 created") for line in output)
    assert "calls_found" in process.log


def test_labels_of_the_defaults_count_in_the_choice(tmp_path: Path) -> None:
    """A label that all calls have from `[defaults]` matches, beside those of the load check."""
    with running_simulator(conversations=4, rate=5) as simulator:
        path = config(tmp_path, simulator.base_url)
        match = '{"site": "north", "direction": ["inbound", "outbound"]}'
        labels = '{"site": "north"}'
        options = {"VOICEWATCH_WATCH__MATCH": match, "VOICEWATCH_DEFAULTS__LABELS": labels}
        with running(tmp_path, "run", path, **options) as process:
            until(lambda: len(watched(tmp_path)) >= 4)
            assert process.stop() == 0


def test_a_call_whose_end_came_too_early_is_watched_again(tmp_path: Path) -> None:
    """An end that newer frames have overtaken ends the watch; the call gets another one, and no second interceptor."""
    with running_simulator(conversations=1, rate=5) as simulator:
        path = config(tmp_path, simulator.base_url)
        with running(tmp_path, "run", path) as process:
            until(lambda: watched(tmp_path))
            [id_] = watched(tmp_path)
            end = {"event": "conversation.ended", "entity": {"id": id_}, "timestamp": 1.0}
            simulator.send_text(json.dumps(end))
            until(lambda: {"watch", "frame"} <= set(_kinds_after_end(tmp_path, id_)))
            assert process.stop() == 0, process.log
        assert duplicate_creates(simulator) == 0


def test_saturation(tmp_path: Path) -> None:
    """While as many calls as allowed are in progress, no interceptor is created, and the audit log says so."""
    with running_simulator(conversations=5, rate=5, wait_for_subscriber=False) as simulator:
        path = config(tmp_path, simulator.base_url, max_concurrent=3)
        with running(tmp_path, "run", path) as process:
            until(lambda: _reasons(tmp_path) == {"max_concurrent"})
            assert process.stop() == 0
        assert simulator.created == []
    loads = [line for line in audited(tmp_path) if line["action"] == "INTERCEPTOR_VALIDATION"]
    assert loads  # one check, or several on a busy machine, when one of the calls may be over
    assert {(line["outcome"], line["max_concurrent"]) for line in loads} == {("refused", 3)}
    assert all(3 <= line["active_load"] <= 5 for line in loads)


def test_what_discovery_needs_is_said(tmp_path: Path) -> None:
    """One line for each key that is missing, and for a label that cannot be."""
    path = configuration(tmp_path / "v.toml", {"watch": {"mode": "discover", "sample": 2}})
    done = voicewatch("check", path)
    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert "defaults.interceptor_address" in said
    assert "defaults.qa_callback_url" in said
    assert "watch.sample" in said


def _missed(directory: Path, ids: set[str]) -> set[str]:
    """The conversations with an interceptor that are neither watched nor reported."""
    reported = {line["conversation"] for line in audited(directory) if line["action"] == "INTERCEPTOR_FAILED"}
    return ids - set(watched(directory)) - reported


def _kinds_after_end(directory: Path, id_: str) -> list[str]:
    """The kinds of the records about a conversation that come after the end with the time 1.0."""
    kinds: list[str] | None = None
    for record in records(directory):
        frame = record.get("frame", {})
        if frame.get("timestamp") == 1.0:
            kinds = []
        elif kinds is not None and id_ in (
            frame.get("entity", {}).get("id"),
            record.get("watch", {}).get("conversation_id"),
        ):
            kinds.append("watch" if "watch" in record else "frame")
    return kinds or []


def _reasons(directory: Path) -> set[str]:
    path = directory / "state" / "audit.jsonl"
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return {line["outcome"] for line in lines if line["action"] == "CONVERSATION_NOT_WATCHED"}


def notifications(directory: Path, base_url: str, **feed: Any) -> Path:
    """A configuration with a notifications feed that names queues."""
    path = configuration(
        directory / "voicewatch.toml",
        {
            "genesys": {"base_url": base_url},
            "state": {"dir": str(directory / "state")},
            "watch": {"mode": "discover"},
            "feed": [{"kind": "notifications", "name": "support", **feed}],
        },
    )
    path.write_text(path.read_text().replace('"[', "[").replace(']"', "]").replace('\\"', '"'))
    return path


def test_calls_of_a_named_queue_are_found_while_they_go_on(tmp_path: Path) -> None:
    """A queue is named, not its id; calls in progress at the start are watched, and their details are subscribed."""
    with running_sim(NotificationsSimulator(conversations=8, rate=5)) as simulator:
        path = notifications(tmp_path, simulator.base_url, queues='["Support", "Nowhere at all"]')
        with running(tmp_path, "run", path) as process:
            process.wait_for_log("feed_changed")
            until(lambda: len(watched(tmp_path)) >= 3)
            until(lambda: any(".customer." in topic for channel in simulator.connected for topic in channel.topics))
            assert simulator.requests["activity"] >= 1
            assert process.stop() == 0, process.log
        topics = {topic for channel in simulator.channels.values() for topic in channel.topics}
    assert f"v2.routing.queues.{FIRST_QUEUE_ID}.conversations.calls" in topics
    refused = [line for line in audited(tmp_path) if line["action"] == "TOPIC_REFUSED"]
    assert [(line["topic"], line["outcome"]) for line in refused] == [
        ("queue Nowhere at all", "no queue has this name")
    ]
    labels = [record["watch"]["labels"] for record in records(tmp_path) if "watch" in record]
    assert {one.get("queue") for one in labels} >= {FIRST_QUEUE_ID}


def test_labels_hold_names_and_calls_are_chosen_by_them(tmp_path: Path) -> None:
    """With resolve_names, calls of a queue are chosen by its name, labels name agents, and the names are kept."""
    with running_sim(NotificationsSimulator(conversations=8, rate=5)) as simulator:
        path = notifications(tmp_path, simulator.base_url, queues='["Support", "Sales"]')
        options = {"VOICEWATCH_GENESYS__RESOLVE_NAMES": "true", "VOICEWATCH_WATCH__MATCH": '{"queue": "Support"}'}
        names = {agent.name for agent in simulator.traffic.book.organisation.agents}
        with running(tmp_path, "run", path, **options) as process:
            until(lambda: any(one.get("agent") in names for one in _labels(tmp_path)))
            assert process.stop() == 0, process.log
    assert {one["queue"] for one in _labels(tmp_path)} == {"Support"}
    assert FIRST_QUEUE_ID in (tmp_path / "state" / "names.json").read_text()


def test_edges_are_asked_for_where_groups_are_made_by_them(tmp_path: Path) -> None:
    """Notifications name no edge: analytics is asked once for each call, and the label has the edge's name."""
    with running_sim(NotificationsSimulator(conversations=6, rate=5)) as simulator:
        path = notifications(tmp_path, simulator.base_url, queues='["Support", "Sales", "Billing"]')
        options = {"VOICEWATCH_GENESYS__RESOLVE_NAMES": "true", "VOICEWATCH_GROUPS__BY": '["edge"]'}
        with running(tmp_path, "run", path, **options) as process:
            until(lambda: len(_with_edge(tmp_path)) >= 6)
            assert process.stop() == 0, process.log
        edges = {call.id: call.story.edge.name for call in simulator.traffic.book.calls}
        assert simulator.requests["details"] <= len(watched(tmp_path))
    assert all(edges[id_] == edge for id_, edge in _with_edge(tmp_path).items())


def test_edges_that_may_not_be_asked_for_are_one_warning(tmp_path: Path) -> None:
    """After a 403 no edge is asked for again, and the calls are watched all the same."""
    with running_sim(NotificationsSimulator(conversations=6, rate=5)) as simulator:
        path = notifications(tmp_path, simulator.base_url, queues='["Support", "Sales", "Billing"]')
        simulator.script("details", Answer(403, {"message": "no", "code": "missing.permissions", "status": 403}))
        with running(tmp_path, "run", path, VOICEWATCH_GROUPS__BY='["edge"]') as process:
            process.wait_for_log("edges_not_permitted")
            until(lambda: len(watched(tmp_path)) >= 6)
            assert process.stop() == 0, process.log
        assert simulator.requests["details"] == 1
    assert process.log.count("edges_not_permitted") == 1


def _with_edge(directory: Path) -> dict[str, str]:
    """The edge of each conversation that has one, by name."""
    found = (record["watch"] for record in records(directory) if "watch" in record)
    edges = {one["conversation_id"]: one["labels"]["edge"] for one in found if "edge" in one.get("labels", {})}
    return {id_: edge for id_, edge in edges.items() if edge.startswith("edge-")}


def _labels(directory: Path) -> list[dict[str, str]]:
    return [record["watch"]["labels"] for record in records(directory) if record.get("watch", {}).get("labels")]
