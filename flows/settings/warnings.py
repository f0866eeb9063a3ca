"""What a configuration allows and its author probably does not mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from connectors.errors import ConfigurationError, MissingCredentialsError
from connectors.format.limits import WELL_KNOWN_LABELS
from connectors.genesys.credentials import credentials_from_environment
from flows.settings.effects import void_keys
from flows.settings.errors import did_you_mean
from flows.settings.feeds import FeedDefaults, audiohook_keys, event_keys
from flows.settings.models import InterceptorDefaults, Settings
from flows.settings.notify import NotifySettings
from flows.settings.secrets import uses_client
from flows.settings.values import is_loopback, is_private

__all__ = ["CALLBACK_SECRET", "warnings_of"]

CALLBACK_SECRET = "VOICEWATCH_CALLBACK_SECRET"  # noqa: S105 - the name of the variable

_MEDIA_RATES_HZ = (8000, 16000)


def warnings_of(settings: Settings, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a line for each value that is probably a mistake; with `environ`, also what this machine lacks for it."""
    lines = [
        *_interceptor_warnings(settings),
        *_feed_warnings(settings),
        *_general_warnings(settings),
        *_kafka_warnings(settings),
        *_label_warnings(settings),
        *_group_warnings(settings),
        *(f"{key}: has no effect without {needed}" for key, needed in void_keys(settings)),
    ]
    if environ is not None:
        lines += [*_secret_warnings(settings, environ), *_package_warnings(settings)]
    return lines


def _general_warnings(settings: Settings) -> Iterator[str]:
    finds_none = settings.watch.mode == "listed" and settings.alerts.unwatched == "ignore"
    if settings.uses_interceptors and not settings.interceptors and finds_none:
        yield "interceptor: there is none, so nothing is watched"
    if settings.alerts.unwatched == "default" and settings.defaults.qa_callback_url is None:
        yield "defaults.qa_callback_url: is missing, so alerts of unwatched conversations go nowhere"
    host = urlsplit(settings.genesys.base_url).hostname or ""
    if host.startswith("apps."):
        api = settings.genesys.base_url.replace("apps.", "api.", 1)
        yield f"genesys.base_url: {host} serves the web application, not the API, which is probably {api}"
    urls = {
        "groups.qa_callback_url": settings.groups.qa_callback_url,
        "alerts.platform_callback_url": settings.alerts.platform_callback_url,
    }
    for key, url in urls.items():
        yield from (f"{key}: {doubt}" for doubt in _url_doubts(settings, url))
    if settings.genesys.base_url.startswith("http://") and not is_loopback(settings.genesys.base_url):
        yield "genesys.base_url: http:// sends the client's credentials in clear text"


def _kafka_warnings(settings: Settings) -> Iterator[str]:
    kafka = settings.kafka
    remote = [broker for broker in kafka.brokers if not is_loopback(f"http://{broker}")]
    if remote and not kafka.tls:
        what = "password and data cross" if kafka.sasl else "data crosses"
        yield f"kafka.tls: is not set, so {what} the network to {remote[0]} in clear text"
    if kafka.brokers and not kafka.topics and all(feed.kind != "kafka" for feed in settings.feeds):
        yield "kafka: nothing uses it: there is neither a feed of kind kafka nor a topic for results"


def _label_warnings(settings: Settings) -> Iterator[str]:
    """Yield a line for each label that something goes by and that no conversation can have."""
    own = [settings.defaults.labels, *(one.labels for one in settings.interceptors)]
    own += [labels for feed in settings.feeds for labels in (feed.defaults.labels, dict.fromkeys(feed.labels_from, ""))]
    known = sorted({*WELL_KNOWN_LABELS, *(name for labels in own for name in labels)})
    used: dict[str, Iterable[str]] = {"groups.by": settings.groups.by, "watch.match": settings.watch.match}
    used |= {f"limits[{index}].match": one.match for index, one in enumerate(settings.limits)}
    used |= {f"notify[{index}].match": one.match for index, one in enumerate(settings.notify_targets)}
    for key, names in used.items():
        for name in names:
            if name not in known:
                meant = did_you_mean(name, known)
                yield f"{key}: no conversation has the label {name}{meant}; known are {', '.join(known)}"


def _group_warnings(settings: Settings) -> Iterator[str]:
    """Yield a line if no receiver is set for the alerts of groups, which stand for those of their conversations."""
    groups = settings.groups
    if not groups.by or groups.qa_callback_url is not None or settings.kafka.alerts_topic is not None:
        return
    if any(_takes_groups(settings, target) for target in settings.notify_targets):
        return
    line = (
        "groups.qa_callback_url: is missing and no [[notify]] table takes GROUP_DEGRADED, so it is sent to no receiver"
    )
    if groups.inhibit:
        line += ", and until it is resolved the alerts of its conversations are not sent either"
    yield line


