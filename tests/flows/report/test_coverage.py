"""How much of a period is covered."""

from __future__ import annotations

import pytest

from flows.report.coverage import coverage_of, gaps_of_feeds
from flows.report.journal import FeedEvent, JournalFacts, Stretch


def facts(begin: float, end: float, *gaps: Stretch, ticks: bool = True) -> JournalFacts:
    return JournalFacts(begin=begin, end=end, gaps=list(gaps), has_ticks=ticks)


def test_a_second_that_is_missing_twice_counts_once() -> None:
    """A gap of the journal within a gap of the feed, and the time before the first record."""
    feeds = gaps_of_feeds([FeedEvent(20.0, "a", "down", "lost"), FeedEvent(40.0, "a", "up", "")], 100.0)
    coverage = coverage_of(0.0, 100.0, facts(10.0, 100.0, Stretch(30.0, 35.0, "stopped")), feeds, [])
    assert coverage.silent_s == 30.0
    assert coverage.share == pytest.approx(0.7)
    assert [(gap.start, gap.end) for gap in coverage.silent] == [(0.0, 10.0), (20.0, 40.0), (30.0, 35.0)]


def test_one_of_two_feeds_is_enough() -> None:
    """A gap of one feed is listed with the feed; the time is covered by the other."""
    feeds = gaps_of_feeds(
        [FeedEvent(0.0, "a", "up", ""), FeedEvent(0.0, "b", "up", ""), FeedEvent(50.0, "b", "down", "lost")], 100.0
    )
    coverage = coverage_of(0.0, 100.0, facts(0.0, 100.0), feeds, [])
    assert (coverage.silent_s, coverage.share) == (0.0, 1.0)
    assert [(one.feed, one.gaps) for one in coverage.feeds] == [("a", []), ("b", [Stretch(50.0, 100.0, "lost")])]


def test_without_feeds_and_ticks_the_coverage_is_not_known() -> None:
    """A recording of bare frames tells no gap, so no share is claimed."""
    assert coverage_of(0.0, 10.0, facts(0.0, 10.0, ticks=False), [], []).share is None
    assert coverage_of(0.0, 10.0, JournalFacts(), [], []).share == 0.0
