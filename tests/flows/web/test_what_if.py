"""Other limits are tried out by a real backtest over the journal, in a process of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import orjson
import pytest
from starlette.exceptions import HTTPException

from connectors.runtime.shutdown import Shutdown
from flows.commands.backtest import backtest, rule_sets
from flows.web.what_if import Job, WhatIf, rules_of
from tests.support.callbacks import eventually

RECORDING = Path(__file__).parents[2] / "data" / "three-minutes.jsonl"
WAIT_S = 60.0


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    directory = tmp_path / "journal"
    directory.mkdir()
    shutil.copy(RECORDING, directory / "00000001.jsonl")
    return directory


def run(what_if: WhatIf, rules: dict[str, float]) -> Job:
    job = what_if.start(rules, 0.0, {})
    eventually(lambda: job.result is not None or job.failure is not None, WAIT_S)
    return job


def test_the_figures_are_those_of_a_backtest(journal: Path, tmp_path: Path) -> None:
    """What the page shows is what `voicewatch backtest` says of the same limits."""
    rules = {"max_latency_ms": 100.0, "raise_n": 2, "raise_m": 3}
    job = run(WhatIf(journal, os.environ), rules)
    assert job.failure is None
    assert job.result is not None
    config = tmp_path / "proposed.toml"
    config.write_text(job.toml)
    sets = rule_sets([config], [], {})
    expected = backtest([RECORDING], sets, Shutdown().requested, counts_values=True)
    now, proposed = (figures._asdict() for figures in expected.figures())
    assert job.result["now"] == now
    assert job.result["proposed"] == proposed
    assert now != proposed
    assert len(job.result["differences"]) + job.result["left_out"] == len(expected.changes(1))
    assert orjson.dumps(job.result)
    hours = job.result["hours"]
    assert sum(hour["proposed"] for hour in hours) == proposed["incidents"]
    assert [hour["start"] for hour in hours] == list(range(hours[0]["start"], hours[-1]["start"] + 1, 3600))
    latency, loss = job.result["spread"]
    assert (latency["field"], loss["field"]) == ("max_latency_ms", "packet_loss_threshold")
    assert (latency["counts"], loss["counts"]) == (expected.latency.counts, expected.packet_loss.counts)
    assert 0 < sum(loss["counts"]) <= expected.frames


def test_what_is_not_tried_out_stays_as_recorded(journal: Path) -> None:
    """The proposed configuration holds what changes, and `raise_m` beside `raise_n`."""
    expected = run(WhatIf(journal, os.environ), {"max_latency_ms": 100.0, "raise_n": 2, "raise_m": 3})
    [segment] = journal.iterdir()
    recorded = {"windows": {"length_s": 20.0, "slide_s": 10.0}, "alerts": {"raise_n": 2, "raise_m": 3}}
    lines = [line for line in segment.read_bytes().splitlines() if b'"settings":' not in line]
    segment.write_bytes(b"\n".join([orjson.dumps({"received_at": 0, "settings": recorded}), *lines]))
    for rules in ({"max_latency_ms": 100.0}, {"max_latency_ms": 100.0, "raise_n": 2}):
        job = WhatIf(journal, os.environ).start(rules, 0.0, recorded)
        eventually(lambda: job.result is not None or job.failure is not None, WAIT_S)  # noqa: B023 - called in here
        assert job.result is not None
        assert expected.result is not None
        assert job.result["proposed"] == expected.result["proposed"]
        assert "windows" not in job.toml


def test_one_at_a_time_and_the_last_few_are_kept(journal: Path) -> None:
    """A second one is refused while one runs; old results make room."""
    what_if = WhatIf(journal, os.environ)
    job = what_if.start({"max_latency_ms": 100.0}, 0.0, {})
    with pytest.raises(HTTPException) as refused:
        what_if.start({"max_latency_ms": 200.0}, 0.0, {})
    assert refused.value.status_code == 409
    eventually(lambda: job.result is not None, WAIT_S)
    assert what_if.get(job.id) is job
    assert what_if.get("unknown") is None


def test_what_goes_wrong_is_said(journal: Path, tmp_path: Path) -> None:
    """A journal that cannot be read is the page's message, and the next one may run."""
    (journal / "00000001.jsonl").unlink()
    (journal / "00000001.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd is only the mark of Zstandard")
    what_if = WhatIf(journal, os.environ)
    job = run(what_if, {"max_latency_ms": 100.0})
    assert job.result is None
    assert "00000001.jsonl.zst" in (job.failure or "")
    for directory in (tmp_path / "none", tmp_path):
        with pytest.raises(HTTPException) as refused:
            WhatIf(directory, os.environ).start({"max_latency_ms": 100.0}, 0.0, {})
        assert refused.value.status_code == 404
    with pytest.raises(HTTPException):
        what_if.start({}, 0.0, {})


def test_a_stop_ends_what_runs(journal: Path) -> None:
    """No process is left behind when the page stops."""
    what_if = WhatIf(journal, os.environ)
    job = what_if.start({"max_latency_ms": 100.0}, 0.0, {})
    eventually(lambda: job.process is not None, WAIT_S)
    what_if.stop()
    eventually(lambda: job.failure is not None or job.result is not None, WAIT_S)
    assert job.process is not None
    assert job.process.poll() is not None


@pytest.mark.parametrize(
    "query",
    [{"max_latency_ms": "x"}, {"max_latency_ms": "49"}, {"mos_below": "nan"}, {"raise_n": "4", "raise_m": "3"}],
)
def test_values_out_of_bounds_are_refused(query: dict[str, str]) -> None:
    """The bounds are those of the configuration."""
    with pytest.raises(HTTPException) as refused:
        rules_of(query)
    assert refused.value.status_code == 400


def test_only_known_settings_are_taken() -> None:
    """Everything else in a form is ignored, and never reaches a file."""
    assert rules_of({"max_latency_ms": "200", "state.dir": "/", "mos_below": ""}) == {"max_latency_ms": 200.0}
