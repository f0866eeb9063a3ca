"""Define what the dataflow reports: to a null object here, to `flows.monitoring.monitor.Monitor` with metrics.

The dataflow stays a pure function of the journal: instruments measure around its steps and never change a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from connectors.format.decode import decode_block
from connectors.format.decoded import Decoded
from flows.analytics.block_results import ShardResult
from flows.analytics.merge import BlockResult
from flows.analytics.shard import Shard
from flows.analytics.shards import ShardBlock

if TYPE_CHECKING:
    from connectors.callbacks.metrics import DeliveryMetrics
    from connectors.journal.progress import SourceProgress

__all__ = ["Instruments", "Tokens"]


class Tokens(Protocol):
    """Describe the holder of the access token, such as `connectors.genesys.auth.TokenProvider`."""

    @property
    def age_s(self) -> float | None:
        """Return how long ago the token was requested, in seconds; None before the first one."""


class Instruments:
    """Measure nothing. A subclass overrides what it measures; every method may be called from any thread."""

    @property
    def progress(self) -> SourceProgress | None:
        """Return where the source notes how far it has read."""
        return None

    @property
    def delivery(self) -> DeliveryMetrics | None:
        """Return where attempts to deliver callbacks are counted."""
        return None

    def start(self) -> None:
        """Start to serve and to notify, until `stop` or the end of the process."""

    def stop(self) -> None:
        """Stop serving and notifying."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run from `start` to `stop`."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def decode(self, data: bytes) -> Decoded:
        """Call `decode_block`."""
        return decode_block(data)

    def apply(self, shard: Shard, block: ShardBlock) -> ShardResult:
        """Call `shard.apply`."""
        return shard.apply(block)

    def reported(self, reports: Sequence[BlockResult]) -> None:
        """Take the dataflow's results of some blocks."""

    def feed_changed(self, feed: str, state: str, reason: str) -> None:
        """Take that a feed is `up` or `down`, and why."""

    @property
    def calls_not_watched(self) -> Mapping[str, int]:
        """Return how many conversations the feeds have found and do not watch, by reason."""
        return {}

    def not_watched(self, feed: str, reason: str) -> None:
        """Take that a feed has found a conversation and does not watch it."""

    @property
    def interceptors_created(self) -> int:
        """Return how many interceptors discovery has created."""
        return 0

    def interceptor_created(self) -> None:
        """Take that discovery has created an interceptor."""

    def topic_refused(self, feed: str) -> None:
        """Take that Genesys has refused a topic of a feed."""

    def watch_feeds(
        self, figures: Mapping[str, Callable[[], Mapping[str, float]]], requests: Callable[[], int]
    ) -> None:
        """Report from now on what these feeds use, by name, and the requests to Genesys in the last minute."""

    def watch_token(self, tokens: Tokens) -> None:
        """Report the age of this token from now on."""
