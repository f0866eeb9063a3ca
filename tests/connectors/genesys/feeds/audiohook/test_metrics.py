"""What is measured of an AudioHook stream, against values worked out by hand."""

from __future__ import annotations

import pytest

from connectors.genesys.feeds.audiohook.metrics import BEST_OF_S, Sample, StreamMetrics

FRAME_S = 0.125
SAMPLES = 1000
"""An eighth of a second, so that every time here is exact in binary."""


def stream(metrics: StreamMetrics, arrivals: list[float]) -> None:
    for at in arrivals:
        metrics.audio(SAMPLES, at)


def steady(first: int, last: int, late_s: float = 0.0) -> list[float]:
    """When frames number `first` up to `last` arrive: at their ends, and so much later."""
    return [(number + 1) * FRAME_S + late_s for number in range(first, last)]


def test_a_healthy_stream_is_neither_late_nor_lossy() -> None:
    """Frames at their time: no lateness, no jitter, no loss, and the audio of the interval is counted."""
    metrics = StreamMetrics(0.0)
    stream(metrics, steady(0, 8))
    assert metrics.sample(1.0) == Sample(0.0, 0.0, 0.0, None, 0.0, 1000.0, 0.0, None)
    assert metrics.position_s == 1.0
    stream(metrics, steady(8, 12))
    assert metrics.sample(1.5).audio_ms == 500.0


def test_loss_is_what_was_discarded_of_all_audio_in_the_interval() -> None:
    """The loss of an interval is discarded / (audio + discarded); the next interval starts at zero."""
    metrics = StreamMetrics(0.0)
    stream(metrics, steady(0, 6))
    metrics.discarded(0.25)
    sample = metrics.sample(1.0)
    assert (sample.packet_loss, sample.audio_ms, sample.discarded_ms) == (0.25, 750.0, 250.0)
    stream(metrics, steady(8, 16))
    assert metrics.sample(2.0).packet_loss == 0.0
    assert metrics.sample(3.0).packet_loss is None
    metrics.discarded(0.5)
    assert metrics.sample(4.0).packet_loss == 1.0


def test_a_pause_is_no_loss_and_no_lateness() -> None:
    """What is left out in a pause counts for nothing, however long it takes; the stream goes on in time after it."""
    metrics = StreamMetrics(0.0)
    stream(metrics, steady(0, 8))
    metrics.sample(1.0)
    metrics.paused()
    sample = metrics.sample(6.0)
    assert (sample.packet_loss, sample.lateness_ms, sample.audio_ms) == (None, 0.0, 0.0)
    metrics.resumed(7.0)
    stream(metrics, steady(64, 72))
    assert metrics.sample(9.0) == Sample(0.0, 0.0, 0.0, None, 0.0, 1000.0, 0.0, None)
    assert metrics.position_s == 9.0


def test_lateness_is_what_the_stream_is_behind_its_best() -> None:
    """Frames that come 250 ms late are 250 ms late whatever the clocks' offset, and then on time again."""
    metrics = StreamMetrics(1000.0, position_s=5.0)
    offset_s = 1000.0
    stream(metrics, [offset_s + at for at in steady(0, 8)])
    assert metrics.sample(offset_s + 1.0).lateness_ms == 0.0
    stream(metrics, [offset_s + at for at in steady(8, 16, late_s=0.25)])
    assert metrics.sample(offset_s + 2.25).lateness_ms == 250.0
    stream(metrics, [offset_s + at for at in steady(16, 24)])
    assert metrics.sample(offset_s + 3.0).lateness_ms == 0.0


def test_a_burst_that_catches_up_at_the_start_is_not_lateness() -> None:
    """Five seconds of audio from before the session come in no time: the best is where the burst ends."""
    metrics = StreamMetrics(0.0)
    stream(metrics, [0.25] * 40)
    assert metrics.sample(0.25).lateness_ms == 0.0
    stream(metrics, [0.25 + at for at in steady(0, 4)])
    assert metrics.sample(0.75).lateness_ms == 0.0


