"""Live running: the dataflow over a journal that the feeds write, with its state in one directory."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig

from connectors.callbacks.policy import DeliveryPolicy
from connectors.callbacks.signing import SECRET_VARIABLE, parse_secrets
from connectors.callbacks.sink import CallbackSink
from connectors.errors import ConfigurationError
from connectors.format.decode import ended_conversations
from connectors.format.notifications import read_notification
from connectors.genesys.auth import TokenProvider, credentials_from_environment
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.notifications.topics import topics_of
from connectors.genesys.feeds.voice_events import VoiceEventsFeed
from connectors.journal.source import Feed, JournalSource
from connectors.journal.writer import INTERRUPTED, Journal
from connectors.runtime.logs import get_logger
from connectors.runtime.shutdown import Shutdown
from connectors.state.audit import AuditLog, AuditSink
from connectors.state.files import JsonLinesSink
from connectors.state.recovery import make_recovery_store
from flows.dataflow import Outputs, TallySink, build
from flows.settings.models import FeedSettings, Settings, audiohook_keys
from flows.state import StateLayout

if TYPE_CHECKING:
    from flows.monitoring.monitor import Monitor

__all__ = [
    "SNAPSHOT_EVERY",
    "endpoints_of",
    "feeds_of",
    "live_flow",
    "open_journal",
    "policy_of",
    "recovery_of",
    "tls_of",
]

# The worker waits for the disk meanwhile, and whatever was read since is read again after a crash.
SNAPSHOT_EVERY: Final = timedelta(seconds=5)


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What callbacks are signed with. Raises ConfigurationError for a bad secret."""
    return parse_secrets(environ.get(SECRET_VARIABLE, ""))


def policy_of(settings: Settings) -> DeliveryPolicy:
    """How callbacks are to be delivered."""
    delivery = settings.delivery
    return DeliveryPolicy(
        timeout_s=delivery.timeout_s,
        max_attempts=delivery.max_attempts,
        allow_private_addresses=delivery.allow_private_addresses,
    )


def open_journal(settings: Settings) -> Journal:
    """The journal of the state directory, to be written; the feeds that a crash lost are audited. Raises StateError."""
    state = StateLayout(settings.state.dir)
    journal = Journal(
        state.journal,
        settings=settings.flow_record(),
        ended=ended_conversations,
        sync_always=settings.state.fsync == "always",
    )
    for name in journal.interrupted:
        AuditLog(state.audit).append("FEED_DOWN", conversation=None, outcome=INTERRUPTED, feed=name)
    return journal


def recovery_of(settings: Settings) -> RecoveryConfig:
    """Bytewax' recovery store in the state directory, made on first use. Raises StateError."""
    directory = StateLayout(settings.state.dir).recovery
    make_recovery_store(directory)
    return RecoveryConfig(directory)  # type: ignore[no-untyped-call]


def live_flow(
    settings: Settings,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    tally: TallySink | None = None,
    monitor: Monitor | None = None,
) -> Dataflow:
    """The live flow. Nothing is opened before a worker builds it. A shutdown ends it with a last snapshot.

    Raises CredentialsError if the environment holds no credentials and a feed needs them, ConfigurationError for bad
    callback secrets, AudioHook secrets or TLS files.
    """
    get_logger(__name__)  # what logging imports is there from now on, even if files or memory run out later
    state = StateLayout(settings.state.dir)
    feeds = feeds_of(settings, environ, state.enrichment, monitor)
    secrets = secrets_of(environ)
    audit = AuditLog(state.audit)
    outputs = Outputs(
        windows=JsonLinesSink(state.windows),
        alerts=JsonLinesSink(state.alerts),
        callbacks=CallbackSink(
            state.outbox,
            audit=audit,
            secrets=secrets,
            policy=policy_of(settings),
            metrics=monitor.metrics if monitor else None,
        ),
        audit=AuditSink(state.audit),
        tally=tally,
    )
    source = JournalSource(
        state.lock,
        partial(open_journal, settings),
        partial(feeds, audit),
        shutdown,
        keep_s=settings.state.keep_hours * 3600.0,
        progress=monitor.progress if monitor else None,
    )
    return build(source, outputs, monitor=monitor)


