"""A short soak: every fault at least once, and nothing promised is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.story import soak


@pytest.mark.timeout(240)
def test_a_short_soak_breaks_no_promise(tmp_path: Path) -> None:
    """Killed, stopped, frozen, cut off and refused, the job loses no alert and repeats what its journal says."""
    verdict = soak(tmp_path, seconds=10, seed=4)
    log = (tmp_path / "run.log").read_text()
    assert verdict.broken == [], f"{verdict.table()}\n{log[-4000:]}"
    rows = dict(verdict.rows)
    assert int(rows["frames in the journal"]) > 200
    assert int(rows["alerts due by the replay"]) > 5
