"""The cards of feeds and receivers: each figure equals what the files and the metrics of the run say."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flows.web import cards
from flows.web.queries import Span
from flows.web.reader import StateReader
from tests.flows.web.test_server import ask, serving
from tests.support.state_dirs import BEGAN, StateDir


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """A feed with 180 frames in 90 s, two of them rejected, and a receiver with seven attempts."""
    made = StateDir(tmp_path / "state")
    made.feed(0, "up")
    made.watch(0, "a", feed="voice-events")
    for number in range(180):
        kind = {"invalid": "x", "reason": "not JSON"} if number in (7, 8) else {"frame": {"event": "e"}}
        made.record(number / 2, **kind)
    made.feed(90, "down")
    made.feed(100, "up")
    made.window(0, "a")
    made.late_window(10, "a", count=2, mean=3000.0, most=4000.0)
    made.late_window(20, "a", count=1, mean=9000.0, most=9000.0)
    raised = made.alert(10, "a", "raised", 1)
    outcomes = ("503 busy", "timeout: no answer within 5 s", "302 moved", "404 Not Found", "200", "204", "200")
    for number, outcome in enumerate(outcomes, 1):
        action = "CALLBACK_DELIVERED" if outcome.startswith("2") else "CALLBACK_FAILED"
        made.attempt(10 + number, raised, action, outcome, number, took_s=number / 10)
    made.outbox(pending=0, dead=0, delivered=1)
    made.record(110, tick=True)
    return made


def found_in(state: StateDir) -> dict[str, Any]:
    reader = StateReader(state.dir, keep_s=86_400.0)
    reader.read_once()
    span = Span("custom", BEGAN - 120, BEGAN + 600, 60)
    found = cards.feeds(reader.model, span, [{"endpoint": "https://qa.example.com"}])
    found |= reader.model.audit.verdict(state.dir / "audit.jsonl")
    reader.stop()
    return found


def test_the_card_of_a_feed_has_its_messages_gaps_and_lags(state: StateDir) -> None:
    """Messages of the span and a second, the rejected among them, gaps of 24 h, and how late late events were."""
    (feed,) = found_in(state)["feeds"]
    assert (feed["messages"], feed["rejected"]) == (180, 2)
    assert sum(per_s * 60 for _, per_s in feed["rate"]) == pytest.approx(180)
    # The last record is 110 s after the beginning of the minute that the first one is in.
    assert feed["messages_per_s"] == pytest.approx((60 + 120 * 10 / 60) / 60)
    assert (feed["gaps_24h"], feed["gap_24h_s"]) == (1, pytest.approx(10))
    assert (feed["event_lag_mean_ms"], feed["event_lag_max_ms"]) == (5000.0, 9000.0)


def test_the_card_of_a_receiver_has_its_answers_by_class(state: StateDir) -> None:
    """Each attempt of the last 24 hours is in its hour under its class; an attempt's time is that of the audit log."""
    found = found_in(state)
    (receiver,) = found["receivers"]
    hours = receiver["hours"]
    assert len(hours) == 24
    assert {after["start"] - before["start"] for before, after in pairwise(hours)} == {3600}
    sums = {name: sum(hour[name] for hour in hours) for name in cards.CLASSES}
    assert sums == {"2xx": 3, "3xx": 1, "4xx": 1, "5xx": 1, "none": 1}
    assert (receiver["sent"], receiver["failed"]) == (3, 4)
    assert (receiver["answer_p50_s"], receiver["answer_p99_s"]) == (0.4, 0.7)
    assert receiver["took_p50_s"] == pytest.approx(6.0)


def test_figures_that_only_the_run_has_come_from_its_metrics(state: StateDir) -> None:
    """Topics, channels, duplicates, requests and the lag of the dataflow; without them the cards stay."""
    text = (
        b'voicewatch_feed_topics{feed="voice-events"} 30.0\nvoicewatch_feed_duplicates_total{feed="voice-events"} 4.0\n'
        b"voicewatch_genesys_requests 12.0\nvoicewatch_journal_lag_seconds 0.5\n"
    )
    with serving(state, metrics=text) as address:
        found = json.loads(ask(address, "/api/feeds")[2])
        assert found["run"] == {"requests": 12.0, "journal_lag_s": 0.5}
        assert found["feeds"][0]["live"] == {"topics": 30.0, "duplicates": 4.0}
    with serving(state) as address:
        assert ask(address, "/feeds")[0] == 200


@pytest.mark.parametrize(
    ("change", "ok"),
    [
        (lambda data: data, True),
        (lambda data: data.replace(b"302 moved", b"200 fine!"), False),
        (lambda data: b"".join(data.splitlines(True)[:2] + data.splitlines(True)[3:]), False),
        (lambda data: b"".join(data.splitlines(True)[:-1]), False),
        (lambda data: data.replace(b'"attempt":7', b'"attempt":8'), False),
    ],
)
def test_the_chain_of_the_audit_log_is_followed(state: StateDir, change: Callable[[bytes], bytes], ok: bool) -> None:
    """A line that was changed or removed is noticed, at the end of the log as well."""
    path = state.dir / "audit.jsonl"
    path.write_bytes(change(path.read_bytes()))
    found = found_in(state)
    assert found["audit_ok"] is ok
    assert found["audit_lines"] == path.read_bytes().count(b"\n")
