"""How often Python looks for garbage in cycles."""

from __future__ import annotations

import gc

from connectors.runtime.memory import collecting_rarely


def test_rare_collections_end_with_the_work() -> None:
    """While the work goes on, a million new objects start a collection; then as many as before."""
    before = gc.get_threshold()
    with collecting_rarely():
        assert gc.get_threshold() == (1_000_000, *before[1:])
    assert gc.get_threshold() == before
