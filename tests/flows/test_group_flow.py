"""Groups in Bytewax itself: the same bytes on more workers, in other blocks and after crashes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bytewax.errors import BytewaxRuntimeError

from connectors.state.sinks import JsonLinesSink
from flows.dataflow import Outputs, build
from tests.flows.analytics.test_groups import group_lines
from tests.flows.test_dataflow import Crash, CutSource, Runner, cut, one_worker, recovery_in, two_workers

RESULTS = ("groups", "windows", "alerts")


def executed(out: Path, sources: Sequence[CutSource], runner: Runner) -> list[bytes]:
    """What flows that continue one another have written in the end."""
    recovery = recovery_in(out)
    for source in sources:
        outputs: dict[str, Any] = {name: JsonLinesSink(out / name) for name in RESULTS}
        flow = build(source, Outputs(**outputs))
        if source.crash:
            with pytest.raises(BytewaxRuntimeError) as failed:
                runner(flow, recovery)
            assert isinstance(failed.value.__cause__, Crash)
        else:
            runner(flow, recovery)
    return [(out / name).read_bytes() for name in RESULTS]


def test_workers_cuts_and_crashes_change_nothing(tmp_path: Path) -> None:
    """Lines of groups, and alerts with what inhibits them."""
    lines = [line + b"\n" for line in group_lines(random.Random(16), 500)]
    whole = executed(tmp_path / "whole", [CutSource(cut(lines, []))], one_worker)
    blocks = cut(lines, range(0, len(lines), 20))
    crashes = [CutSource(blocks, until, crash=True) for until in (2, 9, 10, 17)]
    assert executed(tmp_path / "crashed", [*crashes, CutSource(blocks, 20), CutSource(blocks)], two_workers) == whole
    alerts = [json.loads(line) for line in whole[2].splitlines()]
    assert any(alert["alertType"] == "GROUP_DEGRADED" for alert in alerts)
    assert any("inhibitedBy" in alert for alert in alerts)
