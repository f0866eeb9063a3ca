"""What the job is measured against does the same work; nothing here looks at a clock."""

from __future__ import annotations

import importlib.util
import json
import threading
from pathlib import Path

import pytest

from flows.analytics.merge import Counts
from flows.commands.replay import replay
from tests.benchmarks.agreement import disagreement
from tests.benchmarks.baselines import BASELINES, LATENCY_MS, OPTIONAL, WINDOWED
from tests.benchmarks.eventbridge import acknowledged
from tests.benchmarks.generate import generate
from tests.benchmarks.measure import Cost, Ratio, Run, interleaved, measured

FRAMES = 20_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred conversations, two of which have an incident."""
    path = tmp_path_factory.mktemp("recording") / "healthy.jsonl"
    generate(path, FRAMES, 100)
    return path


def replayed(path: Path, out: Path) -> Counts:
    return replay([path], out, settings=None, environ={}, speed=None, deliver=False, stop=threading.Event()).counts


@pytest.mark.parametrize("name", WINDOWED)
def test_a_baseline_finds_the_same_windows(name: str, recording: Path, tmp_path: Path) -> None:
    """So that comparing their times means something."""
    if name in OPTIONAL and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    for out in ("job", name):
        (tmp_path / out).mkdir()
    replayed(recording, tmp_path / "job")
    BASELINES[name](recording, tmp_path / name)
    files = (tmp_path / out / "windows.jsonl" for out in ("job", name))
    assert disagreement(*files, latency_ms=LATENCY_MS[name]) == ""


def test_a_recording_is_what_it_says(recording: Path, tmp_path: Path) -> None:
    """A journal in order of time, every line of it valid, a few conversations of it ill."""
    counts = replayed(recording, tmp_path)
    assert (counts.frames, counts.conversations, counts.rejected, counts.unwatched) == (FRAMES, 100, 0, 0)
    assert 0 < counts.raised < 50
    times = [json.loads(line)["received_at"] for line in recording.read_bytes().splitlines()]
    assert times == sorted(times)


def test_in_a_storm_every_conversation_alerts(tmp_path: Path) -> None:
    """By both rules, once."""
    generate(tmp_path / "storm.jsonl", 2000, 100, storm=True)
    assert replayed(tmp_path / "storm.jsonl", tmp_path / "out").raised == 200


def test_other_windows_are_noticed(recording: Path, tmp_path: Path) -> None:
    """Of a missing window, a wrong figure and a window told twice."""
    replayed(recording, tmp_path)
    lines = (tmp_path / "windows.jsonl").read_text().splitlines()
    one, other = tmp_path / "windows.jsonl", tmp_path / "other.jsonl"
    other.write_text("\n".join(lines[1:]))
    assert disagreement(one, other) == "1 windows are missing, 0 extra"
    window = json.loads(lines[0])
    window["latency_ms"]["mean"] += 0.001
    other.write_text("\n".join([json.dumps(window), *lines[1:]]))
    assert "latency_ms.mean" in disagreement(one, other)
    other.write_text("\n".join([lines[0], *lines]))
    with pytest.raises(ValueError, match="twice"):
        disagreement(one, other)


def test_a_ratio_is_that_of_runs_of_the_same_round() -> None:
    """Work in a second of the one, by that of the other, round by round; the median decides."""
    seconds = {"fast": iter([1.0, 2.0, 1.0]), "slow": iter([4.0, 16.0, 2.0])}
    runs = [
        Run(name, work, lambda name=name: Cost(next(seconds[name]), 1.0, 0.0))  # type: ignore[misc]
        for name, work in (("fast", 10.0), ("slow", 5.0))
    ]
    result = measured(Ratio("fast / slow", "fast", "slow", 10.0), interleaved(runs, 3))
    assert result.samples == [8.0, 16.0, 4.0]
    assert result.by_cpu == [2.0, 2.0, 2.0]
    assert (result.median, result.met) == (8.0, False)


def test_events_are_acknowledged_by_the_feed_of_the_benchmark(tmp_path: Path) -> None:
    """The benchmark of EventBridge posts to a real feed, on several connections, and counts what it answers."""
    found = acknowledged(tmp_path, 4, 0.3)
    assert found.connections == 4
    assert found.events_per_s > 0
    assert found.syncs_per_s > 0
    assert list(tmp_path.iterdir()) == []
