"""The dataflow in Bytewax itself: however it is cut, spread, stopped or killed, the output is the same, byte for byte.

Every flow here runs with recovery on and an epoch for each batch, so that all state is snapshot and pickled all the
time.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main

from connectors.callbacks.outbox import Callback
from connectors.journal.blocks import Block
from connectors.journal.recording import Recording
from connectors.journal.source import RecordingSource
from connectors.state.audit import AuditEntry
from connectors.state.sinks import JsonLinesSink
from flows.analytics.alerts import Alert
from flows.analytics.merge import BlockResult, Counts
from flows.analytics.precedence import Overrides
from flows.dataflow import CountsSink, Outputs, build, build_outputs
from tests.support import reference

RECORDING = Path(__file__).parents[1] / "data" / "three-minutes.jsonl"
OUTPUTS = ("windows.jsonl", "alerts.jsonl", "rejected.jsonl")

Runner = Callable[[Dataflow, Path], None]
Result = tuple[list[bytes], Counts]


class Crash(Exception):  # noqa: N818 - it is what happens
    """Ends a flow in the middle of everything."""


class CutSource(FixedPartitionedSource[Block, int]):
    """Blocks as they were cut by hand; after `until` of them it stops, or crashes instead."""

    def __init__(self, blocks: Sequence[Block], until: int | None = None, *, crash: bool = False) -> None:
        self.blocks = blocks
        self.until = len(blocks) if until is None else until
        self.crash = crash

    def list_parts(self) -> list[str]:
        return ["recording"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _CutPartition:
        return _CutPartition(self, resume_state or 0)


class _CutPartition(StatefulSourcePartition[Block, int]):
    def __init__(self, source: CutSource, at: int) -> None:
        self._source = source
        self._at = at

    def next_batch(self) -> list[Block]:
        if self._at >= self._source.until:
            if self._source.crash:
                raise Crash
            raise StopIteration
        self._at += 1
        return [self._source.blocks[self._at - 1]]

    def snapshot(self) -> int:
        return self._at


def one_worker(flow: Dataflow, recovery: Path) -> None:
    run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(recovery))


def two_workers(flow: Dataflow, recovery: Path) -> None:
    _cluster(flow, recovery, 2)


def three_workers(flow: Dataflow, recovery: Path) -> None:
    _cluster(flow, recovery, 3)


def _cluster(flow: Dataflow, recovery: Path, workers: int) -> None:
    config = RecoveryConfig(recovery)
    cluster_main(flow, [], 0, epoch_interval=timedelta(0), recovery_config=config, worker_count_per_proc=workers)


def recovery_in(directory: Path) -> Path:
    recovery = directory / "recovery"
    recovery.mkdir(parents=True)
    init_db_dir(recovery, 2)
    return recovery


def executed(
    out: Path,
    sources: Sequence[Any],
    runners: Runner | Sequence[Runner] = one_worker,
    overrides: Overrides | None = None,
) -> Result:
    """What one flow after the other, each going on from where the one before ended, has written in the end."""
    recovery_in(out)
    return resumed(out, sources, runners, overrides)


def resumed(
    out: Path,
    sources: Sequence[Any],
    runners: Runner | Sequence[Runner] = one_worker,
    overrides: Overrides | None = None,
) -> Result:
    """The same over a directory that has a recovery store already."""
    recovery = out / "recovery"
    counts = CountsSink()
    by_flow = [runners] * len(sources) if callable(runners) else runners
    for source, runner in zip(sources, by_flow, strict=True):
        outputs = Outputs(**{name.partition(".")[0]: JsonLinesSink(out / name) for name in OUTPUTS}, counts=counts)
        flow = build(source, outputs, overrides=overrides)
        if isinstance(source, CutSource) and source.crash:
            with pytest.raises(BytewaxRuntimeError) as failed:
                runner(flow, recovery)
            assert isinstance(failed.value.__cause__, Crash)
        else:
            runner(flow, recovery)
    return [(out / name).read_bytes() for name in OUTPUTS], counts.total


def cut(lines: Sequence[bytes], places: Sequence[int]) -> list[Block]:
    """The lines as blocks that end at the places, and an empty one that is the last."""
    edges = [0, *sorted(places), len(lines)]
    pieces = [(begin, b"".join(lines[begin:end])) for begin, end in itertools.pairwise(edges) if begin < end]
    blocks = [Block(number, str(RECORDING), begin + 1, data) for number, (begin, data) in enumerate(pieces)]
    return [*blocks, Block(len(blocks), "", 1, b"", last=True)]


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return RECORDING.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What an uninterrupted replay on one worker writes."""
    source = RecordingSource(Recording([RECORDING]), stop=threading.Event())
    return executed(tmp_path_factory.mktemp("whole"), [source])