def _takes_groups(settings: Settings, target: NotifySettings) -> bool:
    """Return whether a target receives the raised alerts of some group. A group has one label."""
    is_rule_taken = not target.rules or "GROUP_DEGRADED" in target.rules
    is_group_taken = len(target.match) < 2 and set(target.match) <= set(settings.groups.by)
    return is_rule_taken and "raised" in target.states and is_group_taken


def _secret_warnings(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    if not environ.get(CALLBACK_SECRET):
        yield f"{CALLBACK_SECRET} is not set: callbacks will not be signed"
    if uses_client(settings):
        try:
            credentials_from_environment(environ)
        except MissingCredentialsError as error:
            yield f"run would end at once: {error}"
    if any(feed.kind == "audiohook" for feed in settings.feeds):
        try:
            audiohook_keys(settings.audiohook, environ)
        except ConfigurationError as error:
            yield from (f"{error.where}: {mistake}" for mistake in error.mistakes)
    for feed in settings.feeds:
        try:
            event_keys(feed, environ)
        except ConfigurationError as error:
            yield from (f"{error.where}: {mistake}" for mistake in error.mistakes)


def _package_warnings(settings: Settings) -> Iterator[str]:
    """Yield a line for each package that a run would end without."""
    if settings.kafka.brokers and find_spec("confluent_kafka") is None:
        yield "kafka: needs confluent-kafka, which is not installed: pip install 'voicewatch[kafka]'"
    if any(feed.queue_url is not None for feed in settings.feeds) and find_spec("boto3") is None:
        yield "queue_url needs boto3, which is not installed: pip install 'voicewatch[sqs]'"


def _feed_warnings(settings: Settings) -> Iterator[str]:
    if settings.interceptors and not settings.uses_interceptors:
        yield "interceptor: without a feed of kind voice-events, none is created"
    if any(feed.kind == "audiohook" for feed in settings.feeds):
        yield from (f"audiohook.{key}: {doubt}" for key, doubt in settings.audiohook.doubts())
    elif settings.audiohook.model_fields_set:
        yield "audiohook: without a feed of kind audiohook, nothing listens"
    for index, feed in enumerate(settings.feeds):
        if feed.kind == "voice-events":
            continue
        if feed.listen is not None and feed.tls_cert is None and not is_loopback(f"http://{feed.listen}"):
            yield f"feed[{index}].listen: without tls_cert and tls_key, events and key cross the network in clear text"
        if settings.limits_of(feed)["qa_callback_url"] is None and settings.kafka.alerts_topic is None:
            yield f"feed[{index}].defaults.qa_callback_url: is missing, so its alerts go nowhere"
        for key, doubt in _limit_doubts(settings, feed.defaults):
            yield f"feed[{index}].defaults.{key}: {doubt}"


def _interceptor_warnings(settings: Settings) -> Iterator[str]:
    """Yield the warnings about interceptors; one that applies to several is reported once, for the first."""
    reported: set[str] = set()
    tables = {f"interceptor[{i}]": interceptor for i, interceptor in enumerate(settings.interceptors)}
    for where, table in ({"defaults": settings.defaults} | tables).items():
        for key, doubt in _doubts(settings, table):
            if doubt not in reported:
                reported.add(doubt)
                yield f"{where}.{key}: {doubt}"


def _doubts(settings: Settings, table: InterceptorDefaults) -> Iterator[tuple[str, str]]:
    """Yield keys of an interceptor, or of the defaults, each with what is doubtful about its value."""
    rate_hz = table.audio_sampling_rate
    if rate_hz not in _MEDIA_RATES_HZ:
        yield "audio_sampling_rate", f"media servers send 8000 or 16000 Hz, not {rate_hz}"
    yield from _limit_doubts(settings, table)


def _limit_doubts(settings: Settings, table: InterceptorDefaults | FeedDefaults) -> Iterator[tuple[str, str]]:
    if table.packet_loss_threshold == 0:
        yield "packet_loss_threshold", "0 raises an alert for every lost packet"
    yield from (("qa_callback_url", doubt) for doubt in _url_doubts(settings, table.qa_callback_url))


def _url_doubts(settings: Settings, url: str | None) -> Iterator[str]:
    """Yield what is doubtful about the URL of a callback."""
    if url is None:
        return
    host = urlsplit(url).hostname
    if is_private(url) and not settings.delivery.allow_private_addresses:
        yield f"{host} is a private address: set delivery.allow_private_addresses"
    elif url.startswith("http://") and not is_private(url):
        yield f"http:// sends callbacks to {host} in clear text"
