"""The recording that ships with the project: reproducible, and with one of everything in it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.sample import record

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "tests/data/three-minutes.jsonl"
START = 1_767_225_600.0


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    found = []
    for line in SHIPPED.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            found.append({"bad": line})
    return found


def frames(records: list[dict[str, Any]]) -> list[tuple[float, str, dict[str, Any], float, float]]:
    """Each frame's seconds since the start, conversation, itself, latency in seconds and loss."""
    return [
        (
            r["received_at"] - START,
            r["frame"]["entity"]["id"],
            r["frame"],
            r["received_at"] - r["frame"]["timestamp"],
            r["frame"].get("metrics", {}).get("packetLoss", 0.0),
        )
        for r in records
        if "frame" in r
    ]


def test_the_readme_command_makes_the_shipped_file_byte_for_byte(tmp_path: Path) -> None:
    """What tests/data/README.md says, run elsewhere, gives the same bytes."""
    line = next(x for x in (SHIPPED.parent / "README.md").read_text().splitlines() if x.startswith("    python -c"))
    (tmp_path / "tests/data").mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "tests/data" / SHIPPED.name).read_bytes() == SHIPPED.read_bytes()
    assert SHIPPED.stat().st_size < 700_000


def test_records_are_in_order_with_settings_first_and_a_tick_each_second(records: list[dict[str, Any]]) -> None:
    """`received_at` never falls, and every record but the cut line has exactly one content."""
    whole = [r for r in records if "bad" not in r]
    assert len(records) - len(whole) == 1
    assert all(a["received_at"] <= b["received_at"] for a, b in pairwise(whole))
    assert list(whole[0]) == ["received_at", "settings"]
    assert [r["received_at"] for r in whole if "tick" in r] == [START + n for n in range(1, 181)]
    contents = ["frame", "invalid", "tick", "feed", "watch", "settings"]
    assert all(len(set(contents) & set(r)) == 1 for r in whole)
    assert Counter(key for r in whole for key in r if key in ("invalid", "reason")) == {"invalid": 4, "reason": 4}


def test_the_feed_is_lost_for_eight_seconds_and_an_incident_is_over_when_it_is_back(
    records: list[dict[str, Any]],
) -> None:
    """No frame comes in the gap; a conversation above its limit before it is below it ever after."""
    feed = [(r["received_at"] - START, r["feed"]["state"]) for r in records if "feed" in r]
    assert feed == [(0, "up"), (86, "down"), (94, "up")]
    assert not [at for at, *_ in frames(records) if 86 <= at < 94]
    slow_before = {name for at, name, _, latency, _ in frames(records) if 82 <= at < 86 and latency > 0.15}
    slow_after = {name for at, name, _, latency, _ in frames(records) if 94 <= at < 105 and latency > 0.15}
    seen_after = {name for at, name, *_ in frames(records) if at >= 105}
    assert slow_before & seen_after - slow_after


def test_both_rules_are_broken_and_kept_again_and_a_call_ends_in_the_middle_of_an_incident(
    records: list[dict[str, Any]],
) -> None:
    """There are incidents of both kinds among watched calls, and an `ended` frame above the latency limit."""
    watched = {r["watch"]["conversation_id"] for r in records if "watch" in r}
    good = [frame for frame in frames(records) if frame[1] in watched and frame[4] <= 1]
    for bad in ([f[3] > 0.15 for f in good], [f[4] > 0.02 for f in good]):
        names = {frame[1] for frame, is_bad in zip(good, bad, strict=True) if is_bad}
        recovered = {name for name in names if not [b for f, b in zip(good, bad, strict=True) if f[1] == name][-1]}
        assert recovered
    assert [frame for frame in good if frame[2]["event"] == "conversation.ended" and frame[3] > 0.15]


def test_calls_come_and_go_and_one_is_not_watched(records: list[dict[str, Any]]) -> None:
    """Calls end, one slot starts late, every watch comes before its call's first frame, and one slot has no watch."""
    watched_at = {r["watch"]["conversation_id"]: index for index, r in enumerate(records) if "watch" in r}
    first_frame: dict[str, int] = {}
    for index, r in enumerate(records):
        if "frame" in r:
            first_frame.setdefault(r["frame"]["entity"]["id"], index)
    assert all(watched_at[name] < first_frame[name] for name in watched_at.keys() & first_frame.keys())
    assert 1 <= len(first_frame.keys() - watched_at.keys()) <= 4
    starts = [at for at, _, frame, *_ in frames(records) if frame["event"] == "conversation.started"]
    assert sum(at < 1 for at in starts) == 6
    assert [at for at in starts if 30 < at < 45]
    assert sum(frame["event"] == "conversation.ended" for _, _, frame, *_ in frames(records)) >= 6


def test_bad_lines_are_a_cut_line_and_a_frame_that_lost_more_than_everything(records: list[dict[str, Any]]) -> None:
    """Two raw bad lines are in the file, in the middle of it."""
    assert sum(loss == 1.7 for *_, loss in frames(records)) == 1
    assert [100 < index < len(records) - 100 for index, r in enumerate(records) if "bad" in r] == [True]


@pytest.mark.parametrize(("conversations", "seconds"), [(5, 180), (6, 59)])
def test_too_small_a_recording_is_refused(tmp_path: Path, conversations: int, seconds: float) -> None:
    """Below 6 conversations or 60 seconds not everything has a place."""
    with pytest.raises(ValueError, match="needs 6 conversations and 60 seconds"):
        record(tmp_path / "r", seed=1, conversations=conversations, rate=1, seconds=seconds, start=START)
    assert not (tmp_path / "r").exists()
