"""Measure how much of a period is covered: find where nothing was recorded, and where no feed was connected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from flows.report.journal import FeedEvent, JournalFacts, Stretch

__all__ = ["Coverage", "FeedGaps", "coverage_of", "gaps_of_feeds", "silences"]

NOTHING: Final = "no record: voicewatch had not begun, or had ended"
# Shorter than what can be told from the rounding of times.
MIN_GAP_S: Final = 0.01
NO_FEED: Final = "no feed was connected"


@dataclass(frozen=True)
class FeedGaps:
    """The stretches in which one feed was not connected."""

    feed: str
    gaps: list[Stretch]


@dataclass(frozen=True)
class Coverage:
    """What is not covered in a period. `silent_s` counts each second once; `is_known` is False if no file can tell."""

    length_s: float
    silent_s: float
    silent: list[Stretch]
    feeds: list[FeedGaps]
    is_known: bool

    @property
    def share(self) -> float | None:
        """Return the share of the period that is covered, None if it is not known."""
        return 1 - self.silent_s / self.length_s if self.is_known and self.length_s > 0 else None


def gaps_of_feeds(events: Iterable[FeedEvent], end: float) -> list[FeedGaps]:
    """Return the gaps of each feed, the last of them until `end` if the feed is still down.

    >>> gaps_of_feeds([FeedEvent(5.0, "a", "down", "lost"), FeedEvent(8.0, "a", "up", "")], 20.0)
    [FeedGaps(feed='a', gaps=[Stretch(start=5.0, end=8.0, reason='lost')])]
    """
    found: dict[str, list[Stretch]] = {}
    down: dict[str, tuple[float, str]] = {}
    for event in sorted(events, key=lambda one: one.at):
        own = found.setdefault(event.feed, [])
        if event.state == "down":
            down.setdefault(event.feed, (event.at, event.reason))
        elif event.feed in down:
            start, reason = down.pop(event.feed)
            own.append(Stretch(start, event.at, reason))
    for feed, (start, reason) in down.items():
        found[feed].append(Stretch(start, max(end, start), reason))
    return [FeedGaps(feed, gaps) for feed, gaps in sorted(found.items())]


def silences(feeds: Sequence[FeedGaps]) -> list[Stretch]:
    """Return the stretches in which no feed was connected.

    >>> one, two = FeedGaps("a", [Stretch(1, 5, "")]), FeedGaps("b", [Stretch(3, 9, "")])
    >>> [(gap.start, gap.end) for gap in silences([one, two])]
    [(3, 5)]
    """
    edges = sorted((at, step) for feed in feeds for gap in feed.gaps for at, step in ((gap.start, 1), (gap.end, -1)))
    found, down, since = [], 0, 0.0
    for at, step in edges:
        down += step
        if step > 0 and down == len(feeds):
            since = at
        elif step < 0 and down == len(feeds) - 1 and at > since:
            found.append(Stretch(since, at, NO_FEED))
    return found


def union(stretches: Iterable[Stretch]) -> float:
    """Return the length of some stretches, which may overlap.

    >>> union([Stretch(1, 5, ""), Stretch(3, 6, ""), Stretch(8, 9, "")])
    6.0
    """
    total, until = 0.0, float("-inf")
    for start, end, _ in sorted(stretches):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def coverage_of(
    start: float, end: float, journal: JournalFacts, feeds: Sequence[FeedGaps], others: Sequence[float]
) -> Coverage:
    """Return the coverage of a period; `others` are other times at which something was written."""
    known = [at for at in (journal.begin, journal.end, *others) if at is not None and at != float("-inf")]
    if not known:
        return Coverage(end - start, end - start, [Stretch(start, end, NOTHING)], [], is_known=True)
    silent = [*journal.gaps, *silences(feeds)]
    silent += [Stretch(float("-inf"), min(known), NOTHING), Stretch(max(known), float("inf"), NOTHING)]
    own = sorted(_clipped(silent, start, end))
    clipped = [FeedGaps(one.feed, _clipped(one.gaps, start, end)) for one in feeds]
    return Coverage(end - start, union(own), own, clipped, is_known=bool(feeds) or journal.has_ticks)


def _clipped(stretches: Iterable[Stretch], start: float, end: float) -> list[Stretch]:
    cut = (Stretch(max(one.start, start), min(one.end, end), one.reason) for one in stretches)
    return [one for one in cut if one.end - one.start > MIN_GAP_S]
