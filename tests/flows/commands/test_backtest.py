"""Backtests: each rule set raises, alert for alert, what a replay with its configuration raises."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.errors import UsageError
from connectors.format.decode import decode_block, decode_pieces
from flows.analytics import window_lines
from flows.analytics.precedence import Overrides
from flows.analytics.rule_sets import RuleSets, changes, figures, incidents_of
from flows.analytics.sharing import sharing_key
from flows.commands.backtest import backtest, parse_sweep, rule_sets
from flows.commands.replay import replay
from flows.settings.loading import load_settings
from tests.support.cli import ROOT, voicewatch
from tests.support.recordings import blocks_of, nasty_lines, nasty_overrides, replay_blocks

RECORDING = ROOT / "tests/data/three-minutes.jsonl"
LIMITS = """
[alerts]
clear_after_s = {clear_after_s}
mos_below = 4.1
[windows]
length_s = 20
[defaults]
qa_callback_url = "https://qa.example.com/alerts"
"""


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_each_rule_set_raises_what_it_would_raise_alone(data: st.DataObject) -> None:
    """Sharing one decoding and its windows changes no alert of any rule set, whatever is recorded and however cut."""

    def pick(options: Any) -> Any:
        return options[data.draw(st.integers(0, len(options) - 1))]

    lines = nasty_lines(pick, data.draw(st.integers(0, 30)))
    blocks = blocks_of(lines, [min(place, len(lines)) for place in data.draw(st.lists(st.integers(0, 33), max_size=6))])
    overrides = [nasty_overrides(pick) for _ in range(3)]
    overrides += [with_other_rules(override) for override in overrides]
    together = RuleSets(overrides, 3)
    for number, block in enumerate(blocks):
        pieces = [decoded for _, decoded in decode_pieces(b"".join(line + b"\n" for line in block))]
        together.apply(number, pieces, last=number == len(blocks) - 1)
    for override, alerts in zip(overrides, together.alerts, strict=True):
        assert alerts == replay_blocks(blocks, 3, override).alerts


def with_other_rules(overrides: Overrides) -> Overrides:
    """Return a rule set whose limits and rules differ, and whose windows do not."""
    settings = overrides.settings
    if settings is not None:
        alerts = {**settings.get("alerts", {}), "raise_n": 1, "raise_m": 2, "clear_after_s": 1.5, "clear_ratio": 0.5}
        settings = {**settings, "alerts": alerts}
    other = overrides._replace(settings=settings, defaults={**overrides.defaults, "max_latency_ms": 40})
    assert sharing_key(other) == sharing_key(overrides)
    return other


def test_each_column_is_a_replay_with_that_configuration(tmp_path: Path) -> None:
    """The incidents of a configuration are those of `alerts.jsonl` of a replay with it, ids and times included."""
    configs = []
    for clear_after_s in (1, 25):
        configs.append(tmp_path / f"{clear_after_s}.toml")
        configs[-1].write_text(LIMITS.format(clear_after_s=clear_after_s))
    compared = backtest([RECORDING], rule_sets(configs, [], {}), threading.Event())
    assert compared.names == ["recorded", *map(str, configs)]
    for incidents, config in zip(compared.incidents, [None, *configs], strict=True):
        given_settings = None if config is None else load_settings(config, {})
        out = tmp_path / "out"
        replay(
            [RECORDING],
            out,
            settings=given_settings,
            environ={},
            speed=None,
            deliver=False,
            stop=threading.Event(),
        )
        alerts = [json.loads(line) for line in (out / "alerts.jsonl").read_text().splitlines()]
        raised = [(alert["incidentId"], alert["alertType"]) for alert in alerts if alert["state"] == "raised"]
        assert [(one.incident_id, one.rule) for one in incidents] == raised
        resolved = {alert["incidentId"]: alert["timestamp"] for alert in alerts if alert["state"] == "resolved"}
        assert {one.incident_id: one.ended_at for one in incidents if one.ended_at is not None} == resolved
    assert len({len(incidents) for incidents in compared.incidents}) > 1


def test_a_step_of_the_clock_is_followed(tmp_path: Path) -> None:
    """A journal in which the clock stepped gives the incidents of its replay."""
    watch = {"conversation_id": "c", "leg_id": None, "qa_callback_url": None}
    records: list[dict[str, Any]] = [{"received_at": 5000.0, "watch": watch}]
    for at in (5001.0, 5002.0):
        frame = {"event": "e", "entity": {"id": "c"}, "timestamp": at - 1}
        records.append({"received_at": at, "frame": frame})
    records.append({"received_at": 1402.0, "clock": {"step_s": -3600.0, "reason": "wall clock stepped"}})
    for at in (1403.0, 1420.0):
        frame = {"event": "e", "entity": {"id": "c"}, "timestamp": at}
        records.append({"received_at": at, "frame": frame})
    recording = tmp_path / "stepped.jsonl"
    recording.write_text("".join(json.dumps(record) + "\n" for record in records))
    sets = rule_sets([], ["alerts.clear_after_s=5:5:1"], {})
    compared = backtest([recording], sets, threading.Event())
    out = tmp_path / "out"
    replay([recording], out, settings=None, environ={}, speed=None, deliver=False, stop=threading.Event())
    alerts = [json.loads(line) for line in (out / "alerts.jsonl").read_text().splitlines()]
    assert [alert["state"] for alert in alerts] == ["raised", "resolved"]
    [incident] = compared.incidents[0]
    assert (incident.began_at, incident.ended_at) == (alerts[0]["timestamp"], alerts[1]["timestamp"])


def test_figures_and_differences_of_two_rule_sets() -> None:
    """Counts, minutes, flaps and changes are those that follow from the incidents."""
    compared = backtest([RECORDING], rule_sets([], ["alerts.clear_after_s=0:20:20"], {}), threading.Event())
    short, long = compared.incidents[1], compared.incidents[2]
    lengths = [one.ended_at - one.began_at for one in short if one.ended_at is not None]
    assert figures(short, compared.end).flaps == sum(length < 10 for length in lengths)
    assert figures(short, compared.end).in_alert_min == pytest.approx(sum(lengths) / 60)
    kinds = [change.kind for change in changes(short, long, compared.end)]
    assert kinds.count("vanishes") == len({one.incident_id for one in short} - {one.incident_id for one in long})
    assert "longer" in kinds
    assert changes(short, short, compared.end) == []


def test_an_open_incident_lasts_until_the_end() -> None:
    """An incident that nothing resolves is counted as open, with its length until the last record."""
    lines = [
        (
            b'{"received_at":10,"watch":{"conversation_id":"c","leg_id":null,"max_latency_ms":100,'
            b'"packet_loss_threshold":0.02,"qa_callback_url":null}}'
        ),
        b'{"received_at":12,"frame":{"event":"e","entity":{"id":"c"},"timestamp":11}}',
        b'{"received_at":42,"tick":true}',
    ]
    running = RuleSets([Overrides()], 1)
    running.apply(0, [decode_block(b"\n".join(lines) + b"\n")], last=True)
    [incident] = incidents_of(running.alerts[0])
    assert (incident.began_at, incident.ended_at, incident.value) == (12.0, None, 1000.0)
    assert figures([incident], running.end) == (1, 0.5, 0, 1, 1, 0)


@pytest.mark.parametrize(
    ("alerts", "groups", "sent"),
    [
        ({}, {"by": []}, {"c1", "c2"}),
        ({}, {"by": ["edge"], "inhibit": False}, {"c1", "c2", None}),
        ({}, {"by": ["edge"]}, {"c1", None}),
        ({}, {"by": ["edge"], "qa_callback_url": None}, {"c1"}),
        ({"max_per_minute": 1}, {"by": []}, {"c1"}),
    ],
)
def test_an_alert_that_is_held_back_is_not_sent(
    alerts: dict[str, Any], groups: dict[str, Any], sent: set[str | None]
) -> None:
    """An incident counts as sent if its alert has a URL and neither a group's incident nor the cap holds it back."""
    labels = {"edge": "e1"}
    settings = {
        "windows": {"length_s": 5, "slide_s": 5},
        "alerts": alerts,
        "groups": {"min_conversations": 1, "qa_callback_url": "http://g/", **groups},
    }
    records: list[dict[str, Any]] = [{"received_at": 1200.0, "settings": settings}]
    for name in ("c1", "c2"):
        watch = {"conversation_id": name, "leg_id": None, "qa_callback_url": "http://a/", "labels": labels}
        records.append({"received_at": 1200.0, "watch": watch})
    for at, name in ((1202.0, "c1"), (1207.0, "c2")):
        frame = {"event": "e", "entity": {"id": name}, "timestamp": at - 1}
        records.append({"received_at": at, "frame": frame})
    records.append({"received_at": 1209.0, "tick": True})
    running = RuleSets([Overrides()], 1)
    running.apply(0, [decode_block(b"".join(json.dumps(one).encode() + b"\n" for one in records))], last=True)
    incidents = [one for one in incidents_of(running.alerts[0]) if one.rule != "ALERT_STORM"]
    assert {"c1", "c2"} <= {one.conversation_id for one in incidents}
    assert {one.conversation_id for one in incidents if one.is_sent} == sent
    assert figures(incidents, running.end).sent == len(sent)


