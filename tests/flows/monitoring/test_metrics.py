"""What is counted: array histograms, looked-up values, the progress of a source, and labels from closed sets."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from connectors.callbacks.outbox import Callback, Outbox, outbox_state
from connectors.journal.progress import SourceProgress
from connectors.journal.segments import Position
from connectors.kafka.spool import Line, Spool
from flows.monitoring.metrics import LATENCY_BUCKETS_S, Metrics
from flows.state import StateLayout

NOW = 1_700_000_000.0


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name with labels, as Prometheus would read it."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def watching(tmp_path: Path, progress: SourceProgress | None = None) -> Metrics:
    metrics = Metrics("1.2.3", 0, now=lambda: NOW)
    progress = progress or SourceProgress(tmp_path / "journal", default_feed="voice-events", now=lambda: NOW)
    metrics.watch_state(StateLayout(tmp_path), progress)
    return metrics


def test_a_histogram_of_arrays_counts_like_one_of_single_values() -> None:
    """A value on a bound belongs below it, what came before it was sent to the first bucket, and NaN to none."""
    metrics = Metrics("1.2.3", 0)
    latency_us = np.array([-5000.0, 0.0, 25_000.0, 25_001.0, 150_000.0, 11e6, np.nan])
    metrics.decoded(latency_us, np.array([0.0, 0.02, 1.0, np.nan]), 0.002)
    metrics.decoded(np.array([]), np.array([np.nan]), 0.002)
    found = samples(metrics)
    at_or_below = {
        bound: found[f'voicewatch_frame_latency_seconds_bucket{{le="{bound}"}}'] for bound in LATENCY_BUCKETS_S
    }
    assert [at_or_below[bound] for bound in (0.0, 0.025, 0.05, 0.15, 10.0)] == [2, 3, 4, 5, 5]
    assert found["voicewatch_frame_latency_seconds_count"] == 6
    assert found["voicewatch_frame_latency_seconds_sum"] == pytest.approx(11.195001)
    assert found['voicewatch_frame_packet_loss_ratio_bucket{le="0.0"}'] == 1
    assert found['voicewatch_frame_packet_loss_ratio_bucket{le="1.0"}'] == 3
    assert found["voicewatch_decode_seconds_count"] == 2


def test_what_the_flow_reports_is_counted() -> None:
    """Frames by outcome, windows, alerts by rule and state, and conversations as the sum over shards."""
    metrics = Metrics("1.2.3", 2)
    metrics.expect_alerts(["LATENCY_THRESHOLD_EXCEEDED", "PACKET_LOSS_DETECTED"])
    metrics.reported(frames=10, unwatched=3, rejected=1, windows=4, silent=2)
    metrics.late(2, 60.5)
    metrics.alert("PACKET_LOSS_DETECTED", "raised")
    metrics.shard_done(1, 5, 0.001)
    metrics.shard_done(2, 6, 0.001)
    metrics.shard_done(1, 4, 0.001)
    found = samples(metrics)
    assert found['voicewatch_info{process="2",version="1.2.3"}'] == 1
    assert found['voicewatch_frames_total{outcome="watched"}'] == 7
    assert found['voicewatch_frames_total{outcome="unwatched"}'] == 3
    assert found["voicewatch_rejected_lines_total"] == 1
    assert found["voicewatch_windows_total"] == 4
    assert found["voicewatch_watches_silent_total"] == 2
    assert found["voicewatch_late_events_total"] == 2
    assert found["voicewatch_late_event_lag_seconds_total"] == 60.5
    assert found['voicewatch_alerts_total{rule="PACKET_LOSS_DETECTED",state="raised"}'] == 1
    assert found['voicewatch_alerts_total{rule="LATENCY_THRESHOLD_EXCEEDED",state="raised"}'] == 0
    assert found["voicewatch_watched_conversations"] == 10
    assert found["voicewatch_shard_seconds_count"] == 3


def test_feeds_attempts_receivers_and_the_token_are_told() -> None:
    """A feed is there before it connects; the age of a token is that of the one that is held."""
    metrics = Metrics("1.2.3", 0, now=lambda: NOW)
    assert "voicewatch_token_age_seconds" not in samples(metrics)
    metrics.feed_expected("voice-events")
    assert samples(metrics)['voicewatch_feed_up{feed="voice-events"}'] == 0
    metrics.feed_changed("voice-events", "up")
    metrics.watch_token(lambda: 60.0)
    metrics.attempted("delivered")
    metrics.attempted("pending")
    metrics.attempt_took(0.03)
    metrics.receivers({"open": 2})
    found = samples(metrics)
    assert found['voicewatch_feed_up{feed="voice-events"}'] == 1
    assert found['voicewatch_feed_connections_total{feed="voice-events"}'] == 1
    assert found["voicewatch_token_age_seconds"] == 60
    assert found['voicewatch_delivery_attempts_total{outcome="retry"}'] == 1
    assert found['voicewatch_receivers{state="open"}'] == 2
    assert found['voicewatch_receivers{state="closed"}'] == 0
    metrics.feed_changed("voice-events", "down")
    metrics.receivers({"closed": 1})
    found = samples(metrics)
    assert found['voicewatch_feed_losses_total{feed="voice-events"}'] == 1
    assert found['voicewatch_receivers{state="open"}'] == 0


def test_the_outbox_is_looked_up(tmp_path: Path) -> None:
    """Depth and age are those of the file, also while another process writes it; without one they are 0."""
    path = StateLayout(tmp_path).outbox
    assert outbox_state(path, NOW) == (0, 0, 0.0)
    outbox = Outbox(path)
    outbox.insert([Callback(f"a{n}", f"c{n}", "http://127.0.0.1:1/", b"{}") for n in range(3)], NOW - 40)
    found = samples(watching(tmp_path))
    outbox.close()
    assert found['voicewatch_outbox_callbacks{state="pending"}'] == 3
    assert found['voicewatch_outbox_callbacks{state="dead"}'] == 0
    assert found["voicewatch_outbox_age_seconds"] == 40
    assert found["voicewatch_disk_free_bytes"] > 0


def test_spools_of_kafka_are_looked_up(tmp_path: Path) -> None:
    """Lines that wait, and those that had no room, by the results that they are of; nothing without a topic."""
    assert not [name for name in samples(watching(tmp_path)) if "kafka" in name]
    spool = Spool(StateLayout(tmp_path).spool("windows"), max_bytes=20)
    spool.add([Line(str(number), b"c1", b"{}") for number in range(7)])
    found = samples(watching(tmp_path))
    spool.close()
    assert found['voicewatch_kafka_lines{results="windows"}'] == 5
    assert found['voicewatch_kafka_lines_left_out_total{results="windows"}'] == 2


def test_what_cannot_be_looked_up_is_left_out(tmp_path: Path) -> None:
    """A damaged outbox costs its own metrics and no others."""
    (tmp_path / "outbox").mkdir()
    StateLayout(tmp_path).outbox.write_bytes(b"no database, but long enough to be taken for one" * 40)
    found = samples(watching(tmp_path))
    assert "voicewatch_outbox_age_seconds" not in found
    assert "voicewatch_disk_free_bytes" in found


def test_the_progress_of_a_source(tmp_path: Path) -> None:
    """Lag is what is written and not read, over segments; its age is that of the record read last; 0 at the end."""
    journal = tmp_path / "journal"
    journal.mkdir()
    record = b'{"received_at":%.1f,"frame":{"event":"e","entity":{"id":"c"},"timestamp":1}}\n' % (NOW - 30)
    named = record.replace(b'"frame"', b'"via":"hook","frame"')
    refused = b'{"received_at":%.1f,"via":"hook","invalid":"x","reason":"not JSON"}\n' % (NOW - 30)
    (journal / "00000001.jsonl").write_bytes(record * 2 + named + refused)
    (journal / "00000002.jsonl").write_bytes(record * 1000)
    idle = iter([100.0, 100.5, 103.0])
    progress = SourceProgress(
        journal, default_feed="voice-events", feeds=("hook",), now=lambda: NOW, monotonic=lambda: next(idle)
    )
    assert "voicewatch_journal_lag_bytes" not in samples(watching(tmp_path, progress))
    received: Counter[tuple[str | None, str]] = Counter()
    progress.begin(Position("00000001.jsonl"), received)
    data = record * 2 + named + refused
    received[None, "frame"] += 2
    received["hook", "frame"] += 1
    received["hook", "invalid"] += 1
    progress.polled(Position("00000001.jsonl", len(data), 4), data)
    found = samples(watching(tmp_path, progress))
    assert found["voicewatch_journal_lag_bytes"] == len(record) * 1000
    assert found["voicewatch_journal_lag_seconds"] == 30
    assert found["voicewatch_source_idle_seconds"] == 2.5
    assert found["voicewatch_journal_bytes"] == len(data) + len(record) * 1000
    assert found['voicewatch_feed_messages_total{feed="voice-events",outcome="frame"}'] == 2
    assert found['voicewatch_feed_messages_total{feed="hook",outcome="frame"}'] == 1
    assert found['voicewatch_feed_messages_total{feed="hook",outcome="invalid"}'] == 1


def test_a_source_at_the_end_does_not_lag(tmp_path: Path) -> None:
    """Silence is not a lag, however long ago the last record was."""
    journal = tmp_path / "journal"
    journal.mkdir()
    (journal / "00000001.jsonl").write_bytes(b'{"received_at":1.0,"tick":true}\n')
    progress = SourceProgress(journal, default_feed="voice-events", now=lambda: NOW)
    progress.begin(Position("00000001.jsonl"))
    progress.polled(Position("00000001.jsonl", 32, 1), b'{"received_at":1.0,"tick":true}\n')
    assert progress.lag() == (0, 0.0)
    assert progress.lag().is_none


def test_names_and_labels_keep_the_rules(tmp_path: Path) -> None:
    """Names have the prefix and base units, counters end in _total, and no label could hold an id."""
    progress = SourceProgress(tmp_path, default_feed="voice-events")
    progress.begin(Position(""))
    metrics = watching(tmp_path, progress)
    metrics.watch_token(lambda: 0.0)
    for family in text_string_to_metric_families(metrics.text().decode()):
        if family.name.startswith("process_"):
            continue
        assert family.name.startswith("voicewatch_")
        assert not re.search(r"_(ms|us|mb|kb|minutes|percent)\b", family.name), family.name
        assert family.documentation
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert set(sample.labels) <= {"outcome", "rule", "state", "feed", "le", "version", "process"}
