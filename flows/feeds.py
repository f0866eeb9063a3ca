"""The feeds that a configuration asks for."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.audit import AuditLog
from connectors.errors import ConfigurationError
from connectors.feeds import FeedLimits
from connectors.genesys.notifications.topics import topics_of
from connectors.genesys.platform import Endpoints, TokenProvider, credentials_from_environment
from connectors.genesys.voice_events import VoiceEventsFeed
from connectors.journal import Journal
from connectors.source import Feed
from flows.analytics.notifications import read_notification
from flows.settings import FeedSettings, Settings, audiohook_keys

if TYPE_CHECKING:
    from flows.monitor import Monitor

__all__ = ["endpoints_of", "feeds_of", "tls_of"]

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
            from connectors.genesys.audiohook.feed import AudioHookFeed

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
            from connectors.genesys.notifications.feed import NotificationsFeed

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
