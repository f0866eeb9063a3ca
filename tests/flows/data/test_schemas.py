"""The JSON Schemas hold for what the program writes, and refuse what it would never write."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flows.data.schemas import NAMES, json_schema
from flows.settings.loading import parse_settings
from tests.support.cli import ROOT, voicewatch
from tests.support.pages import FILES


def validator(name: str) -> Any:
    schema = json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a replay of the shipped recordings, callbacks and audit log included."""
    out = tmp_path_factory.mktemp("results")
    config = out / "config.toml"
    config.write_text(
        '[alerts]\nmos_below = 4.3\nunwatched = "default"\n[defaults]\nqa_callback_url = "https://qa.example.com/a"\n'
    )
    recording = ROOT / "tests/data/three-minutes.jsonl"
    done = voicewatch("replay", recording, "--config", config, "--out", out / "replayed")
    assert done.returncode == 0, done.stderr
    return out / "replayed"


def lines(path: Path) -> Iterator[Any]:
    return map(json.loads, path.read_text().splitlines())


@pytest.mark.parametrize(("name", "file"), [("window", "windows.jsonl"), ("alert", "alerts.jsonl")])
def test_results_are_valid(results: Path, name: str, file: str) -> None:
    """Every line of a replay is what its schema says."""
    check = validator(name)
    found = list(lines(results / file))
    assert found
    for line in found:
        check.validate(line)


def test_groups_are_valid(results: Path) -> None:
    """Every line of groups.jsonl is what its schema says; the contract's example is, too."""
    check = validator("group")
    path = results / "groups.jsonl"
    for line in lines(path) if path.exists() else []:
        check.validate(line)
    check.validate(
        {
            "group": {"queue": "support"},
            "start": 1.0,
            "end": 11.0,
            "conversations": 5,
            "breaching": 2,
            "frames": 100,
            "latency_ms": None,
            "packet_loss": {"count": 100, "mean": 0.01, "max": 0.1},
            "mos": None,
        }
    )


@pytest.mark.parametrize("name", ["three-minutes", "audiohook"])
def test_journal_records_are_valid(name: str) -> None:
    """Every record of the shipped recordings is what its schema says; their damaged lines are not JSON."""
    check = validator("record")
    valid = 0
    for line in (ROOT / f"tests/data/{name}.jsonl").read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        check.validate(record)
        valid += 1
    assert valid > 100


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
        ("record", {"received_at": 1}),
        ("record", {"received_at": 1, "tick": True, "invalid": "x"}),
        ("audit", {"action": "OTHER"}),
    ],
)
def test_what_is_wrong_is_refused(name: str, value: Any) -> None:
    """Limits of numbers, unknown keys of the configuration, missing keys, two kinds in one record."""
    assert list(validator(name).iter_errors(value))


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