def test_a_replay_is_what_the_contract_says(lines: list[bytes], expected: Result) -> None:
    """Windows, alerts and rejected lines of the shipped recording are those of the plain reference."""
    [windows, alerts, rejected], counts = expected
    contract = reference.replay([line.rstrip(b"\n") for line in lines])
    assert_alike(parsed(alerts), contract.alerts)
    order = sorted(contract.windows, key=lambda window: (window["end"], window["conversation_id"]))
    assert_alike(parsed(windows), order)
    assert [(line["file"], line["line"]) for line in parsed(rejected)] == [
        (str(RECORDING), line + 1) for line, _ in contract.rejected
    ]
    states = [alert["state"] for alert in contract.alerts]
    assert counts == Counts(
        frames=sum(b'"frame":' in line for line in lines) - len(contract.rejected),
        unwatched=contract.unwatched,
        invalid=sum(b'"invalid":' in line for line in lines),
        rejected=len(contract.rejected),
        torn=0,
        conversations=len({window["conversation_id"] for window in contract.windows}),
        windows=len(contract.windows),
        raised=states.count("raised"),
        resolved=states.count("resolved"),
    )
    assert counts.raised > 5
    assert counts.rejected == 2


@pytest.mark.parametrize("runner", [two_workers, three_workers])
def test_more_workers_change_nothing(tmp_path: Path, expected: Result, lines: list[bytes], runner: Runner) -> None:
    """Several workers, over blocks of a few lines, write the same bytes and count the same."""
    blocks = cut(lines, range(0, len(lines), 40))
    assert executed(tmp_path, [CutSource(blocks)], runner) == expected


@pytest.mark.parametrize("seed", range(3))
def test_other_blocks_change_nothing(tmp_path: Path, expected: Result, lines: list[bytes], seed: int) -> None:
    """Blocks of any number of lines, down to one, give the same bytes."""
    places = random.Random(seed).sample(range(len(lines)), 60)
    around = range(100 * seed, 100 * seed + 40)
    assert executed(tmp_path, [CutSource(cut(lines, [*places, *around]))]) == expected


@pytest.mark.parametrize("runner", [one_worker, two_workers])
def test_stopping_and_going_on_changes_nothing(
    tmp_path: Path, expected: Result, lines: list[bytes], runner: Runner
) -> None:
    """Stopped between any two blocks and resumed, time and again, the flow writes what it would have."""
    blocks = cut(lines, range(0, len(lines), 60))
    stops = [0, 1, 2, *range(5, len(blocks), 9), len(blocks) - 1]
    sources = [*(CutSource(blocks, stop) for stop in stops), CutSource(blocks)]
    assert executed(tmp_path, sources, runner) == expected


def test_crashing_and_going_on_changes_nothing(tmp_path: Path, expected: Result, lines: list[bytes]) -> None:
    """After an exception in the middle of an epoch the flow goes on from its snapshot, and no line comes twice."""
    blocks = cut(lines, range(0, len(lines), 60))
    crashes = [CutSource(blocks, until, crash=True) for until in (1, 2, 3, 20, 21, 33, len(blocks))]
    assert executed(tmp_path, [*crashes, CutSource(blocks)]) == expected


def test_going_on_with_another_number_of_workers_changes_nothing(
    tmp_path: Path, expected: Result, lines: list[bytes]
) -> None:
    """State that was written by one worker is taken up by three, and the other way round."""
    blocks = cut(lines, range(0, len(lines), 100))
    sources = [*(CutSource(blocks, until) for until in (6, 12, 18)), CutSource(blocks)]
    assert executed(tmp_path, sources, [one_worker, three_workers, two_workers, one_worker]) == expected


def test_a_recording_that_is_stopped_goes_on(tmp_path: Path, expected: Result) -> None:
    """The source over recorded files takes up its snapshot: a stop before the end leaves the windows open."""
    stopped = threading.Event()
    stopped.set()
    recording = Recording([RECORDING])
    sources = [RecordingSource(recording, stop=stopped), RecordingSource(recording, stop=threading.Event())]
    assert executed(tmp_path, sources) == expected


def test_segments_are_one_recording(tmp_path: Path, expected: Result, lines: list[bytes]) -> None:
    """The recording cut into files at any record gives the same windows and alerts as the whole."""
    paths = []
    for number, (begin, end) in enumerate([(0, 700), (700, 701), (701, 2000), (2000, len(lines))]):
        paths.append(tmp_path / f"{9 - number}.jsonl")
        paths[-1].write_bytes(b"".join(lines[begin:end]))
    source = RecordingSource(Recording(paths), stop=threading.Event())
    [windows, alerts, rejected], counts = executed(tmp_path / "out", [source], two_workers)
    assert [windows, alerts] == expected[0][:2]
    assert counts == expected[1]
    assert len(parsed(rejected)) == 2


