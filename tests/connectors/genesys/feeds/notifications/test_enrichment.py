"""The queue of conversations whose media is wanted."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from connectors.genesys.feeds.notifications.enrichment import MediaQueue


def test_a_clock_set_back_between_two_runs_delays_no_request_for_hours(tmp_path: Path) -> None:
    """A wait from a run whose clock was an hour ahead is cut to the longest wait; one that is due stays due."""
    path = tmp_path / "queue.sqlite3"
    with closing(MediaQueue(path, now=lambda: 5000.0)) as queue:
        queue.add("later", 5020.0, ended=True)
        queue.add("due", 1000.0, ended=True)
    with closing(MediaQueue(path, now=lambda: 1400.0, longest_wait_s=300.0)) as queue:
        found = queue.next()
        assert found is not None
        assert (found[0], found[1].conversation_id) == (1000.0, "due")
        queue.remove("due")
        found = queue.next()
        assert found is not None
        assert (found[0], found[1].conversation_id) == (1700.0, "later")


def test_a_clock_set_forward_between_two_runs_forgets_nothing(tmp_path: Path) -> None:
    """A conversation that goes on is still asked about after a start in the year 2100."""
    path = tmp_path / "queue.sqlite3"
    with closing(MediaQueue(path, now=lambda: 1_700_000_000.0)) as queue:
        queue.note("going on")
    with closing(MediaQueue(path, now=lambda: 4_102_444_800.0)) as queue:
        assert len(queue) == 1
