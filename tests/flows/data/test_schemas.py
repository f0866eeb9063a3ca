"""The JSON Schemas hold for what the program writes, and refuse what it would never write."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from connectors.errors import ConfigurationError
from connectors.format.records import InvalidFrameError, parse_line
from flows.data.schemas import NAMES, json_schema
from flows.settings.loading import parse_settings
from tests.support.cli import ROOT, several, voicewatch
from tests.support.pages import FILES


def validator(name: str) -> Any:
    schema = json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


RECORDINGS = ("three-minutes", "notifications", "eventbridge", "audiohook", "cases/11-media-records", "cases/12-ice")
CONFIG = """
[alerts]
mos_below = 4.3
genesys_mos_below = 4.8
unwatched = "default"
max_per_minute = 1
[groups]
by = ["queue"]
min_conversations = 1
raise_ratio = 0.01
clear_ratio = 0.005
clear_after_s = 0
inhibit = false
[defaults]
qa_callback_url = "https://qa.example.com/a"
labels = {queue = "support"}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The lines of replays of shipped recordings of every feed, by the name of their schema."""
    out = tmp_path_factory.mktemp("results")
    config = out / "config.toml"
    config.write_text(CONFIG)
    replays: list[list[object]] = [
        ["replay", ROOT / f"tests/data/{name}.jsonl", "--config", config, "--out", out / name] for name in RECORDINGS
    ]
    for call, done in zip(replays, several(replays), strict=True):
        assert done.returncode == 0, (call, done.stderr)
    files = {
        "window": "windows.jsonl",
        "group": "groups.jsonl",
        "alert": "alerts.jsonl",
        "rejected": "rejected.jsonl",
    }
    return {
        name: [line for recording in RECORDINGS for line in lines(out / recording / file)]
        for name, file in files.items()
    }


def lines(path: Path) -> Iterator[Any]:
    return map(json.loads, path.read_text().splitlines())


@pytest.mark.parametrize("name", ["window", "group", "alert", "rejected"])
def test_results_are_valid(results: dict[str, list[Any]], name: str) -> None:
    """Every line of the replays is what its schema says, and has no key that the schema does not know."""
    check, known = validator(name), json_schema(name)["properties"].keys()
    assert results[name]
    for line in results[name]:
        check.validate(line)
        assert line.keys() <= known


def test_results_are_of_every_kind(results: dict[str, list[Any]]) -> None:
    """Legs of windows, alerts of groups, storms, failed calls and Genesys' MOS, and resolves are among the lines."""
    assert any(window["legs"] for window in results["window"] if "legs" in window)
    assert {"PACKET_LOSS_DETECTED", "LOW_MOS", "CALL_FAILED", "GROUP_DEGRADED", "ALERT_STORM"} <= {
        alert["alertType"] for alert in results["alert"]
    }
    assert {alert["state"] for alert in results["alert"]} == {"raised", "resolved"}
    assert any("evidence" in alert for alert in results["alert"])
    assert any("inhibitedBy" in alert for alert in results["alert"])


def test_lines_that_lack_a_key_or_have_a_wrong_value_are_not_valid(results: dict[str, list[Any]]) -> None:
    """Of a written line, every required key is missed, and a text in the place of a number is refused."""
    for name, number in (
        ("window", "frames"),
        ("group", "conversations"),
        ("alert", "timestamp"),
        ("rejected", "line"),
    ):
        check, line = validator(name), results[name][0]
        required = json_schema(name)["required"]
        assert {*required} <= line.keys()
        for key in required:
            assert not check.is_valid({other: value for other, value in line.items() if other != key}), key
        assert not check.is_valid({**line, number: "1"})


@pytest.mark.parametrize("name", ["three-minutes", "audiohook", "notifications"])
def test_records_are_valid_if_the_reader_takes_them(name: str) -> None:
    """The schema and the reader agree about every line of the shipped recordings, the bad ones among them included."""
    check = validator("record")
    valid = 0
    for line in (ROOT / f"tests/data/{name}.jsonl").read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        is_read = True
        try:
            parse_line(line)
        except InvalidFrameError:
            is_read = False
        assert check.is_valid(record) == is_read, line
        valid += is_read
    assert valid > 20


def test_audit_entries_are_valid(tmp_path: Path) -> None:
    """The lines of an audit log, actions from the list included."""
    from connectors.state.audit import AuditLog

    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("FEED_UP", conversation=None, outcome="connected", feed="a")
    log.append("ALERT_RAISED", conversation="c", outcome="raised", rule="LOW_MOS")
    check = validator("audit")
    for line in lines(tmp_path / "audit.jsonl"):
        check.validate(line)


