"""The configuration of feeds: the `[[feed]]` list and the `[audiohook]` table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from connectors.errors import ConfigurationError
from connectors.genesys.feeds.audiohook.api_keys import SECRETS_VARIABLE, parse_secrets
from connectors.genesys.feeds.notifications.topics import MAX_TOPICS, topics_of
from flows.settings.kafka import TopicName, topic_name
from flows.settings.labels import Labels
from flows.settings.values import (
    Between,
    CrossTableError,
    HttpUrl,
    Table,
    api_key,
    environment_variable,
    feed_name,
    header_name,
    host_and_port,
    is_loopback,
    path_text,
    platform_topic,
    queue_or_user,
    refuse_cross_table_error,
    split_host,
    stall_limit,
    topic_id,
    url_path,
)
from flows.settings.watch import label_names

__all__ = [
    "WITHOUT_CLIENT",
    "AudioHookSettings",
    "FeedDefaults",
    "FeedSettings",
    "audiohook_keys",
    "complete_feeds",
    "event_keys",
]

WITHOUT_CLIENT: Final = frozenset({"audiohook", "eventbridge", "kafka"})
"""The kinds of feeds that make no request to Genesys, and need no OAuth client."""
MIN_KEY_CHARACTERS = 16
_SOURCES = ("conversations", "queues", "users")


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not name one twice")
    return values


Ids = Annotated[
    tuple[Annotated[str, AfterValidator(topic_id)], ...],
    Field(strict=False),
    AfterValidator(_distinct),
    BeforeValidator(refuse_cross_table_error),
]
Names = Annotated[
    tuple[Annotated[str, AfterValidator(queue_or_user)], ...],
    Field(strict=False),
    AfterValidator(_distinct),
    BeforeValidator(refuse_cross_table_error),
]
Topics = Annotated[
    tuple[Annotated[str, AfterValidator(platform_topic)], ...],
    Field(strict=False),
    AfterValidator(_distinct),
    BeforeValidator(refuse_cross_table_error),
]
File = Annotated[Path, Field(strict=False), BeforeValidator(path_text)]


def both_or_none(tls_key: Path | None, info: ValidationInfo) -> Path | None:
    """Return the key. Raise ValueError if there is a certificate without a key, or the other way round."""
    if tls_key is None and info.data.get("tls_cert") is not None:
        raise ValueError("is missing, and tls_cert is of no use without it")
    if tls_key is not None and info.data.get("tls_cert", tls_key) is None:
        raise ValueError("is of no use without tls_cert, which is missing")
    return tls_key


class FeedDefaults(Table):
    """`[feed.defaults]`: the limits of the conversations of a feed; None means those of `[defaults]`."""

    max_latency_ms: Annotated[float, AfterValidator(Between(50, 10_000))] | None = Field(
        default=None,
        description="latency limit in milliseconds of the feed's conversations; by default that of `[defaults]`",
    )
    packet_loss_threshold: Annotated[float, AfterValidator(Between(0, 0.1))] | None = Field(
        default=None, description="packet loss limit, as a ratio; by default that of `[defaults]`"
    )
    qa_callback_url: HttpUrl | None = Field(
        default=None, description="where the alerts are sent; by default that of `[defaults]`"
    )
    labels: Labels = Field(default={}, description="labels of the feed's conversations, besides those of `[defaults]`")


class FeedSettings(Table):
    """`[[feed]]`: something to listen to; its name, unless it has one, is its kind."""

    kind: Annotated[
        Literal["voice-events", "notifications", "audiohook", "eventbridge", "kafka"],
        BeforeValidator(refuse_cross_table_error),
    ] = Field(
        default="voice-events",
        description="the interface of Genesys to use, or `kafka` for a topic that another program fills; at most one "
        "feed may be of kind `audiohook`",
    )
    name: Annotated[str, AfterValidator(feed_name), BeforeValidator(refuse_cross_table_error)] = Field(
        default="voice-events",
        description="name in journal records, audit log and metric labels; unique; by default the `kind`",
    )
    topics: Topics = Field(
        default=(),
        description="kind `notifications`: topics of the platform to subscribe to, for the rule `PLATFORM_EVENT`: "
        "`v2.operations.events.{id}` with the id of the organisation, `v2.telephony.providers.edges.{id}` for an edge "
        "that goes offline, and `v2.telephony.providers.edges.trunks.{id}.metrics`",
    )
    conversations: Ids = Field(
        default=(), description="kind `notifications`: conversations to subscribe to, ten topics each"
    )
    queues: Names = Field(
        default=(), description="kind `notifications`: queues whose calls to subscribe to, by id or name"
    )
    users: Names = Field(
        default=(),
        description="kind `notifications`: users whose calls to subscribe to, by id or name; 20,000 topics in all",
    )
    labels_from: dict[str, str] = Field(
        default={},
        description="kind `audiohook`: the keys of Genesys' `customConfig` or `inputVariables` that labels are taken "
        'from, for example `{queue = "queueId"}`',
    )
    enrich: bool = Field(
        default=False, description="kind `notifications`: fetch the media statistics of ended calls from analytics"
    )
    sweep: bool = Field(
        default=False,
        description="kind `notifications`: every five minutes, find the calls of the organisation that have ended, "
        "watched or not, and fetch the media statistics of their legs from analytics",
    )
    media_statistics: bool = Field(
        default=False,
        description="kind `notifications`: poll Genesys' preview interface of media statistics for the watched calls "
        "while they go on, within the request budget",
    )
    stalled_after_s: Annotated[float, AfterValidator(stall_limit)] | None = Field(
        default=None,
        description="limit of the rule `STREAM_STALLED` for the conversations of this feed, in seconds; 0 turns the "
        "rule off. Unset: that of `[alerts]`, but off for kinds `notifications` and `eventbridge`, where minutes may "
        "pass between the events of a healthy call",
    )
    listen: Annotated[
        Annotated[str, AfterValidator(host_and_port)] | None, BeforeValidator(refuse_cross_table_error)
    ] = Field(
        default=None,
        description="kind `eventbridge`: the address that EventBridge, or a proxy in front, posts events to; off "
        "loopback it needs `key_env`",
    )
    queue_url: HttpUrl | None = Field(
        default=None,
        description="kind `eventbridge`: the SQS queue to take events from, in place of `listen` (extra `sqs`)",
    )
    path: Annotated[str, AfterValidator(url_path)] = Field(
        default="/events", description="kind `eventbridge`: the path that events are posted to"
    )
    header: Annotated[str, AfterValidator(header_name)] = Field(
        default="X-Api-Key", description="kind `eventbridge`: the header that holds the API key of the connection"
    )
    key_env: Annotated[
        Annotated[str, AfterValidator(environment_variable)] | None, BeforeValidator(refuse_cross_table_error)
    ] = Field(
        default=None,
        description="kind `eventbridge`: the environment variable that holds the API key; several, during a change, "
        "with commas",
    )
    tls_cert: File | None = Field(
        default=None,
        description="kind `eventbridge`: certificate chain (PEM); without it, a proxy must terminate TLS",
    )
    tls_key: Annotated[File | None, Field(validate_default=True)] = Field(
        default=None, description="kind `eventbridge`: private key of the certificate (PEM)"
    )
    topic: Annotated[TopicName | None, BeforeValidator(refuse_cross_table_error)] = Field(
        default=None, description="kind `kafka`: the topic to read frames from; `[kafka]` names the brokers"
    )
    group: Annotated[str, AfterValidator(topic_name)] = Field(
        default="voicewatch",
        description="kind `kafka`: the consumer group that offsets are committed for; instances of `[shard]` add `-` "
        "and their index",
    )
    start: Literal["latest", "earliest"] = Field(
        default="latest",
        description="kind `kafka`: where the first run begins; later runs go on where the one before stopped",
    )
    defaults: FeedDefaults = Field(
        default=FeedDefaults(), description="limits of the conversations of this feed; not for kind `voice-events`"
    )

    @field_validator("topics", "conversations", "queues", "users", "enrich", "sweep", "media_statistics")
    @classmethod
    def _of_notifications(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("kind", "notifications") != "notifications":
            raise ValueError(f'belongs to kind = "notifications", not to "{info.data["kind"]}"')
        return value

    @field_validator("listen", "queue_url", "path", "header", "key_env", "tls_cert", "tls_key")
    @classmethod
    def _of_eventbridge(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("kind", "eventbridge") != "eventbridge":
            raise ValueError(f'belongs to kind = "eventbridge", not to "{info.data["kind"]}"')
        return value

    @field_validator("topic", "group", "start")
    @classmethod
    def _of_kafka(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("kind", "kafka") != "kafka":
            raise ValueError(f'belongs to kind = "kafka", not to "{info.data["kind"]}"')
        return value

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, tls_key: Path | None, info: ValidationInfo) -> Path | None:
        return both_or_none(tls_key, info)

    @field_validator("labels_from")
    @classmethod
    def _of_audiohook(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if value and info.data.get("kind", "audiohook") != "audiohook":
            raise ValueError(f'belongs to kind = "audiohook", not to "{info.data["kind"]}"')
        return label_names(value)

    @field_validator("conversations", "queues", "users")
    @classmethod
    def _within_channels(cls, ids: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        named = {key: info.data.get(key, ()) for key in _SOURCES} | {str(info.field_name): ids}
        topics = len(info.data.get("topics", ())) + len(topics_of(**named))
        if topics > MAX_TOPICS:
            raise ValueError(f"the feed would need {topics} topics (allowed: {MAX_TOPICS}); name fewer ids")
        return ids

    def stall_rules(self, shared_s: float | None) -> dict[str, Any] | None:
        """Return the feed's rules of STREAM_STALLED for the `settings` record; None if they are the `shared_s`."""
        if self.stalled_after_s is None:
            is_off = self.kind in ("notifications", "eventbridge") and shared_s is not None
            return {"stalled_after_s": None} if is_off else None
        return {"stalled_after_s": self.stalled_after_s or None}

    @field_validator("defaults")
    @classmethod
    def _of_its_own(cls, defaults: FeedDefaults, info: ValidationInfo) -> FeedDefaults:
        if defaults.model_fields_set and info.data.get("kind") == "voice-events":
            raise ValueError("the limits of a voice-events feed are those of [[interceptor]] and [defaults]")
        return defaults


