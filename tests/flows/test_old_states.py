"""State that an earlier version left: the program continues it, or refuses it with one line that names the remedy."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from connectors.format.decode import decode_block
from flows.analytics.shard import Shard
from flows.analytics.shards import ShardBlock, split
from tests.flows.test_dataflow import RECORDING, CutSource, Runner, cut, executed, one_worker, resumed, two_workers
from tests.support.recordings import rows_of

DATA = Path(__file__).parents[1] / "data"
STATE = DATA / "state-51327cf"
STOPPED_LINES = 1100


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """The recording that the flow of that state was reading."""
    lines = RECORDING.read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])
    first["settings"]["alerts"] |= {"mos_below": 4.3, "stalled_after_s": 0.9}
    return [json.dumps(first).encode() + b"\n", *lines[1:]]


@pytest.mark.parametrize("runner", [one_worker, two_workers])
def test_a_state_of_the_version_before_is_continued(tmp_path: Path, lines: list[bytes], runner: Runner) -> None:
    """The whole has the windows, alerts and ids of a run that was never interrupted."""
    blocks = cut(lines, range(0, len(lines), 70))
    shutil.copytree(STATE, tmp_path / "continued")
    resumed(tmp_path / "continued", [CutSource(blocks)], runner)
    executed(tmp_path / "whole", [CutSource(blocks)])
    for name in ("windows.jsonl", "alerts.jsonl", "rejected.jsonl"):
        continued = lines_of(tmp_path / "continued" / name)
        before = len(lines_of(STATE / name))
        assert [with_labels(line) for line in continued[:before]] + continued[before:] == lines_of(
            tmp_path / "whole" / name
        )
        assert 0 < before < len(continued)


@pytest.mark.parametrize("layout", [8, 11, 12, 13])
def test_a_snapshot_of_an_earlier_layout_is_continued(lines: list[bytes], layout: int) -> None:
    """A shard goes on from it as one that was never stopped: the same windows, alerts and parts of groups."""
    lines = with_groups(lines)
    whole, continued = Shard(), Shard()
    for begin, end in ((0, STOPPED_LINES // 2), (STOPPED_LINES // 2, STOPPED_LINES)):
        whole.apply(block_of(lines[begin:end]))
    continued.restore(pickle.loads((DATA / f"snapshots/layout-{layout}.pickle").read_bytes()))
    rest = block_of(lines[STOPPED_LINES:])
    expected, found = whole.apply(rest), continued.apply(rest)
    assert found.alerts == expected.alerts
    assert "STREAM_STALLED" in {alert.rule for alert in found.alerts}
    assert rows_of(found.windows) == rows_of(expected.windows) != []
    assert found.groups == expected.groups != []


def block_of(lines: list[bytes]) -> ShardBlock:
    """Return lines as the block of the only shard."""
    return split(0, decode_block(b"".join(lines)), 1, last=False)[0]


def with_groups(lines: list[bytes]) -> list[bytes]:
    """Return the recording with stalls, a queue for each conversation and groups of queues."""
    first = json.loads(lines[0])
    first["settings"]["alerts"]["stalled_after_s"] = 0.49
    first["settings"]["groups"] = {"by": ["queue"], "min_conversations": 1}
    labelled = [json.dumps(first).encode() + b"\n"]
    for line in lines[1:]:
        record = json.loads(line) if b'"watch"' in line else {}
        if "watch" in record:
            record["watch"]["labels"] = {"queue": "q" + record["watch"]["conversation_id"][-1]}
        labelled.append(json.dumps(record).encode() + b"\n" if record else line)
    return labelled


def with_labels(line: dict[str, Any]) -> dict[str, Any]:
    """A window or an alert of a version that knew no labels, as it is now."""
    if "file" in line:
        return line
    if line.get("window"):
        line = line | {"window": line["window"] | {"labels": {}}}
    return line | {"labels": {}}


def lines_of(path: Path) -> list[Any]:
    """The lines as objects; a file only by its name."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [line | {"file": Path(line["file"]).name} if "file" in line else line for line in lines]
