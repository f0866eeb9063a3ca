"""Count and measure for Prometheus: base units, names that end in `_total`, labels from closed sets only.

Everything is counted a block, a batch or an attempt at a time, never a frame at a time. What can be looked up (the
outbox, the journal, the disk, the age of the token) is looked up for each request. Counters start at 0 with every
process; a restart reads some blocks again, and counts them again.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from connectors.callbacks.metrics import DeliveryMetrics
from connectors.callbacks.outbox import outbox_state
from connectors.journal.progress import SourceProgress
from connectors.kafka.spool import spool_state
from connectors.runtime.logs import get_logger
from flows.state import StateLayout

__all__ = ["CONTENT_TYPE", "LATENCY_BUCKETS_S", "LOSS_BUCKETS", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# The first one holds what arrived before it was sent: the difference of two clocks.
LATENCY_BUCKETS_S: Final = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 10.0)
LOSS_BUCKETS: Final = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
WORK_BUCKETS_S: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ANSWER_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
RECEIVER_STATES: Final = ("closed", "open", "gone")


NOT_WATCHED_REASONS = ("sample", "match", "max", "max_concurrent", "channels", "failed")


class _ArrayHistogram(Collector):
    """Fill a histogram from whole arrays: prometheus_client's own takes one value at a time."""

    def __init__(self, name: str, help_: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._help = help_
        self._labels = [str(floatToGoString(bound)) for bound in (*bounds, np.inf)]  # type: ignore[no-untyped-call]
        # A bucket holds what is at or below its bound: numpy's, with these edges, what is below the next float.
        self._edges = np.concatenate(([-np.inf], np.nextafter(bounds, np.inf), [np.inf]))
        self._counts = np.zeros(len(self._labels), np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: NDArray[np.float64]) -> None:
        """Add the values of an array; NaN stands for no value."""
        known = values[~np.isnan(values)]
        if not len(known):
            return
        counts = np.histogram(known, self._edges)[0]
        with self._lock:
            self._counts += counts
            self._sum += float(known.sum())

    def collect(self) -> Iterator[Metric]:
        """Yield the cumulative buckets, as Prometheus expects them."""
        with self._lock:
            cumulative, total = np.cumsum(self._counts), self._sum
        buckets = [(label, float(count)) for label, count in zip(self._labels, cumulative, strict=True)]
        yield HistogramMetricFamily(self._name, self._help, buckets=buckets, sum_value=total)


class _LookedUp(Collector):
    """Look up values that other objects hold; leave out one that cannot be read, and log that once."""

    def __init__(self, look: Callable[[], Iterator[Metric]], what: str) -> None:
        self._look = look
        self._what = what
        self._failed = False

    def collect(self) -> Iterator[Metric]:
        """Look everything up."""
        try:
            families = list(self._look())
        except (OSError, sqlite3.Error) as error:
            if not self._failed:
                get_logger(__name__).warning("metrics_incomplete", what=self._what, error=str(error))
            self._failed = True
            return
        self._failed = False
        yield from families

    def describe(self) -> list[Metric]:
        """Return nothing: registering must not look anything up."""
        return []


class Metrics(DeliveryMetrics):
    """Hold the metrics of one process in a separate registry. Every method may be called from any thread."""

    def __init__(self, version: str, process: int, *, now: Callable[[], float] = time.time) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # one more series for each counter and histogram, which is not used
        self.registry = CollectorRegistry()
        self._now = now
        self._watching: dict[int, int] = {}
        self._token_age_s: Callable[[], float | None] = lambda: None
        own: dict[str, Any] = {"registry": self.registry}
        ProcessCollector(**own)
        Gauge(
            "voicewatch_info", "1; the version that runs, and its number in the cluster.", ["version", "process"], **own
        ).labels(version, str(process)).set(1)
        self._frames = Counter("voicewatch_frames", "Frames that went through the dataflow.", ["outcome"], **own)
        self._rejected = Counter("voicewatch_rejected_lines", "Lines of the journal that are not records.", **own)
        self._windows = Counter("voicewatch_windows", "Windows written.", **own)
        self._silent = Counter("voicewatch_watches_silent", "Watches that ended without a frame for too long.", **own)
        self._late = Counter("voicewatch_late_events", "Events older than the newest of their session.", **own)
        self._late_s = Counter("voicewatch_late_event_lag_seconds", "Time that late events took, summed.", **own)
        self._alerts = Counter("voicewatch_alerts", "Alerts raised and resolved.", ["rule", "state"], **own)
        self._decode = Histogram("voicewatch_decode_seconds", "Time to decode a block.", buckets=WORK_BUCKETS_S, **own)
        self._shard = Histogram(
            "voicewatch_shard_seconds", "Time for one shard's part of a block.", buckets=WORK_BUCKETS_S, **own
        )
        Gauge(
            "voicewatch_watched_conversations", "Conversations watched now, by the shards of this process.", **own
        ).set_function(lambda: sum(list(self._watching.values())))
        self._latency = _ArrayHistogram(
            "voicewatch_frame_latency_seconds", "Arrival of a frame minus its timestamp.", LATENCY_BUCKETS_S
        )
        self._loss = _ArrayHistogram(
            "voicewatch_frame_packet_loss_ratio", "Packet loss that frames report.", LOSS_BUCKETS
        )
        self._feed_up = Gauge("voicewatch_feed_up", "1 while a feed is connected, else 0.", ["feed"], **own)
        self._connections = Counter("voicewatch_feed_connections", "Times that a feed connected.", ["feed"], **own)
        self._losses = Counter("voicewatch_feed_losses", "Times that a feed lost its connection.", ["feed"], **own)
        self._not_watched = Counter(
            "voicewatch_not_watched", "Conversations found and not watched.", ["feed", "reason"], **own
        )
        self._refused = Counter("voicewatch_topics_refused", "Topics and names that Genesys refused.", ["feed"], **own)
        self._attempts = Counter("voicewatch_delivery_attempts", "Attempts to deliver a callback.", ["outcome"], **own)
        self._attempt_s = Histogram(
            "voicewatch_delivery_attempt_seconds", "Time that an attempt took.", buckets=ANSWER_BUCKETS_S, **own
        )
        self._receivers = Gauge("voicewatch_receivers", "Receivers, by the state of their breaker.", ["state"], **own)
        for collector in (self._latency, self._loss, _LookedUp(self._token, "token")):
            self.registry.register(collector)
        self._make_closed_sets_visible()

    def _make_closed_sets_visible(self) -> None:
        # A series that appears with its first event has no increase that an alert rule could see.
        for outcome in ("watched", "unwatched"):
            self._frames.labels(outcome)
        for outcome in ("delivered", "retry", "dead"):
            self._attempts.labels(outcome)

    def text(self) -> bytes:
        """Return all metrics in the text format 0.0.4."""
        return generate_latest(self.registry)

    def decoded(self, latency_us: NDArray[np.float64], packet_loss: NDArray[np.float64], seconds: float) -> None:
        """Record that a block was decoded in the given seconds; NaN where a frame has no latency or loss."""
        self._decode.observe(seconds)
        self._latency.observe(latency_us / 1e6)
        self._loss.observe(packet_loss)

    def shard_done(self, shard: int, watching: int, seconds: float) -> None:
        """Record the time a shard (identified by a unique number) took, and how many conversations it watches."""
        self._watching[shard] = watching
        self._shard.observe(seconds)

    def reported(self, *, frames: int, unwatched: int, rejected: int, windows: int, silent: int) -> None:
        """Count the results of a block."""
        self._silent.inc(silent)
        self._frames.labels("watched").inc(frames - unwatched)
        self._frames.labels("unwatched").inc(unwatched)
        self._rejected.inc(rejected)
        self._windows.inc(windows)

    def late(self, events: int, seconds: float) -> None:
        """Count events older than the newest of their session, and how long they took together."""
        self._late.inc(events)
        self._late_s.inc(max(seconds, 0.0))

    def expect_alerts(self, rules: Iterable[str]) -> None:
        """Show a zero for each of these rules until it alerts."""
        for rule in rules:
            for state in ("raised", "resolved"):
                self._alerts.labels(rule, state)

    def alert(self, rule: str, state: str) -> None:
        """Count an alert of a rule that was raised or resolved."""
        self._alerts.labels(rule, state).inc()

    def feed_expected(self, feed: str) -> None:
        """Show a feed of this name as not connected yet."""
        self._feed_up.labels(feed).set(0)
        self._connections.labels(feed)
        self._losses.labels(feed)
        self._refused.labels(feed)
        for reason in NOT_WATCHED_REASONS:
            self._not_watched.labels(feed, reason)

    def feed_changed(self, feed: str, state: str) -> None:
        """Note that a feed is `up` or `down`."""
        self._feed_up.labels(feed).set(state == "up")
        (self._connections if state == "up" else self._losses).labels(feed).inc()

    def not_watched(self, feed: str, reason: str) -> None:
        """Count a conversation that a feed has found and does not watch."""
        self._not_watched.labels(feed, reason).inc()

    def topic_refused(self, feed: str) -> None:
        """Count a topic that Genesys did not subscribe, or a name that it does not know."""
        self._refused.labels(feed).inc()

    def attempted(self, state: str) -> None:
        """Count an attempt, after which the callback is `delivered`, `pending` or `dead`."""
        self._attempts.labels("retry" if state == "pending" else state).inc()

    def attempt_took(self, seconds: float) -> None:
        """Note how long an attempt to deliver a callback took."""
        self._attempt_s.observe(seconds)

    def receivers(self, states: Mapping[str, int]) -> None:
        """Note how many receivers are in each state: `closed`, `open`, `gone`."""
        for state in RECEIVER_STATES:
            self._receivers.labels(state).set(states.get(state, 0))

    def watch_token(self, age_s: Callable[[], float | None]) -> None:
        """Look up the age of the token there from now on, in seconds."""
        self._token_age_s = age_s

    def watch_feeds(
        self, figures: Mapping[str, Callable[[], Mapping[str, float]]], requests: Callable[[], int]
    ) -> None:
        """Look up what the feeds use there from now on, by their names, and the requests of the last minute."""
        self._registered(lambda: _feeds(figures, requests), "feeds")

    def watch_state(self, state: StateLayout, progress: SourceProgress) -> None:
        """Look up the source's progress, the outbox, the spools and the disk of the state directory from now on."""
        for what, look in (
            ("source", lambda: _source(progress)),
            ("outbox", lambda: _outbox(state.outbox, self._now())),
            ("kafka", lambda: _kafka(state.spools)),
            ("disk", lambda: _disk(state.dir)),
        ):
            self._registered(look, what)

    def _registered(self, look: Callable[[], Iterator[Metric]], what: str) -> None:
        self.registry.register(_LookedUp(look, what))

    def _token(self) -> Iterator[Metric]:
        age_s = self._token_age_s()
        if age_s is not None:
            yield GaugeMetricFamily("voicewatch_token_age_seconds", "Age of the access token.", value=age_s)


def _feeds(feeds: Mapping[str, Callable[[], Mapping[str, float]]], requests: Callable[[], int]) -> Iterator[Metric]:
    duplicates = CounterMetricFamily(
        "voicewatch_feed_duplicates", "Messages that a feed received again, and left out.", labels=["feed"]
    )
    topics = GaugeMetricFamily("voicewatch_feed_topics", "Topics subscribed; 20,000 are allowed.", labels=["feed"])
    channels = GaugeMetricFamily("voicewatch_feed_channels", "Channels connected; 20 are allowed.", labels=["feed"])
    age_s = GaugeMetricFamily(
        "voicewatch_feed_channel_age_seconds", "How long the oldest channel has been connected.", labels=["feed"]
    )
    for name, look in feeds.items():
        found = look()
        for family, key in ((duplicates, "duplicates"), (topics, "topics"), (channels, "channels")):
            family.add_metric([name], found.get(key, 0))
        age_s.add_metric([name], found.get("channel_age_s", 0))
    yield from (duplicates, topics, channels, age_s)
    yield GaugeMetricFamily(
        "voicewatch_genesys_requests", "Requests to Genesys in the last minute; 300 are allowed.", value=requests()
    )


def _source(progress: SourceProgress) -> Iterator[Metric]:
    idle_s = progress.idle_s
    if idle_s is None:
        return  # the source is in another process, or not there yet
    lag = progress.lag()
    messages = CounterMetricFamily(
        "voicewatch_feed_messages", "Messages received, by feed and kind.", labels=["feed", "outcome"]
    )
    for (feed, kind), count in progress.messages.items():
        messages.add_metric([feed, kind], count)
    yield messages
    yield CounterMetricFamily(
        "voicewatch_clock_steps", "Steps of the system clock, by more than a second.", value=progress.clock_steps
    )
    gauges = {
        "voicewatch_source_idle_seconds": ("Time since the dataflow last asked its source for more.", idle_s),
        "voicewatch_journal_lag_bytes": ("What is in the journal and not yet read.", lag.bytes),
        "voicewatch_journal_lag_seconds": ("How old the journal is where it is being read; 0 at its end.", lag.seconds),
        "voicewatch_journal_bytes": ("What the journal takes on the disk.", progress.journal_bytes()),
    }
    for name, (help_, value) in gauges.items():
        yield GaugeMetricFamily(name, help_, value=value)


def _outbox(path: Path, now: float) -> Iterator[Metric]:
    state = outbox_state(path, now)
    callbacks = GaugeMetricFamily("voicewatch_outbox_callbacks", "Callbacks in the outbox.", labels=["state"])
    callbacks.add_metric(["pending"], state.pending)
    callbacks.add_metric(["dead"], state.dead)
    yield callbacks
    yield GaugeMetricFamily("voicewatch_outbox_age_seconds", "How long the oldest one has waited.", value=state.age_s)


def _kafka(spools: Mapping[str, Path]) -> Iterator[Metric]:
    if not spools:
        return
    waiting = GaugeMetricFamily("voicewatch_kafka_lines", "Lines that wait for their topic.", labels=["results"])
    left_out = CounterMetricFamily(
        "voicewatch_kafka_lines_left_out", "Lines that had no room to wait for their topic.", labels=["results"]
    )
    for name, path in spools.items():
        spool = spool_state(path)
        waiting.add_metric([name], spool.waiting)
        left_out.add_metric([name], spool.left_out)
    yield waiting
    yield left_out


def _disk(directory: Path) -> Iterator[Metric]:
    usage = shutil.disk_usage(directory)
    yield GaugeMetricFamily("voicewatch_disk_free_bytes", "Free space for the state directory.", value=usage.free)
    yield GaugeMetricFamily("voicewatch_disk_size_bytes", "Size of the disk it is on.", value=usage.total)