class AudioHookSettings(Table):
    """`[audiohook]`: where Genesys' AudioHook Monitor connects to; the client secrets are read from the environment."""

    listen: Annotated[str, AfterValidator(host_and_port)] = Field(
        default="127.0.0.1:8443", description="address that Genesys, or a proxy in front, connects to"
    )
    path: Annotated[str, AfterValidator(url_path)] = Field(default="/audiohook", description="path of the WebSocket")
    tls_cert: File | None = Field(
        default=None, description="certificate chain (PEM); without it, a proxy must terminate TLS"
    )
    tls_key: Annotated[File | None, Field(validate_default=True)] = Field(
        default=None, description="private key of the certificate (PEM)"
    )
    api_keys: Annotated[
        tuple[Annotated[str, AfterValidator(api_key)], ...],
        Field(strict=False),
        AfterValidator(_distinct),
        BeforeValidator(refuse_cross_table_error),
    ] = Field(default=(), description="keys that may connect; `VOICEWATCH_AUDIOHOOK_SECRETS` holds the secret of each")

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, tls_key: Path | None, info: ValidationInfo) -> Path | None:
        return both_or_none(tls_key, info)

    @property
    def address(self) -> tuple[str, int]:
        """Return the host and port to listen on."""
        return split_host(self.listen)

    def doubts(self) -> Iterator[tuple[str, str]]:
        """Keys, each with what is doubtful about its value."""
        if self.tls_cert is None and not is_loopback(f"http://{self.listen}"):
            yield "listen", "without tls_cert and tls_key, calls cross the network in clear text"


