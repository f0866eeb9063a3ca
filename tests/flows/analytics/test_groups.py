"""Groups: their windows, their incidents, what these inhibit and the cap; against a plain reference, however cut."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest

from flows.analytics.alerts import Alert
from flows.analytics.histograms import bucket_of, middle_us
from tests.support import reference
from tests.support.recordings import blocks_of
from tests.support.reference_groups import groups_of
from tests.support.replay_groups import replay_groups

CONVERSATIONS = [f"c{number}" for number in range(12)]


def group_lines(rng: random.Random, records: int) -> list[bytes]:
    """A recording of conversations with labels, of which one edge or another is bad for a while."""
    time = 1_700_000_000.0
    bad: set[str] = set()
    lines = [_line(time, "settings", _settings(rng))]
    labels = {one: _labels(rng) for one in CONVERSATIONS}
    lines += [_line(time, "watch", _watch(rng, one, labels[one])) for one in CONVERSATIONS]
    for _ in range(records):
        time = round(time + rng.choice([0, 0.05, 0.2, 0.2, 0.5, 1.0, rng.choice([3.0, 12.5, 45.0])]), 3)
        if rng.random() < 0.03:
            bad = {rng.choice(["e1", "e2", "q1"])} if not bad else set()
        kind = rng.choices(["frame", "tick", "watch", "settings", "feed"], [60, 3, 3, 0.5, 0.5])[0]
        one = rng.choice(CONVERSATIONS)
        if kind == "frame":
            is_bad = bool(bad & set(labels[one].values())) and rng.random() < 0.8
            event = rng.choices(["conversation.updated", "conversation.ended"], [60, 1])[0]
            frame: dict[str, Any] = {"event": event, "entity": {"id": one}}
            frame["timestamp"] = time - (rng.uniform(0.16, 0.9) if is_bad else rng.uniform(-0.01, 0.14))
            if rng.random() < 0.8:
                frame["metrics"] = {"packetLoss": round(rng.choice([0.0, 0.001, 0.05 if is_bad else 0.01]), 4)}
            lines.append(_line(time, "frame", frame))
        elif kind == "watch":
            labels[one] |= _labels(rng)
            lines.append(_line(time, "watch", _watch(rng, one, labels[one])))
        elif kind == "settings":
            lines.append(_line(time, "settings", _settings(rng)))
        elif kind == "feed":
            lines.append(_line(time, "feed", {"name": "f", "state": rng.choice(["up", "down"])}))
        else:
            lines.append(_line(time, "tick", True))
    return lines


def _line(time: float, kind: str, value: Any) -> bytes:
    return json.dumps({"received_at": time, kind: value}).encode()


def _labels(rng: random.Random) -> dict[str, str]:
    return {name: rng.choice(values) for name, values in (("queue", ["q1", "q2"]), ("edge", ["e1", "e2", "é"]))}


def _watch(rng: random.Random, one: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"conversation_id": one, "qa_callback_url": "http://a/", "labels": rng.choice([{}, labels, labels])}


def _settings(rng: random.Random) -> dict[str, Any]:
    return {
        "windows": {"length_s": 10, "slide_s": 5},
        "alerts": {
            "policy": rng.choice(["incident", "incident", "frame"]),
            "clear_after_s": rng.choice([0, 2, 10]),
            **rng.choice([{}, {"max_per_minute": rng.choice([1, 3, 8])}]),
            **rng.choice([{}, {"mos_below": 4.3}]),
            **rng.choice([{}, {"stalled_after_s": 7.5}]),
        },
        "groups": {
            "by": rng.choice([["queue", "edge"], ["edge", "queue"], ["edge"], []]),
            "min_conversations": rng.choice([1, 2, 3]),
            "raise_ratio": rng.choice([0.3, 0.5]),
            "clear_ratio": rng.choice([0, 0.15, 0.25]),
            "clear_after_s": rng.choice([0, 5, 12.5]),
            "inhibit": rng.choice([True, True, False]),
            "qa_callback_url": "http://g/",
        },
    }


@pytest.mark.parametrize("seed", range(30))
def test_groups_are_those_of_the_contract(seed: int) -> None:
    """Lines, incidents, what is inhibited and what is sent are the reference's; any cut and restart gives the same."""
    rng = random.Random(seed)
    recording = group_lines(rng, 500)
    whole_lines, whole_alerts = replay_groups([recording], 1, frozenset())
    cuts = sorted(rng.sample(range(len(recording)), 40))
    blocks = blocks_of(recording, cuts)
    stops = frozenset(rng.sample(range(len(blocks)), 10))
    lines, alerts = replay_groups(blocks, rng.choice([1, 3, 4]), stops)
    assert lines == whole_lines
    assert [(alert.body, alert.is_sent) for alert in alerts] == [(alert.body, alert.is_sent) for alert in whole_alerts]
    expected = groups_of(reference.replay(recording))
    found = {key(line): line for line in map(json.loads, lines)}
    assert len(found) == len(lines)
    assert found.keys() == {key(line) for line in expected.lines}
    for line in expected.lines:
        assert_like(found[key(line)], line)
    assert [told(alert, whole_alerts) for alert in whole_alerts] == expected.alerts
    ids = [alert.alert_id for alert in alerts]
    assert len(set(ids)) == len(ids)


