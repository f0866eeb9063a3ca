"""The results of several instances together: those of one instance that watches everything."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import UsageError
from connectors.format.owners import Share
from connectors.journal.blocks import Block
from flows.analytics.merge import Merger
from flows.analytics.shard import Shard
from flows.commands.merge import merge
from flows.commands.replay_team import divide
from flows.settings.loading import parse_settings
from tests.flows.analytics.test_groups import group_lines
from tests.flows.data.test_schemas import validator
from tests.support.cli import configuration, voicewatch

GROUPS = {"by": ["queue", "edge"], "min_conversations": 2, "raise_ratio": 0.4, "clear_ratio": 0.2, "clear_after_s": 5}
TABLES: dict[str, Any] = {"windows": {"length_s": 10, "slide_s": 5}, "groups": GROUPS}


def results(directory: Path, lines: list[bytes], share: Share) -> Path:
    """Write what an instance finds in the lines, of which it has its own only."""
    directory.mkdir()
    groups = GROUPS | ({} if share.count == 1 else {"part": [share.index, share.count]})
    settings = {"windows": TABLES["windows"], "alerts": {"clear_after_s": 2}, "groups": groups}
    lines = [json.dumps({"received_at": 1_700_000_000, "settings": settings}).encode(), *lines]
    lines = [own_or_tick(line, share) for line in lines]
    shard, merger = Shard(), Merger(1)
    for number, begin in enumerate(range(0, len(lines), 50)):
        data = b"".join(line + b"\n" for line in lines[begin : begin + 50])
        stats, [parts] = divide(Block(number, "", begin, data), 1)
        merger.add_stats(stats)
        merger.add_results(number, [shard.apply(part) for part in parts])
    merged = merger.results()
    (directory / "journal").mkdir()
    (directory / "journal/00000001.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    kinds = {"windows": "windows", "groups": "groups", "alerts": "alert_lines", "parts": "progress"}
    for name, of in kinds.items():
        (directory / f"{name}.jsonl").write_bytes(b"".join(getattr(result, of) for result in merged))
    return directory


def own_or_tick(line: bytes, share: Share) -> bytes:
    """Return a line, or at its time a tick in place of one about another instance's conversation."""
    record = json.loads(line)
    about = record.get("frame", {}).get("entity", {}).get("id") or record.get("watch", {}).get("conversation_id")
    if about is None or share.owns_text(about):
        return line
    return json.dumps({"received_at": record["received_at"], "tick": True}).encode()


def recorded(seed: int) -> list[bytes]:
    return [line for line in group_lines(random.Random(seed), 600) if b'"settings"' not in line]


@pytest.mark.parametrize("seed", range(6))
def test_the_parts_of_groups_make_the_whole(seed: int, tmp_path: Path) -> None:
    """Windows of conversations and groups are byte for byte those of one instance, and so are incidents of groups."""
    lines = recorded(seed)
    whole = results(tmp_path / "whole", lines, Share(0, 1))
    parts = [results(tmp_path / f"{index}", lines, Share(index, 3)) for index in range(3)]
    merged = merge(parts, tmp_path / "out", parse_settings(TABLES, "", {}))
    assert merged.missing == ()
    for name in ("windows", "groups"):
        assert (tmp_path / "out" / f"{name}.jsonl").read_bytes() == (whole / f"{name}.jsonl").read_bytes()
    alerts, expected = (
        [
            {key: value for key, value in json.loads(line).items() if key != "inhibitedBy"}
            for line in (directory / "alerts.jsonl").read_bytes().splitlines()
        ]
        for directory in (tmp_path / "out", whole)
    )
    assert sorted(map(json.dumps, alerts)) == sorted(map(json.dumps, expected))
    assert [alert["timestamp"] for alert in alerts] == sorted(alert["timestamp"] for alert in alerts)
    check = validator("group")
    for line in (parts[0] / "groups.jsonl").read_bytes().splitlines():
        check.validate(json.loads(line))
    of_parts = b"".join((part / "alerts.jsonl").read_bytes() for part in parts)
    assert b"GROUP_DEGRADED" not in of_parts
    assert seed != 1 or any(alert["alertType"] == "GROUP_DEGRADED" for alert in alerts)


def test_the_configuration_of_all_instances_is_taken(tmp_path: Path) -> None:
    """It need not say which instance it is of: each has its number in the environment."""
    parts = [results(tmp_path / f"{index}", recorded(1), Share(index, 2)) for index in range(2)]
    config = configuration(tmp_path / "instance.toml", {**TABLES, "shard": {"count": 2}})
    done = voicewatch("merge", *parts, "--out", tmp_path / "out", "--config", config)
    assert done.returncode == 0, done.stderr
    assert b"GROUP_DEGRADED" in (tmp_path / "out/alerts.jsonl").read_bytes()
    assert done.stderr == f"note: {config}: without effect on merge: windows.length_s, groups.by\n"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """An instance whose directory was left out is named; whole groups, or no results, are refused."""
    lines = recorded(1)
    parts = [results(tmp_path / f"{index}", lines, Share(index, 3)) for index in range(2)]
    done = voicewatch("merge", *parts, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "no group has a part of instance 2" in done.stdout
    assert b"GROUP_DEGRADED" not in (tmp_path / "out/alerts.jsonl").read_bytes()
    whole = results(tmp_path / "whole", lines, Share(0, 1))
    (tmp_path / "empty").mkdir()
    for source, reason in ((whole, "its groups are whole"), (tmp_path / "empty", "holds no results")):
        done = voicewatch("merge", source, "--out", tmp_path / "other")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert reason in done.stderr
    assert voicewatch("merge", whole, "--out", whole).returncode == 2


def test_an_instance_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    """By one path, by two paths, or as a copy; nothing is written, because its results would be doubled."""
    lines, out = recorded(1), tmp_path / "out"
    first, other, copy = (results(tmp_path / name, lines, Share(n, 2)) for name, n in (("0", 0), ("1", 1), ("copy", 0)))
    (tmp_path / "link").symlink_to(first)
    for again in (first, tmp_path / "1" / ".." / "0", tmp_path / "link", copy):
        with pytest.raises(UsageError, match="is named twice"):
            merge([first, other, again], out, None)
    assert not out.exists()
    done = voicewatch("merge", first, first, "--out", out)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