def complete_feeds(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables with `feed` as a list of named feeds, and with a mistake where two contradict each other."""
    rows = tables.get("feed")
    if isinstance(rows, Mapping):
        rows = [rows]
    if not isinstance(rows, list):
        return dict(tables)
    names: dict[str, int] = {}
    feeds: list[Any] = []
    hooks: list[int] = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            feeds.append(row)
            continue
        feed = {"kind": "voice-events", **row}
        kind = feed["kind"]
        name = feed.setdefault("name", kind if isinstance(kind, str) else "feed")
        if isinstance(name, str) and names.setdefault(name, index) != index:
            feed["name"] = CrossTableError(f"is the name of feed[{names[name]}] already; give each a name of its own")
        if (
            kind == "notifications"
            and not any(feed.get(key) for key in (*_SOURCES, "topics"))
            and "conversations" not in feed
        ):
            feed["conversations"] = CrossTableError(
                "one of conversations, queues, users and topics must name what to listen for"
            )
        if kind == "eventbridge":
            _complete_eventbridge(feed)
        if kind == "kafka" and "topic" not in feed:
            feed["topic"] = CrossTableError("must name the topic to read")
        if kind == "audiohook":
            hooks.append(index)
            if len(hooks) > 1:
                feed["kind"] = CrossTableError(f'feed[{hooks[0]}] is "audiohook" already, and there can be only one')
        feeds.append(feed)
    completed = {**tables, "feed": feeds}
    hook = tables.get("audiohook", {})
    if hooks and isinstance(hook, Mapping) and not hook.get("api_keys"):
        completed["audiohook"] = {
            **hook,
            "api_keys": CrossTableError("must hold a key: a feed of kind audiohook needs one"),
        }
    return completed


def _complete_eventbridge(feed: dict[str, Any]) -> None:
    """Put a mistake where a feed of kind eventbridge has no address, or accepts requests of anyone."""
    listen = feed.get("listen")
    if (listen is None) == (feed.get("queue_url") is None):
        feed["listen"] = CrossTableError(
            "give either listen, where events are posted to, or queue_url, the queue to read"
        )
    elif isinstance(listen, str) and not is_loopback(f"http://{listen}") and "key_env" not in feed:
        feed["key_env"] = CrossTableError(f"is missing: {listen} is not loopback, so requests must hold a key")


def event_keys(feed: FeedSettings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the API keys of a feed of kind eventbridge, none where every request is accepted.

    Raise ConfigurationError for a variable that is not set, or holds a key that is too short.
    """
    if feed.key_env is None:
        return ()
    keys = tuple(key.strip() for key in environ.get(feed.key_env, "").split(",") if key.strip())
    if not keys:
        raise ConfigurationError(f"feed {feed.name}", [f"{feed.key_env} is not set in the environment"])
    if any(len(key) < MIN_KEY_CHARACTERS or not (key.isascii() and key.isprintable()) for key in keys):
        mistake = f"{feed.key_env} must hold keys of at least {MIN_KEY_CHARACTERS} printable ASCII characters"
        raise ConfigurationError(f"feed {feed.name}", [mistake])
    return keys


def audiohook_keys(
    settings: AudioHookSettings, environ: Mapping[str, str] = MappingProxyType({})
) -> dict[str, bytes | None]:
    """Return the client secret of every API key, None where connections need not be signed.

    Raises ConfigurationError, which lists every mistake in `VOICEWATCH_AUDIOHOOK_SECRETS` and repeats no secret.
    """
    found, mistakes = parse_secrets(environ.get(SECRETS_VARIABLE, ""), settings.api_keys)
    for index, key in enumerate(settings.api_keys):
        if key not in found:
            mistakes.append(
                f'has no entry for audiohook.api_keys[{index}]; write "key=base64secret", or "key=" for connections '
                "that are not signed"
            )
    if mistakes:
        raise ConfigurationError(SECRETS_VARIABLE, mistakes)
    return found
