"""State that an earlier version left: the program continues it, or refuses it with one line that names the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.flows.test_dataflow import RECORDING, CutSource, Runner, cut, executed, one_worker, resumed, two_workers

DATA = Path(__file__).parents[1] / "data"
STATE = DATA / "state-51327cf"
STOPPED_BEHIND = 17


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