@pytest.mark.parametrize("path", ["docker/compose/voicewatch.toml"])
def test_configurations_are_valid(path: str) -> None:
    """The configurations in the repository."""
    validator("config").validate(tomllib.loads((ROOT / path).read_text()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", {"windows": {"length_s": 0}}),
        ("config", {"windows": {"length": 10}}),
        ("config", {"alerts": {"clear_ratio": 2}}),
        ("config", {"defaults": {"interceptor_address": "qa@example.com"}}),
        ("config", {"defaults": {"qa_callback_url": "qa.example.com"}}),
        ("config", {"defaults": {"channel_matrix": []}}),
        ("config", {"audiohook": {"listen": "8443"}}),
        ("config", {"feed": [{"kind": "eventbridge", "path": "events"}]}),
        ("config", {"state": {"keep_results_days": 0}}),
        ("window", {"conversation_id": "c"}),
        ("alert", {"state": "open"}),
        ("audit", {"action": "OTHER"}),
    ],
)
def test_what_is_wrong_is_refused(name: str, value: Any) -> None:
    """Limits of numbers, unknown keys and missing keys; what the schema of the configuration refuses, `check` does."""
    assert list(validator(name).iter_errors(value))
    if name == "config":
        with pytest.raises(ConfigurationError):
            parse_settings(value, "test")


WATCH = {"conversation_id": "c", "max_latency_ms": 120, "labels": {"queue": "q"}, "default_limits": ["max_latency_ms"]}
FRAME = {"event": "conversation.updated", "entity": {"id": ""}, "timestamp": 1.5, "metrics": {"packetLoss": 0.5}}
VALID = [
    {"tick": True},
    {"tick": True, "arrived_at": 2.5, "via": "support", "other": 1},
    {"frame": FRAME},
    {"frame": {**FRAME, "metrics": None, "more": [1]}},
    {"frame": {**FRAME, "metrics": {"packetLoss": None, "jitter": -3}}},
    {"frame": {"topicName": "channel.metadata"}},
    {"frame": {"detail-type": "x", "detail": {}}},
    {"invalid": "", "reason": "not JSON", "length": 3, "sha256": "0" * 64},
    {"feed": {"name": "a", "state": "down", "reason": None}},
    {"clock": {"step_s": -3600, "reason": "set"}},
    {"watch": {"conversation_id": ""}},
    {"watch": WATCH},
    {"watch": {**WATCH, "codec": None, "leg_id": None, "feed": "support", "last_frame_at": 1e10}},
    {"settings": {}},
    {"settings": {"windows": {"length_s": 60}, "alerts": {"raise_n": 1000, "mos_below": None}}},
    {"settings": {"groups": {"by": ["queue"], "part": [0, 2]}, "limits": [{"match": {"queue": "q"}}]}},
]
INVALID = [
    {},
    {"tick": True, "invalid": "x"},
    {"tick": False},
    {"tick": 1},
    {"invalid": None},
    {"frame": {**FRAME, "timestamp": None}},
    {"frame": {**FRAME, "timestamp": 1e13}},
    {"frame": {**FRAME, "entity": {"id": 7}}},
    {"frame": {**FRAME, "metrics": {"packetLoss": 1.5}}},
    {"frame": {**FRAME, "metrics": {"jitter": "3"}}},
    {"frame": {**FRAME, "event": None}},
    {"frame": {"entity": {"id": "c"}, "timestamp": 1}},
    {"frame": []},
    {"feed": {"name": "a", "state": "lost"}},
    {"feed": {"state": "up"}},
    {"clock": {"reason": "set"}},
    {"watch": {"max_latency_ms": 120}},
    {"watch": {**WATCH, "conversation_id": 7}},
    {"watch": {**WATCH, "max_latency_ms": "120"}},
    {"watch": {**WATCH, "codec": "opus"}},
    {"watch": {**WATCH, "labels": {"Queue": "q"}}},
    {"watch": {**WATCH, "labels": {"queue": ""}}},
    {"watch": {**WATCH, "labels": {"queue": "q" * 129}}},
    {"watch": {**WATCH, "labels": {f"l{number}": "x" for number in range(17)}}},
    {"watch": {**WATCH, "default_limits": ["mos_below"]}},
    {"watch": {**WATCH, "last_frame_at": 1e11}},
    {"settings": {"windows": {"length_s": 0}}},
    {"settings": {"windows": {"length_s": 3601}}},
    {"settings": {"alerts": {"policy": "other"}}},
    {"settings": {"alerts": {"raise_n": 1001}}},
    {"settings": {"alerts": {"clear_ratio": 1.1}}},
    {"settings": {"groups": {"by": ["Queue"]}}},
    {"settings": {"watch": {"forget_after_s": 0}}},
]


