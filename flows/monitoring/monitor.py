"""Watch a run from outside the dataflow: its metrics, its health, and its messages to systemd.

The dataflow stays a pure function of the journal: it is measured around its steps, by the methods that this hands to
`flows.dataflow.build`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from connectors.format.decode import decode_block
from connectors.format.decoded import Decoded
from connectors.journal.progress import SourceProgress
from connectors.runtime.shutdown import Shutdown
from connectors.runtime.systemd import Notifier
from flows.analytics.block_results import ShardResult
from flows.analytics.merge import BlockResult
from flows.analytics.rules import RULES
from flows.analytics.shard import Shard
from flows.analytics.shards import ShardBlock
from flows.analytics.signals import SIGNAL_RULES
from flows.monitoring.health import Health, Limits, answers_of
from flows.monitoring.instruments import Instruments, Tokens
from flows.monitoring.metrics import Metrics
from flows.monitoring.run_log import RunLog
from flows.settings.metrics import MetricsSettings
from flows.settings.models import Settings
from flows.state import StateLayout
from flows.web.page import HealthPage, LivePage

__all__ = ["Monitor", "instruments_of", "process_number"]

DEFAULT_FEED: Final = "voice-events"


class Monitor(RunLog):
    """Provide metrics and health of one process of a run. Nothing is opened before `start`."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        shutdown: Shutdown,
        *,
        process: int = 0,
        port_offset: int = 0,
        now: Callable[[], float] = time.time,
    ) -> None:
        state = StateLayout(settings.state.dir)
        names = tuple(feed.name for feed in settings.feeds)
        progress = SourceProgress(state.journal, default_feed=DEFAULT_FEED, feeds=names, now=now)
        super().__init__(state.outbox, progress, now=now)
        self._directory = settings.state.dir
        self._address = settings.metrics.address(port_offset)
        self.metrics = Metrics(_version(), process, now=now)
        self._health = Health(
            _limits(settings.metrics),
            progress,
            directory=self._directory,
            outbox=state.outbox,
            has_source=process == 0,
            now=now,
        )
        self.metrics.watch_state(state, progress)
        self.metrics.expect_alerts((*RULES, *SIGNAL_RULES))
        if process == 0:
            for name in names or (DEFAULT_FEED,):
                self.metrics.feed_expected(name)
        self._notifier = Notifier(
            environ,
            ready=progress.began,
            stopping=shutdown.requested,
            is_live=lambda: self._health.live().ok,
        )
        self._server: HealthPage | None = None
        self._environ = environ
        self._web = settings.web if process == 0 and settings.web.listen is not None else None
        self._page: LivePage | None = None

    @property
    def port(self) -> int | None:
        """Return the port of metrics and health checks; None before the start, and if they are not served."""
        return None if self._server is None else self._server.port

    def start(self) -> None:
        """Serve and notify, until `stop` or the end of the process. Raises VoicewatchError if the port is taken."""
        answers = answers_of(self.metrics.text, self._health)
        if self._address is not None and not self._is_on_the_page():
            self._server = HealthPage(*self._address, answers)
        if self._web is not None:
            self._page = LivePage(self._web, self._directory, self._environ, answers)
            self._health.watch_page(lambda: "" if self._page is None else self._page.failure)
            self._page.start()
        if self._server is not None:
            self._server.start()
        self._notifier.start()
        super().start()

    def stop(self) -> None:
        """Stop serving and notifying."""
        super().stop()
        self._notifier.stop()
        if self._page is not None:
            self._page.stop()
        if self._server is not None:
            self._server.stop()

    def _is_on_the_page(self) -> bool:
        """Return whether `[metrics]` and `[web]` name the same address, which is bound once."""
        return self._web is not None and self._web.address == self._address

    @property
    def delivery(self) -> Metrics:
        """Return where attempts to deliver callbacks are counted."""
        return self.metrics

    def feed_changed(self, feed: str, state: str, reason: str) -> None:  # noqa: ARG002
        """Take that a feed is `up` or `down`, and why."""
        self.metrics.feed_changed(feed, state)
        self._health.feed_changed(feed, state)

    def not_watched(self, feed: str, reason: str) -> None:
        """Take that a feed has found a conversation and does not watch it."""
        super().not_watched(feed, reason)
        self.metrics.not_watched(feed, reason)

    def topic_refused(self, feed: str) -> None:
        """Take that Genesys has refused a topic of a feed."""
        self.metrics.topic_refused(feed)

    def watch_feeds(
        self, figures: Mapping[str, Callable[[], Mapping[str, float]]], requests: Callable[[], int]
    ) -> None:
        """Show what these feeds use, and the requests to Genesys in the last minute, from now on."""
        self.metrics.watch_feeds(figures, requests)

    def watch_token(self, tokens: Tokens) -> None:
        """Show the age of the token of this holder from now on."""
        self.metrics.watch_token(lambda: tokens.age_s)

    def decode(self, data: bytes) -> Decoded:
        """Call `decode_block`, and measure it."""
        began = time.perf_counter()
        decoded = decode_block(data)
        self.metrics.decoded(decoded.latency_us, decoded.packet_loss, time.perf_counter() - began)
        return decoded

    def apply(self, shard: Shard, block: ShardBlock) -> ShardResult:
        """Call `shard.apply`, and measure it."""
        began = time.perf_counter()
        result = super().apply(shard, block)
        self.metrics.shard_done(id(shard), shard.watching, time.perf_counter() - began)
        return result

    def reported(self, reports: Sequence[BlockResult]) -> None:
        """Count the results of some blocks."""
        super().reported(reports)
        for report in reports:
            counts = report.counts
            self.metrics.reported(
                frames=counts.frames,
                unwatched=counts.unwatched,
                rejected=counts.rejected,
                windows=counts.windows,
                silent=counts.silent,
            )
            self.metrics.late(counts.late, counts.late_us / 1e6)
            for alert in report.alerts:
                self.metrics.alert(alert.rule, alert.state)