@pytest.mark.parametrize(
    "sweep",
    [
        "alerts.raise_n",
        "alerts.raise_n=1",
        "alerts.raise_n=1:2",
        "alerts.raise_n=2:1:1",
        "alerts.raise_n=1:2:0",
        "x=1:2:1",
        "alerts.raise_n=1:2:nan",
        "alerts.raise_n=1:x:1",
        "=1:2:1",
        "alerts.raise_n=1:100000:1",
    ],
)
def test_a_bad_sweep_is_explained(sweep: str) -> None:
    """The text of a sweep that cannot be read is quoted, with the form that it must have."""
    with pytest.raises(UsageError, match=r"^--sweep "):
        parse_sweep(sweep)


def test_sweeps_are_exact() -> None:
    """Decimal steps add up without dust, and both ends are included."""
    assert parse_sweep("defaults.packet_loss_threshold=0.01:0.03:0.005")[1] == [0.01, 0.015, 0.02, 0.025, 0.03]


def test_the_command_compares_and_writes(tmp_path: Path) -> None:
    """The table has a row for each rule set, the JSON every incident, and the page the differences, escaped."""
    page = tmp_path / "page.html"
    hostile = tmp_path / "<b>.toml"
    hostile.write_text(LIMITS.format(clear_after_s=3))
    arguments = ["backtest", str(RECORDING), "--config", str(hostile), "--sweep", "alerts.clear_after_s=0:20:10"]
    table = voicewatch(*arguments, "--page", str(page))
    assert table.returncode == 0, table.stderr
    rows = table.stdout.splitlines()
    assert rows[0].split()[:4] == ["rule", "set", "incidents", "min"]
    assert rows[1].split()[:2] == ["recorded", "13"]
    assert len(rows) == 1 + 5 + 1
    assert "&lt;b&gt;.toml" in page.read_text()
    assert "<b>" not in page.read_text()
    value = json.loads(voicewatch(*arguments, "--json").stdout)
    assert next(one["name"] for one in value["ruleSets"]) == "recorded"
    assert len(value["ruleSets"][0]["incidents"]) == value["ruleSets"][0]["figures"]["incidents"] == 13


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give --config or --sweep"),
        (["--sweep", "alerts.raise_n=0:1:1"], "alerts.raise_n"),
        (["--sweep", "interceptor.leg_id=0:1:1"], "interceptor"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
)
def test_a_backtest_that_cannot_be_made_is_refused(arguments: list[str], expected: str) -> None:
    """The exit code is 2, and one line names the option or the key."""
    done = voicewatch("backtest", str(RECORDING), *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_windows_are_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backtest spends no time on lines of windows, which it does not show."""

    def written(*_: object) -> None:
        raise AssertionError("a line of a window was written")

    monkeypatch.setattr(window_lines, "window_lines", written)
    compared = backtest([RECORDING], rule_sets([], ["alerts.raise_m=1:2:1"], {}), threading.Event())
    assert all(compared.incidents)