@pytest.mark.parametrize("record", VALID)
def test_what_the_reader_takes_is_valid(record: dict[str, Any]) -> None:
    """Every kind of record, with and without what is optional: the schema and the reader of the journal take it."""
    record = {"received_at": 1.5, **record}
    validator("record").validate(record)
    parse_line(json.dumps(record).encode())


@pytest.mark.parametrize("record", INVALID)
def test_what_the_reader_refuses_is_not_valid(record: dict[str, Any]) -> None:
    """Limits, forms and missing keys of every kind: the schema and the reader of the journal refuse it."""
    record = {"received_at": 1.5, **record}
    assert list(validator("record").iter_errors(record))
    with pytest.raises(InvalidFrameError):
        parse_line(json.dumps(record).encode())


@pytest.mark.parametrize("received_at", [None, "1", True, 1e13])
def test_a_record_has_a_time(received_at: Any) -> None:
    """A record without a time in epoch seconds is refused by both."""
    record = {"received_at": received_at, "tick": True}
    assert list(validator("record").iter_errors(record))
    with pytest.raises(InvalidFrameError):
        parse_line(json.dumps(record).encode())


@pytest.mark.parametrize(("key", "low", "high"), [("max_latency_ms", 50, 10_000), ("packet_loss_threshold", 0, 0.1)])
def test_a_watch_has_the_limits_of_the_configuration(key: str, low: float, high: float) -> None:
    """The schema says between which values a configuration lets the limits of a watch be, whatever feed it is of."""
    check = validator("record")
    for value in (low, high):
        check.validate({"received_at": 1, "watch": {"conversation_id": "c", key: value}})
    for value in (low - 0.001, high + 0.001):
        assert list(check.iter_errors({"received_at": 1, "watch": {"conversation_id": "c", key: value}}))
        tables = {"feed": [{"kind": "audiohook", "defaults": {key: value}}]}
        with pytest.raises(ConfigurationError):
            parse_settings(tables, "test")


def test_a_written_watch_is_valid() -> None:
    """The watch of an interceptor has every key of its settings; each is in the schema, with its limits."""
    tables = {
        "feed": [{"kind": "voice-events", "name": "support"}],
        "limits": [{"match": {"queue": "q"}, "max_latency_ms": 90}],
        "interceptor": [
            {
                "conversation_id": "c",
                "leg_id": "l",
                "interceptor_address": "sip:qa@example.com",
                "qa_callback_url": "https://qa.example.com/a",
                "labels": {"queue": "q"},
            }
        ],
    }
    settings = parse_settings(tables, "test")
    watch = settings.watch_of(settings.interceptors[0])
    schema = json_schema("record")
    assert watch.keys() <= schema["$defs"]["WatchSettings"]["properties"].keys()
    check = validator("record")
    check.validate({"received_at": 1, "watch": watch})
    check.validate({"received_at": 1, "settings": settings.flow_record()})
    for key, value in (("audio_sampling_rate", 7999), ("channel_matrix", ["left"]), ("interceptor_address", "qa")):
        assert list(check.iter_errors({"received_at": 1, "watch": {**watch, key: value}}))


def test_limits_of_numbers_are_told() -> None:
    """Editors show the limits that `check` enforces."""
    windows = json_schema("config")["$defs"]["WindowSettings"]["properties"]
    assert windows["length_s"]["minimum"] > 0
    assert windows["length_s"]["maximum"] == 3600


def test_the_command_prints_each_schema() -> None:
    """`voicewatch schema NAME` prints JSON; another name is refused with those that exist."""
    for name in NAMES:
        assert json.loads(voicewatch("schema", name).stdout) == json_schema(name)
    done = voicewatch("schema", "frames")
    assert done.returncode == 2
    assert "config, window, group, alert, record, audit" in done.stderr


def test_a_configuration_may_name_its_schema() -> None:
    """The key `$schema` is for editors; the schema allows it, and the program ignores it."""
    tables = {"$schema": "./voicewatch.schema.json", "windows": {"slide_s": 5}}
    validator("config").validate(tables)
    assert parse_settings(tables, "test").windows.slide_s == 5


def test_every_example_of_the_pages_is_valid() -> None:
    """The schema refuses no configuration that the pages show."""
    check = validator("config")
    for name, text in FILES.items():
        tables = tomllib.loads(text)
        if name not in ("wrong.toml", "faults.toml", "edges.toml") and "fault" not in tables:
            errors = [error.message for error in check.iter_errors(tables)]
            assert errors == [], name