def instruments_of(
    settings: Settings,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    *,
    process: int = 0,
    port_offset: int = 0,
) -> Instruments:
    """Return a monitor if something is served or systemd is notified, otherwise only the log of the run."""
    if settings.metrics.listen is None and settings.web.listen is None and "NOTIFY_SOCKET" not in environ:
        state = StateLayout(settings.state.dir)
        return RunLog(state.outbox, SourceProgress(state.journal, default_feed=DEFAULT_FEED))
    return Monitor(settings, environ, shutdown, process=process, port_offset=port_offset)


def process_number(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[int, int]:
    """Return the number of this process in its cluster, and what it adds to the port, from the arguments of the runner.

    Processes numbered with `-i` or BYTEWAX_PROCESS_ID may share a machine, and so add their number. Pods of a
    StatefulSet have addresses of their own, and add nothing.

    >>> process_number(["flows.voice_qa", "-i", "2"], {})
    (2, 2)
    >>> process_number([], {"BYTEWAX_POD_NAME": "voicewatch-1", "BYTEWAX_STATEFULSET_NAME": "voicewatch"})
    (1, 0)
    >>> process_number([], {})
    (0, 0)
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--process-id", default=environ.get("BYTEWAX_PROCESS_ID", ""))
    told = parser.parse_known_args(arguments)[0].process_id
    if told.isdigit():
        return int(told), int(told)
    pod, group = environ.get("BYTEWAX_POD_NAME", ""), environ.get("BYTEWAX_STATEFULSET_NAME", "")
    ordinal = pod.removeprefix(f"{group}-")
    return (int(ordinal) if group and ordinal.isdigit() else 0), 0


def _limits(metrics: MetricsSettings) -> Limits:
    return Limits(metrics.stalled_after_s, metrics.outbox_limit, metrics.disk_floor_mib * 2**20)


def _version() -> str:
    try:
        return version("voicewatch")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
