"""Keys of a configuration without an effect are named, and only those."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flows.settings.effects import FOLLOW, MERGE, REPLAY, REPLAY_WITH_DELIVERY, unread_keys, void_keys
from flows.settings.environment import tables_of
from flows.settings.loading import parse_settings
from flows.settings.models import Settings
from tests.support.cli import ROOT, configuration, several

RECORDING = ROOT / "tests/data/three-minutes.jsonl"
PRODUCTION: dict[str, Any] = {
    "genesys": {"base_url": "https://api.mypurecloud.de", "max_concurrent": 7},
    "windows": {"length_s": 20},
    "alerts": {"raise_n": 2, "raise_m": 3, "silence_dbfs": -50, "severity": {"LOW_MOS": "critical"}},
    "delivery": {"timeout_s": 1},
    "state": {"dir": "elsewhere", "keep_hours": 1},
    "defaults": {"max_latency_ms": 250, "interceptor_address": "sip:qa@b", "qa_callback_url": "https://qa.example.com"},
    "watch": {"mode": "discover", "sample": 0.5, "forget_after_s": 3600},
    "privacy": {"keep_raw": True},
    "metrics": {"listen": "127.0.0.1:9464"},
    "groups": {"by": ["queue"], "raise_ratio": 0.5},
    "feed": [{"kind": "voice-events", "name": "support", "stalled_after_s": 5}],
    "interceptor": [{"conversation_id": "c1", "leg_id": "l", "audio_sampling_rate": 8000, "max_latency_ms": 100}],
}
UNREAD_BY_REPLAY = [
    "genesys", "alerts.silence_dbfs", "alerts.severity", "delivery", "state", "defaults.interceptor_address",
    "defaults.qa_callback_url", "watch.mode", "watch.sample", "privacy", "metrics", "interceptor.audio_sampling_rate",
]  # fmt: skip


def keys_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every key of the configuration, as the sets name them."""
    tables = tables_of(Settings)
    for name, field in model.model_fields.items():
        key = f"{path}{field.alias or name}"
        yield key
        inner = tables.get(tuple(key.split(".")))
        if inner is not None:
            yield from keys_of(inner, f"{key}.")


@pytest.mark.parametrize("read", [REPLAY, REPLAY_WITH_DELIVERY, MERGE, FOLLOW])
def test_what_commands_read_exists(read: frozenset[str]) -> None:
    """Each name in the sets is a key of the configuration, so none is left behind when a key is renamed."""
    assert read - set(keys_of(Settings)) == set()


def test_keys_that_a_replay_does_not_read() -> None:
    """A table that it does not read is one name; the callbacks' keys are read where they are delivered."""
    settings = parse_settings(PRODUCTION, "test")
    assert unread_keys(settings, REPLAY) == UNREAD_BY_REPLAY
    of_delivery = {"alerts.severity", "delivery", "defaults.qa_callback_url"}
    assert unread_keys(settings, REPLAY_WITH_DELIVERY) == [key for key in UNREAD_BY_REPLAY if key not in of_delivery]
    assert unread_keys(parse_settings({}, "test"), REPLAY) == []


def without(tables: dict[str, Any], unread: list[str]) -> dict[str, Any]:
    """Return the tables without these keys, as far as the configuration is valid without them."""
    kept = {"defaults.interceptor_address", "defaults.qa_callback_url"}  # an interceptor needs them
    return {
        name: [{key: one[key] for key in one if f"{name}.{key}" not in unread} for one in table]
        if isinstance(table, list)
        else {key: value for key, value in table.items() if f"{name}.{key}" not in set(unread) - kept}
        for name, table in tables.items()
        if name not in unread
    }


def test_each_command_names_what_it_does_not_read(tmp_path: Path) -> None:
    """Replay, backtest and merge name the keys on standard error; without these keys the results are the same."""
    whole = configuration(tmp_path / "whole.toml", PRODUCTION)
    read = configuration(tmp_path / "read.toml", without(PRODUCTION, UNREAD_BY_REPLAY))
    replays = [["replay", RECORDING, "--config", path, "--out", tmp_path / path.stem] for path in (whole, read)]
    sweep = ["backtest", RECORDING, "--sweep", "delivery.timeout_s=1:3:1"]
    unknown = ["backtest", RECORDING, "--sweep", "delivery.timeout=1:3:1"]
    merge = ["merge", tmp_path / "whole", "--out", tmp_path / "merged", "--config", whole]
    done = several([*replays, ["backtest", RECORDING, "--config", whole], sweep, unknown, merge])
    unread = ", ".join(UNREAD_BY_REPLAY)
    assert done[0].stderr == f"note: {whole}: without effect on replay: {unread}\n"
    assert done[1].stderr == (
        f"note: {read}: without effect on replay: defaults.interceptor_address, defaults.qa_callback_url\n"
    )
    for name in ("windows.jsonl", "alerts.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "read" / name).read_bytes() != b""
    assert done[2].stderr == f"note: {whole}: without effect on backtest: {unread}\n"
    assert [each.returncode for each in done[3:5]] == [2, 2]
    assert "delivery.timeout_s has no effect on alerts" in done[3].stderr
    assert "delivery.timeout: unknown key" in done[4].stderr
    assert done[5].stderr.startswith(
        f"note: {whole}: without effect on merge: genesys, windows.length_s, alerts, delivery, "
    )
    assert "groups.by" in done[5].stderr
    assert "shard" not in done[5].stderr


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"watch": {"sample": 0.5, "forget_after_s": 60}}, [("watch.sample", 'watch.mode = "discover"')]),
        ({"groups": {"raise_ratio": 0.5}}, [("groups.raise_ratio", "groups.by")]),
        (
            {"groups": {"qa_callback_url": "https://a.b"}},
            [("groups.qa_callback_url", "groups.by or alerts.max_per_minute")],
        ),
        ({"groups": {"qa_callback_url": "https://a.b"}, "alerts": {"max_per_minute": 9}}, []),
        ({"alerts": {"silent_after_s": 5}}, [("alerts.silent_after_s", "a feed of kind audiohook")]),
        ({"alerts": {"severity": {"LOW_MOS": "critical"}}}, [("alerts.severity", "a [[notify]] table")]),
        ({"web": {"keep_hours": 2}}, [("web.keep_hours", "web.listen")]),
        ({"privacy": {"keep_raw": True}}, [("privacy.keep_raw", "a feed of kind notifications, eventbridge or kafka")]),
        ({"shard": {"index": 0}}, [("shard.index", "shard.count above 1")]),
        (
            {
                "feed": {"kind": "notifications", "queues": ["a"]},
                "defaults": {"audio_sampling_rate": 8000, "labels": {"team": "a"}},
                "genesys": {"max_concurrent": 5, "base_url": "https://api.mypurecloud.de"},
            },
            [
                ("genesys.max_concurrent", "a feed of kind voice-events"),
                ("defaults.audio_sampling_rate", "a feed of kind voice-events"),
            ],
        ),
    ],
)
def test_keys_that_others_make_void(tables: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Each key without an effect is named with what it needs."""
    assert list(void_keys(parse_settings(tables, "test"))) == expected