def test_the_recordings_hold_every_case() -> None:
    """Groups are raised and resolved, alerts inhibited, resolves sent all the same, and a minute is over its cap."""
    alerts = [
        alert
        for seed in range(30)
        for alert in replay_groups([group_lines(random.Random(seed), 500)], 1, frozenset())[1]
    ]
    bodies = [(alert, json.loads(alert.body)) for alert in alerts]
    assert sum(alert.rule == "GROUP_DEGRADED" and alert.state == "resolved" for alert in alerts) > 10
    assert sum(alert.rule == "ALERT_STORM" for alert in alerts) > 5
    assert any(not alert.is_sent and body["inhibitedBy"] != "rate" for alert, body in bodies)
    assert any(alert.is_sent and alert.state == "resolved" and "inhibitedBy" in body for alert, body in bodies)


def key(line: dict[str, Any]) -> tuple[str, float, float]:
    return (json.dumps(line["group"]), line["start"], line["end"])


def told(alert: Alert, alerts: list[Alert]) -> tuple[Any, ...]:
    """An alert as the reference tells it, with the group in place of the id of its incident."""
    body = json.loads(alert.body)
    if alert.conversation_id is None:
        group = next(iter(body["group"].items())) if "group" in body else None
        return (alert.time, alert.rule, alert.state, group, body["metricValue"])
    by = body.get("inhibitedBy")
    if by not in (None, "rate"):
        [raised] = [one for one in alerts if one.incident_id == by and one.state == "raised"]
        by = next(iter(json.loads(raised.body)["group"].items()))
    return (alert.time, alert.alert_id, by, alert.is_sent)


def assert_like(found: Any, expected: Any, name: str = "") -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected), name
        for each, value in expected.items():
            assert_like(found[each], value, f"{name}.{each}")
    elif name in (".latency_ms.p50", ".latency_ms.p95", ".latency_ms.p99"):
        assert math.isclose(found, expected, rel_tol=0.01, abs_tol=0.001), name
    elif name.endswith("mean"):
        assert math.isclose(found, expected, abs_tol=1e-3 if "mos" in name else 1e-6), name
    else:
        assert found == expected, name


def test_a_bucket_is_within_half_a_percent() -> None:
    """Of every latency, negative ones too."""
    latency_us = np.concatenate([np.arange(-3000.0, 3000.0), np.geomspace(1.0, 1e15, 5000)])
    for latency, bucket in zip(latency_us.tolist(), bucket_of(latency_us).tolist(), strict=True):
        assert abs(middle_us(bucket) - latency) <= 0.00501 * abs(latency)
