"""The course of an incident: its peak and its points."""

from __future__ import annotations

from flows.web.tracking import MAX_POINTS, Shape, Tracked


def latency(end: float, value: float | None) -> Shape:
    return (end, value, None, None)


def test_the_course_reaches_from_a_minute_before_to_a_minute_after() -> None:
    """Older windows are left out, the peak is that of windows that overlap, and it ends by itself."""
    before = [latency(float(end), 90.0 + end) for end in (10, 35, 100)]
    tracked = Tracked("LATENCY_THRESHOLD_EXCEEDED", 90.0, 180.0, before)
    assert tracked.take(95.0, latency(105.0, 250.0))
    assert tracked.take(100.0, latency(110.0, None))
    tracked.resolved = 108.0
    assert tracked.take(110.0, latency(120.0, 900.0))
    assert not tracked.take(165.0, latency(175.0, 1.0))
    assert tracked.points == [(35.0, 125.0), (100.0, 190.0), (105.0, 250.0), (110.0, None), (120.0, 900.0)]
    assert tracked.peak == 250.0


def test_a_long_incident_keeps_its_worst_values_in_few_points() -> None:
    """Points are halved, and the worse of two stays: the lower one for MOS."""
    tracked = Tracked("LOW_MOS", 0.0, 3.0, [])
    for number in range(MAX_POINTS * 40):
        tracked.take(number * 5.0, (number * 5.0 + 10, None, None, 1.5 if number == 777 else 3.0))
    assert len(tracked.points) <= MAX_POINTS
    assert min(value for _, value in tracked.points if value is not None) == tracked.peak == 1.5
    assert [end for end, _ in tracked.points] == sorted({end for end, _ in tracked.points})
