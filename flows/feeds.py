"""Make the feeds of a configuration."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.errors import RecordingError
from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import GenesysClient, budget_of
from connectors.genesys.credentials import credentials_from_environment
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.base import FeedBase, FeedLimits, Selection, WatchRules
from connectors.genesys.feeds.discovery import CallDiscovery
from connectors.genesys.feeds.notifications.topics import topics_of
from connectors.genesys.feeds.voice_events import VoiceEventsFeed
from connectors.genesys.interceptors import GenesysPlatform
from connectors.genesys.names import NameBook, Names
from connectors.journal.events import recorded_event_ids, recorded_offsets
from connectors.journal.recall import recorded_frames
from connectors.journal.source import Feed
from connectors.journal.writer import Journal, Recorder
from connectors.runtime.logs import get_logger
from connectors.state.actions import Action
from connectors.state.audit import AuditLog
from connectors.state.interceptors import InterceptorRegistry
from flows.interceptors import DiscoveredInterceptors, InterceptorCreator
from flows.monitoring.instruments import Instruments
from flows.settings.feeds import event_keys
from flows.settings.kafka import kafka_connection
from flows.settings.models import FeedSettings, Settings, audiohook_keys
from flows.settings.secrets import tls_context_of, tls_of, uses_client
from flows.settings.values import split_host
from flows.state import StateLayout

if TYPE_CHECKING:
    from connectors.kafka.connection import KafkaConnection

__all__ = ["endpoints_of", "feeds_of"]


def endpoints_of(settings: Settings) -> Endpoints:
    """Return where Genesys is, as the configuration says."""
    genesys = settings.genesys
    return Endpoints.from_base_url(
        genesys.base_url,
        login_url=genesys.login_url,
        events_url=genesys.events_url,
        load_path=genesys.load_path,
        interceptor_path=genesys.interceptor_path,
    )


def feeds_of(
    settings: Settings, environ: Mapping[str, str], enrichment: Callable[[str], Path], instruments: Instruments
) -> Callable[[AuditLog, Journal], Sequence[Feed]]:
    """Return what makes the feeds of a configuration, given an audit log and the journal that they write to.

    `enrichment` gives the path of a named feed's queue. Errors are found now, before anything is opened: raises
    CredentialsError if a feed needs credentials that the environment does not hold, ConfigurationError for bad
    AudioHook secrets or TLS files.
    """
    kinds = {feed.kind for feed in settings.feeds} or {"voice-events"}
    if any(feed.queue_url is not None for feed in settings.feeds):
        from connectors.genesys.feeds.eventbridge.queue import check_boto3

        check_boto3()
    if settings.kafka.brokers:
        from connectors.kafka.connection import check_confluent_kafka

        check_confluent_kafka()
    factory = _FeedFactory(
        settings=settings,
        endpoints=endpoints_of(settings),
        credentials=credentials_from_environment(environ) if uses_client(settings) else None,
        keys=audiohook_keys(settings.audiohook, environ) if "audiohook" in kinds else {},
        tls=tls_of(settings) if "audiohook" in kinds else None,
        event_keys={row.name: event_keys(row, environ) for row in settings.feeds if row.kind == "eventbridge"},
        event_tls={
            row.name: tls_context_of(f"feed {row.name}", row.tls_cert, row.tls_key)
            for row in settings.feeds
            if row.kind == "eventbridge"
        },
        kafka=kafka_connection(settings.kafka, environ),
        enrichment=enrichment,
        instruments=instruments,
    )
    return factory.make


@dataclass(frozen=True, kw_only=True)
class _FeedFactory:
    settings: Settings
    endpoints: Endpoints
    credentials: Credentials | None
    keys: dict[str, bytes | None]
    tls: ssl.SSLContext | None
    event_keys: dict[str, tuple[str, ...]]
    event_tls: dict[str, ssl.SSLContext | None]
    kafka: KafkaConnection | None
    enrichment: Callable[[str], Path]
    instruments: Instruments

    def make(self, audit: AuditLog, journal: Journal) -> list[Feed]:
        tokens = None if self.credentials is None else TokenProvider(self.endpoints, self.credentials)
        if tokens is not None:
            self.instruments.watch_token(tokens)
        events = _FeedEvents(audit, self.instruments)
        private = [row for row in self.settings.feeds if row.kind in ("notifications", "eventbridge", "kafka")]
        if self.settings.privacy.keep_raw and private:
            audit.append(Action.RAW_KEPT, conversation=None, outcome="notifications are kept with personal data")
        names = self._names(tokens)
        rows = self.settings.feeds or (FeedSettings(),)
        feeds = [self._feed(row, tokens, journal, events, names) for row in rows]
        figures = {row.name: feed.figures for row, feed in zip(rows, feeds, strict=True)}
        self.instruments.watch_feeds(figures, budget_of(self.endpoints.api_url).spent)
        return [names, *feeds] if isinstance(names, NameBook) else [*feeds]

    def _names(self, tokens: TokenProvider | None) -> Names:
        if tokens is None or not self.settings.genesys.resolve_names:
            return Names()
        path = StateLayout(self.settings.state.dir).names
        return NameBook(path, self.endpoints, tokens, budget_of(self.endpoints.api_url))

    def _feed(
        self, row: FeedSettings, tokens: TokenProvider | None, journal: Journal, events: _FeedEvents, names: Names
    ) -> FeedBase:
        # A lone feed that is not configured has no name in the records, as in recordings from when it was the only one.
        recorder = journal.recorder(row.name) if self.settings.feeds else journal
        if row.kind == "audiohook":
            return self._audiohook(row, recorder, events)
        if row.kind == "eventbridge":
            return self._eventbridge(row, recorder, journal.directory, events, names)
        if row.kind == "kafka":
            return self._kafka(row, recorder, journal.directory, events, names)
        assert tokens is not None
        if row.kind == "notifications":
            return self._notifications(row, tokens, recorder, journal.directory, events, names)
        return VoiceEventsFeed(
            url=self.endpoints.events_url,
            tokens=tokens,
            recorder=recorder,
            name=row.name,
            on_state=events.changed,
            share=self.settings.shard.share,
            discovery=self._discovery(row.name, tokens, journal, events, names) if self._discovers else None,
        )

    @property
    def _discovers(self) -> bool:
        return self.settings.watch.mode == "discover"

    @property
    def _rules(self) -> WatchRules:
        """Return which conversations are watched: any, where the configuration lists them."""
        watch = self.settings.watch
        if not self._discovers:
            return WatchRules()
        return WatchRules(watch.sample, watch.max, watch.match)

    def _discovery(
        self, name: str, tokens: TokenProvider, journal: Journal, events: _FeedEvents, names: Names
    ) -> CallDiscovery:
        def refused(reason: str, conversation_id: str) -> None:
            events.happened(name, "not_watched", {"reason": reason, "conversation": conversation_id})

        feed = name if self.settings.feeds else None  # as in the watch records of interceptors
        platform = GenesysPlatform(GenesysClient(self.endpoints, tokens))
        registry = InterceptorRegistry(StateLayout(self.settings.state.dir).interceptors)
        creator = InterceptorCreator(self.settings, platform, registry, journal, events.audit)
        return CallDiscovery(
            name,
            DiscoveredInterceptors(creator, platform, names, self.instruments.interceptor_created),
            Selection(self._rules, watching=lambda: len(journal.watched_by(feed)), refused=refused),
            budget_of(self.endpoints.api_url),
            max_concurrent=self.settings.genesys.max_concurrent,
            share=self.settings.shard.share,
            refused=refused,
            labels=self.settings.defaults.labels,
            recorded=_recorded(journal.directory, feed),
        )

    def _audiohook(self, row: FeedSettings, recorder: Journal | Recorder, events: _FeedEvents) -> FeedBase:
        from connectors.genesys.feeds.audiohook.feed import AudioHookFeed
        from connectors.genesys.feeds.audiohook.levels import Silence

        hook, alerts = self.settings.audiohook, self.settings.alerts
        return AudioHookFeed(
            name=row.name,
            listen=hook.address,
            path=hook.path,
            keys=self.keys,
            recorder=recorder,
            limits=self._limits(row),
            rules=self._rules,
            labels_from=row.labels_from,
            silence=None if alerts.silent_after_s is None else Silence(alerts.silence_dbfs, alerts.silent_after_s),
            tls=self.tls,
            on_state=events.changed,
            on_event=events.happened,
        )

    def _eventbridge(
        self, row: FeedSettings, recorder: Recorder, journal: Path, events: _FeedEvents, names: Names
    ) -> FeedBase:
        from connectors.genesys.feeds.eventbridge.feed import EventBridgeFeed
        from connectors.genesys.feeds.eventbridge.queue import QueueFeed
        from connectors.genesys.feeds.eventbridge.recorder import REMEMBERED_EVENTS

        shared: dict[str, Any] = {
            "name": row.name,
            "recorder": recorder,
            "limits": self._limits(row),
            "known": recorded_event_ids(journal, row.name, REMEMBERED_EVENTS),
            "recorded": _recorded(journal, row.name),
            "names": names,
            "rules": self._rules,
            "keep_raw": self.settings.privacy.keep_raw,
            "on_state": events.changed,
            "on_event": events.happened,
        }
        if row.queue_url is not None:
            return QueueFeed(url=row.queue_url, **shared)
        assert row.listen is not None
        return EventBridgeFeed(
            listen=split_host(row.listen),
            path=row.path,
            header=row.header,
            keys=self.event_keys[row.name],
            tls=self.event_tls[row.name],
            **shared,
        )

    def _kafka(
        self, row: FeedSettings, recorder: Recorder, journal: Path, events: _FeedEvents, names: Names
    ) -> FeedBase:
        from connectors.genesys.feeds.kafka import REMEMBERED_MESSAGES, KafkaFeed

        assert self.kafka is not None
        assert row.topic is not None
        shard = self.settings.shard
        return KafkaFeed(
            name=row.name,
            connection=self.kafka,
            topic=row.topic,
            group=row.group if shard.count == 1 else f"{row.group}-{shard.index}",
            start=row.start,
            recorder=recorder,
            limits=self._limits(row),
            recorded=recorded_offsets(journal, row.name, row.topic, REMEMBERED_MESSAGES),
            remembered=_recorded(journal, row.name),
            names=names,
            rules=self._rules,
            share=shard.share,
            keep_raw=self.settings.privacy.keep_raw,
            on_state=events.changed,
            on_event=events.happened,
        )

    def _notifications(
        self,
        row: FeedSettings,
        tokens: TokenProvider,
        recorder: Journal | Recorder,
        journal: Path,
        events: _FeedEvents,
        names: Names,
    ) -> FeedBase:
        from connectors.genesys.feeds.notifications.discovery import Sources
        from connectors.genesys.feeds.notifications.extras import Extras
        from connectors.genesys.feeds.notifications.feed import NotificationsFeed

        return NotificationsFeed(
            name=row.name,
            tokens=tokens,
            endpoints=self.endpoints,
            topics=[*topics_of(row.conversations, [], []), *row.topics],
            sources=Sources(row.queues, row.users, discover=self._discovers, edges="edge" in self.settings.labels_used),
            recorder=recorder,
            limits=self._limits(row),
            rules=self._rules,
            share=self.settings.shard.share,
            keep_raw=self.settings.privacy.keep_raw,
            names=names,
            recorded=_recorded(journal, row.name),
            on_state=events.changed,
            on_event=events.happened,
            enrich_queue=self.enrichment(row.name) if row.enrich else None,
            extras=Extras(
                sweep=StateLayout(self.settings.state.dir).sweep(row.name) if row.sweep else None,
                statistics=row.media_statistics,
            ),
        )

    def _limits(self, row: FeedSettings) -> FeedLimits:
        return FeedLimits(name=row.name, **self.settings.limits_of(row))


def _recorded(journal: Path, feed: str | None) -> list[bytes]:
    """Return the last messages of a feed in the journal, none where it cannot be read: then their order is unknown."""
    try:
        return recorded_frames(journal, feed)
    except RecordingError as error:
        get_logger(__name__).warning("messages_not_recalled", feed=feed, reason=str(error))
        return []


class _FeedEvents:
    """Write to the audit log what happens to feeds."""

    def __init__(self, audit: AuditLog, instruments: Instruments) -> None:
        self.audit = audit
        self._instruments = instruments
        self._reasons: set[tuple[str, str]] = set()

    def changed(self, feed: str, state: str, reason: str) -> None:
        """Take that a feed is `up` or `down`, and why."""
        self._instruments.feed_changed(feed, state, reason)
        action = Action.FEED_UP if state == "up" else Action.FEED_DOWN
        self.audit.append(action, conversation=None, outcome=reason, feed=feed)

    def happened(self, feed: str, what: str, details: Mapping[str, str]) -> None:
        """Take an event of a feed; of the conversations that are not watched, the first of each reason is audited."""
        reason = details["reason"]
        if what == "topic_refused":
            self._instruments.topic_refused(feed)
            self.audit.append(
                Action.TOPIC_REFUSED, conversation=None, outcome=reason, feed=feed, topic=details["topic"]
            )
            return
        self._instruments.not_watched(feed, reason)
        if (feed, reason) not in self._reasons:
            self._reasons.add((feed, reason))
            self.audit.append(
                Action.CONVERSATION_NOT_WATCHED, conversation=details["conversation"], outcome=reason, feed=feed
            )