def test_a_stream_that_stands_still_gets_later_and_later() -> None:
    """Audio that is due and not here is late by as long as it has been due."""
    metrics = StreamMetrics(0.0)
    stream(metrics, steady(0, 8))
    assert metrics.sample(1.0).lateness_ms == 0.0
    assert metrics.glance(1.125).lateness_ms == 0.0
    assert metrics.sample(2.0).lateness_ms == 875.0
    assert metrics.sample(3.0).lateness_ms == 1875.0
    metrics.discarded(2.0)
    assert metrics.glance(3.0).lateness_ms == 0.0
    stream(metrics, [3.125])
    assert metrics.sample(3.125).lateness_ms == 0.0


def test_an_interval_without_a_frame_is_as_late_as_the_last_one_was() -> None:
    """Frames longer than the interval: between two of them the stream is as late as it was."""
    metrics = StreamMetrics(0.0)
    metrics.audio(16_000, 2.0)
    metrics.sample(2.0)
    metrics.audio(16_000, 4.5)
    assert metrics.sample(4.5).lateness_ms == 500.0
    assert metrics.sample(5.5).lateness_ms == 500.0


def test_the_best_is_forgotten_after_5_to_10_minutes() -> None:
    """A clock that runs a ten-thousandth fast makes a stream of an hour no later than 10 minutes make it."""
    metrics = StreamMetrics(0.0)
    worst_ms = 0.0
    for second in range(1, 3601):
        metrics.audio(8000, second * 1.0001)
        worst_ms = max(worst_ms, metrics.sample(second * 1.0001).lateness_ms or 0.0)
    assert 25 < worst_ms <= 2 * BEST_OF_S * 0.0001 * 1000 + 0.2


def test_latency_is_the_larger_of_round_trip_and_lateness() -> None:
    """The round trip of the last ping holds until the next; lateness above it takes its place."""
    metrics = StreamMetrics(0.0)
    assert metrics.sample(0.5) == Sample(0.0, None, None, None, None, 0.0, 0.0, None)
    metrics.ping(None, 0.0)
    metrics.ping(0.0421, 0.0)
    assert metrics.glance(0.5)[:5] == (42.1, None, None, 42.1, None)
    stream(metrics, [0.625, 0.75, 1.125])
    assert metrics.sample(1.125)[:5] == (250.0, 0.0, 15.625, 42.1, 250.0)


def test_jitter_is_that_of_rfc_3550() -> None:
    """J += (|D| - J) / 16 with D the difference of arrivals apart and positions apart, over discards and pauses too."""
    metrics = StreamMetrics(0.0)
    stream(metrics, [0.125])
    assert metrics.glance(0.125).jitter_ms is None
    stream(metrics, [0.266])
    first_ms = 16 / 16
    assert metrics.glance(0.266).jitter_ms == first_ms
    metrics.discarded(0.5)
    stream(metrics, [0.891])
    second_ms = first_ms - first_ms / 16
    assert metrics.glance(0.891).jitter_ms == pytest.approx(second_ms, abs=0.001)
    metrics.audio(0, 0.9)
    metrics.audio(500, 0.9215)
    assert metrics.glance(1.0).jitter_ms == pytest.approx(second_ms + (32 - second_ms) / 16, abs=0.001)


def test_what_genesys_is_ahead_of_us_is_unaccounted_for() -> None:
    """The client's position minus all audio and reported losses gives a gap that was not reported."""
    metrics = StreamMetrics(0.0, position_s=2.0)
    stream(metrics, steady(0, 4))
    metrics.discarded(0.5)
    metrics.resumed(1.0)
    metrics.ping(None, 4.0)
    assert metrics.glance(0.5).unaccounted_ms == 0.0
    metrics.ping(None, 4.25)
    metrics.paused()
    metrics.ping(None, 9.0)
    assert metrics.sample(0.5).unaccounted_ms == 250.0