def test_a_torn_last_line_is_counted_and_not_rejected(tmp_path: Path) -> None:
    """A recording that ends in the middle of a line is taken up to there."""
    path = tmp_path / "torn.jsonl"
    path.write_bytes(RECORDING.read_bytes()[:-9])
    [_, _, rejected], counts = executed(tmp_path / "out", [RecordingSource(Recording([path]), stop=threading.Event())])
    assert counts.torn == 1
    assert len(parsed(rejected)) == 2


def test_a_configuration_goes_before_what_was_recorded(tmp_path: Path, lines: list[bytes]) -> None:
    """Other limits and other windows, given to a replay, give what the reference says of them, after a crash too."""
    watched = [json.loads(line)["watch"]["conversation_id"] for line in lines if b'"watch"' in line]
    settings = {
        "windows": {"length_s": 6.0, "slide_s": 2.0},
        "alerts": {"policy": "incident", "raise_n": 2, "raise_m": 3, "clear_ratio": 0.8, "clear_after_s": 3.0},
    }
    watches = {watched[0]: {"max_latency_ms": 60.0, "packet_loss_threshold": 0.005}}
    blocks = cut(lines, range(0, len(lines), 200))
    [windows, alerts, _], _ = executed(
        tmp_path,
        [CutSource(blocks, 5, crash=True), CutSource(blocks)],
        two_workers,
        Overrides(settings, watches),
    )
    contract = reference.replay([line.rstrip(b"\n") for line in lines], settings, watches)
    assert_alike(parsed(alerts), contract.alerts)
    assert len(parsed(windows)) == len(contract.windows)


@pytest.mark.parametrize("policy", ["incident", "frame"])
def test_optional_rules_are_no_exception(tmp_path: Path, lines: list[bytes], policy: str) -> None:
    """What windows and silence raise is the same bytes on more workers, in other blocks and after crashes."""
    alerts = {"policy": policy, "mos_below": 4.3, "stalled_after_s": 0.5, "clear_after_s": 3.0}
    settings = {"windows": {"length_s": 6.0, "slide_s": 2.0, "codec": "g729a"}, "alerts": alerts}
    blocks = cut(lines, range(0, len(lines), 80))
    crashes = [CutSource(blocks, until, crash=True) for until in (1, 7, 8, 20)]
    crashed = executed(tmp_path / "crashed", [*crashes, CutSource(blocks)], two_workers, Overrides(settings))
    [windows, found, rejected], counts = executed(
        tmp_path / "whole", [CutSource(cut(lines, []))], overrides=Overrides(settings)
    )
    assert crashed == ([windows, found, rejected], counts)
    assert_alike(parsed(found), reference.replay([line.rstrip(b"\n") for line in lines], settings).alerts)
    assert {"LOW_MOS", "STREAM_STALLED"} <= {alert["alertType"] for alert in parsed(found)}


def parsed(jsonl: bytes) -> list[Any]:
    return [json.loads(line) for line in jsonl.splitlines()]


def assert_alike(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    """Equal, but for what the contract leaves open: 1e-6 in means, and a MOS near the edge of its rounding."""
    if isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=tolerance)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_alike(found[key], value, 0.00101 if key == "mos" else tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other, tolerance)
    else:
        assert found == expected


@pytest.mark.parametrize("has_topic", [False, True])
def test_the_audit_log_says_which_alerts_are_not_sent(has_topic: bool) -> None:
    """Those that are inhibited, and those with neither a callback URL nor a target nor a topic."""
    url = "https://qa.example.com/"

    def alert(name: str, url: str | None, *, is_sent: bool = True) -> Alert:
        return Alert(1.0, 0, 0, "c", 0, name, "LOW_MOS", "raised", None, url, b"{}", {}, is_sent=is_sent)

    alerts = [alert("sent", url), alert("inhibited", url, is_sent=False), alert("target", None), alert("none", None)]
    source = TestingSource([("all", BlockResult(b"", b"", b"", alerts, Counts()))])
    entries: list[tuple[str, AuditEntry]] = []
    ignored = TestingSink[Any]([])
    topic = ignored if has_topic else None
    outputs = Outputs(ignored, ignored, audit=TestingSink(entries), topic_alerts=topic)
    callback = Callback("target", "c", "target:pager", b"{}")
    run_main(build_outputs(source, outputs, notify=lambda one: [callback] if one.alert_id == "target" else []))
    found = {entry.details.pop("id"): entry.details for _, entry in entries}
    said: dict[str, object] = {} if has_topic else {"sent": False, "why": "no_receiver"}
    expected: dict[str, dict[str, object]] = {"sent": {}, "inhibited": {"sent": False}, "target": {}, "none": said}
    assert found == {name: {"rule": "LOW_MOS"} | more for name, more in expected.items()}