OnState = Callable[[str, str, str], None]


def endpoints_of(settings: Settings) -> Endpoints:
    """Where the configuration says that Genesys is."""
    genesys = settings.genesys
    return Endpoints.from_base_url(
        genesys.base_url,
        login_url=genesys.login_url,
        events_url=genesys.events_url,
        load_path=genesys.load_path,
        interceptor_path=genesys.interceptor_path,
    )


def feeds_of(
    settings: Settings,
    environ: Mapping[str, str],
    enrichment: Callable[[str], Path],
    monitor: Monitor | None = None,
) -> Callable[[AuditLog, Journal], Sequence[Feed]]:
    """What makes the feeds of a configuration, given an audit log and the journal that they are to write.

    `enrichment` tells where the feed of a name keeps its queue. What can be found wrong is found now: raises
    CredentialsError if a feed needs credentials that the environment does not hold, ConfigurationError for bad
    AudioHook secrets or TLS files.
    """
    endpoints = endpoints_of(settings)
    rows = settings.feeds or (FeedSettings(),)
    kinds = {feed.kind for feed in rows}
    credentials = credentials_from_environment(environ) if kinds != {"audiohook"} else None
    keys = audiohook_keys(settings.audiohook, environ) if "audiohook" in kinds else {}
    tls = tls_of(settings) if "audiohook" in kinds else None

    def make(audit: AuditLog, journal: Journal) -> list[Feed]:
        tokens = None if credentials is None else TokenProvider(endpoints, credentials)
        if monitor is not None and tokens is not None:
            monitor.watch_token(tokens)
        return [one(row, tokens, journal, partial(_feed_changed, audit, monitor)) for row in rows]

    def one(row: FeedSettings, tokens: TokenProvider | None, journal: Journal, on_state: OnState) -> Feed:
        # A lone feed that nobody configured has no name in the records, as in recordings from when it was the only one.
        recorder = journal.recorder(row.name) if settings.feeds else journal
        limits = FeedLimits(name=row.name, **settings.limits_of(row))
        if row.kind == "audiohook":
            from connectors.genesys.feeds.audiohook.feed import AudioHookFeed

            hook = settings.audiohook
            return AudioHookFeed(
                name=row.name,
                listen=hook.address,
                path=hook.path,
                keys=keys,
                recorder=recorder,
                limits=limits,
                tls=tls,
                on_state=on_state,
            )
        assert tokens is not None
        if row.kind == "notifications":
            from connectors.genesys.feeds.notifications.feed import NotificationsFeed

            return NotificationsFeed(
                name=row.name,
                tokens=tokens,
                endpoints=endpoints,
                topics=topics_of(row.conversations, row.queues, row.users),
                recorder=recorder,
                limits=limits,
                read=read_notification,
                on_state=on_state,
                enrich_queue=enrichment(row.name) if row.enrich else None,
            )
        return VoiceEventsFeed(
            url=endpoints.events_url, tokens=tokens, recorder=recorder, name=row.name, on_state=on_state
        )

    return make


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """What Genesys is answered with over TLS, None for plain connections (behind a proxy that ends TLS).

    Raises ConfigurationError for files that cannot be used.
    """
    cert, key = settings.audiohook.tls_cert, settings.audiohook.tls_key
    if cert is None or key is None:
        return None
    for name, path in (("tls_cert", cert), ("tls_key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigurationError("audiohook", [f"{name}: {path}: {error.strerror}"]) from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, ValueError) as error:
        mistake = f"tls_cert, tls_key: {cert} and {key} are no PEM certificate with its key"
        raise ConfigurationError("audiohook", [mistake]) from error
    return context


def _feed_changed(audit: AuditLog, monitor: Monitor | None, name: str, state: str, reason: str) -> None:
    if monitor is not None:
        monitor.feed_changed(name, state)
    audit.append(f"FEED_{state.upper()}", conversation=None, outcome=reason, feed=name)
