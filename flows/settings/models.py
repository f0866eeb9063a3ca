"""The configuration: one TOML file as immutable models, with the environment on top.

A value comes from the first that has one: the environment, the file, for an interceptor the `[defaults]` table, the
built-in default. Every key outside the lists `[[interceptor]]` and `[[feed]]` can be set by a variable:
VOICEWATCH_STATE_DIR, VOICEWATCH_GENESYS__BASE_URL (one underscore or two between table and key; lists in JSON; an
empty variable counts as unset). Credentials have no key: they are read from the environment where they are used.

Relative paths are relative to the current directory. `flows.settings.loading` reads the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)

from connectors.format import limits
from connectors.format.labels import LimitName, joined_labels
from flows.settings.alerts import NOT_RECORDED, AlertSettings
from flows.settings.errors import toml_repr
from flows.settings.feeds import (
    AudioHookSettings,
    FeedDefaults,
    FeedSettings,
    audiohook_keys,
    complete_feeds,
)
from flows.settings.groups import GroupSettings
from flows.settings.interceptors import InterceptorDefaults, InterceptorSettings
from flows.settings.kafka import KafkaSettings, require_brokers
from flows.settings.labels import LimitsSettings
from flows.settings.metrics import MetricsSettings
from flows.settings.notify import NotifyTables
from flows.settings.shard import ShardSettings
from flows.settings.toml_file import DEFAULT_STATE_DIR
from flows.settings.values import (
    Between,
    CrossTableError,
    HttpBase,
    Patterns,
    SocketUrl,
    Table,
    Text,
    conversation_path,
    path_text,
    url_path,
)
from flows.settings.watch import PrivacySettings, WatchSettings, require_for_discovery
from flows.settings.web import WebSettings

__all__ = [
    "AlertSettings",
    "AudioHookSettings",
    "DeliverySettings",
    "FeedDefaults",
    "FeedSettings",
    "GenesysSettings",
    "InterceptorDefaults",
    "InterceptorSettings",
    "InterceptorTexts",
    "Settings",
    "StateSettings",
    "WindowSettings",
    "audiohook_keys",
]


WindowSeconds = Annotated[float, AfterValidator(Between(*limits.WINDOW_S))]


class InterceptorTexts(Table):
    """`[genesys.interceptor]`: the fixed texts of a create body; the name is the prefix and 8 characters of the id."""

    extension: Text = Field(default="QA_MONITOR", description="`interceptorExtension`")
    name_prefix: str = Field(
        default="QA-", description="`interceptorName` is this prefix and the first 8 characters of the conversation id"
    )
    skill: Text = Field(default="quality-assurance", description="`interceptorSkill`")
    department: Text = Field(default="QA", description="`interceptorDepartment`")
    title: Text = Field(default="QA Specialist", description="`interceptorTitle`")
    email: Text = Field(default="qa@monitoring.internal", description="`interceptorEmail`")


class GenesysSettings(Table):
    """`[genesys]`: where Genesys is. None means: derived from `base_url`, or the built-in path.

    Paths are appended to `base_url`; `login_url` is what `/oauth/token` is appended to; `events_url` is complete.
    """

    base_url: HttpBase = Field(
        default="https://api.mypurecloud.com",
        description="the API host of your region; with `http://` the event WebSocket uses `ws://`",
    )
    max_concurrent: Annotated[int, AfterValidator(Between(1, 1_000_000))] = Field(
        default=50, description="bootstrap creates no interceptor while this many voice conversations are active"
    )
    login_url: HttpBase | None = Field(
        default=None,
        description="`/oauth/token` is appended to it; by default `base_url` with `api.` replaced by `login.`",
    )
    events_url: SocketUrl | None = Field(
        default=None, description="the complete URL of the event WebSocket; by default derived from `base_url`"
    )
    load_path: Annotated[str, AfterValidator(url_path)] | None = Field(
        default=None,
        description="the path of the load check; by default `/api/v2/conversations/voice?conversationType=voice`",
    )
    interceptor_path: Annotated[str, AfterValidator(conversation_path)] | None = Field(
        default=None,
        description="the path of the create request; by default "
        "`/api/v2/conversations/voice/{conversationId}/interceptor`",
    )
    resolve_names: bool = Field(
        default=False,
        description="look up the names of queues, users, divisions and edges once, and keep them in `names.json`: "
        "labels hold names instead of ids. Feeds of kinds `eventbridge` and `kafka` need a client's credentials for it",
    )
    interceptor: InterceptorTexts = Field(default=InterceptorTexts(), description="fixed texts of the create request")


class WindowSettings(Table):
    """`[windows]`: length and slide in seconds, whole milliseconds both; the slide divides the length.

    `codec` is that of the MOS of conversations whose `watch` names none.
    """

    length_s: WindowSeconds = Field(
        default=limits.DEFAULT_LENGTH_S, description="length of a window in seconds, a whole number of milliseconds"
    )
    slide_s: Annotated[WindowSeconds, Field(validate_default=True)] = Field(
        default=limits.DEFAULT_SLIDE_S,
        description="seconds from the start of a window to the start of the next, a whole number of milliseconds; "
        "must divide `length_s`; at most 1000 windows may overlap",
    )
    codec: limits.CodecName = Field(
        default=limits.DEFAULT_CODEC,
        description="the codec that the MOS estimate assumes, with or without packet loss concealment (PLC); a "
        "`watch` record may name another for its conversation",
    )

    @field_validator("length_s", "slide_s")
    @classmethod
    def _whole_ms(cls, value: float) -> float:
        if _exact_ms(value) % 1:
            raise ValueError(f"{toml_repr(value)} is not a whole number of milliseconds")
        return value

    @field_validator("slide_s")
    @classmethod
    def _divides_length(cls, slide_s: float, info: ValidationInfo) -> float:
        length_s = info.data.get("length_s")
        if length_s is None:
            return slide_s
        if _exact_ms(length_s) % _exact_ms(slide_s):
            raise ValueError(f"{toml_repr(slide_s)} must divide length_s, which is {toml_repr(length_s)}")
        if (overlap := round(length_s / slide_s)) > limits.MAX_OVERLAP:
            raise ValueError(
                f"{toml_repr(slide_s)} makes every frame part of {overlap} windows (allowed: {limits.MAX_OVERLAP}); "
                "raise it, or lower length_s"
            )
        return slide_s


_CHECKED_TOGETHER: Final = ({"length_s", "slide_s"}, {"raise_n", "raise_m"})


def _exact_ms(seconds: float) -> Decimal:
    """Milliseconds of seconds as they are written: 1.001 s is 1001 ms, though no float is 1.001."""
    return Decimal(repr(seconds)) * 1000


class DeliverySettings(Table):
    """`[delivery]`: how callbacks are sent."""

    timeout_s: Annotated[float, AfterValidator(Between(0.1, 120))] = Field(
        default=5.0, description="time limit of one delivery attempt, in seconds, from the name lookup to the last byte"
    )
    max_attempts: Annotated[int, AfterValidator(Between(1, 100))] = Field(
        default=8, description="after this many failed attempts a callback is dead; eight span 24 to 31 hours"
    )
    allow_private_addresses: bool = Field(
        default=False, description="allow callbacks to loopback, private and link-local addresses"
    )
    failure_body: Patterns | None = Field(
        default=None,
        description="regular expressions: a 2xx response whose body starts with text that one of them matches is a "
        "failure and tried again; unset: Teams' text about an HTTP error, and HTML pages; `[]`: none",
    )
    success_body: Patterns | None = Field(
        default=None,
        description="regular expressions: if set, a 2xx response is a success only if one of them matches its body",
    )
    expire_after_s: Annotated[float, AfterValidator(Between(1, 2_592_000))] | None = Field(
        default=None,
        description="age in seconds from which a raised alert is not sent any more if its resolve waits, too; "
        "unset: never",
    )


class StateSettings(Table):
    """`[state]`: the directory of journal, outbox, recovery and audit log; how durable and how long the journal is."""

    dir: Annotated[Path, Field(strict=False), BeforeValidator(path_text)] = Field(
        default=DEFAULT_STATE_DIR, description="the state directory; each run needs its own"
    )
    fsync: Literal["interval", "always"] = Field(
        default="interval",
        description='sync the journal to disk once a second (`"interval"`) or with every write (`"always"`, a few '
        "milliseconds each)",
    )
    keep_hours: Annotated[float, AfterValidator(Between(0, 87_600))] = Field(
        default=72.0, description="how long a journal segment is kept after its last record"
    )
    keep_results_days: Annotated[int, AfterValidator(Between(1, 3650))] | None = Field(
        default=None,
        description="begin a file of windows, groups and alerts for each day (UTC), and remove those of days that "
        "ended longer ago than this; unset: one file each, which is kept",
    )


class Settings(Table):
    """A whole configuration, valid in itself."""

    genesys: GenesysSettings = Field(default=GenesysSettings(), description="where Genesys is")
    windows: WindowSettings = Field(default=WindowSettings(), description="the windows of every conversation")
    alerts: AlertSettings = Field(default=AlertSettings(), description="when an alert is raised and resolved")
    delivery: DeliverySettings = Field(default=DeliverySettings(), description="how callbacks are sent")
    state: StateSettings = Field(default=StateSettings(), description="the state directory and the journal in it")
    defaults: InterceptorDefaults = Field(
        default=InterceptorDefaults(), description="values for every `[[interceptor]]` that does not set them"
    )
    audiohook: AudioHookSettings = Field(
        default=AudioHookSettings(),
        description="where Genesys' AudioHook Monitor connects to; used by the feed of that kind",
    )
    watch: WatchSettings = Field(default=WatchSettings(), description="which conversations are watched")
    privacy: PrivacySettings = Field(default=PrivacySettings(), description="what is kept of notifications")
    metrics: MetricsSettings = Field(default=MetricsSettings(), description="metrics for Prometheus and health checks")
    limits: Annotated[tuple[LimitsSettings, ...], Field(strict=False, alias="limits")] = Field(
        default=(),
        description="limits by label: the first table that matches a conversation holds; an interceptor's own limits "
        "override it",
    )
    web: WebSettings = Field(
        default=WebSettings(), description="the live page, with metrics and health checks on the same address"
    )
    notify_targets: NotifyTables = Field(
        default=(),
        alias="notify",
        description="one table for each further place that alerts are sent to, besides the callback of a conversation",
    )
    groups: GroupSettings = Field(
        default=GroupSettings(), description="windows and incidents of groups of conversations, by their labels"
    )
    kafka: KafkaSettings = Field(
        default=KafkaSettings(), description="a Kafka cluster to read frames from and to write results to"
    )
    shard: ShardSettings = Field(
        default=ShardSettings(), description="the conversations divided among several instances of voicewatch"
    )
    feeds: Annotated[tuple[FeedSettings, ...], Field(strict=False, alias="feed")] = Field(
        default=(),
        description="one table for each feed; without any, one feed of kind `voice-events`. A single feed may be "
        "written as `[feed]`",
    )
    interceptors: Annotated[tuple[InterceptorSettings, ...], Field(strict=False, alias="interceptor")] = Field(
        default=(),
        description="one table for each conversation to watch; every key but `conversation_id` can be set in "
        "`[defaults]` instead",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, tables: Any) -> Any:
        """Complete each interceptor with the defaults, each feed with its name, and mark what contradicts."""
        if not isinstance(tables, Mapping):
            return tables
        tables = require_brokers(require_for_discovery(complete_feeds(tables)))
        if not isinstance(rows := tables.get("interceptor"), list):
            return tables
        defaults = tables.get("defaults")
        shared = dict(defaults) if isinstance(defaults, Mapping) else {}
        shared = {key: shared[key] for key in InterceptorDefaults.model_fields if key in shared}
        first: dict[str, int] = {}
        filled = [{**shared, **row} if isinstance(row, Mapping) else row for row in rows]
        for row in filled:
            if isinstance(row, dict) and isinstance(row.get("labels"), Mapping):
                row["labels"] = {**_mapping(shared.get("labels")), **row["labels"]}
        for index, row in enumerate(filled):
            id_ = row.get("conversation_id") if isinstance(row, dict) else None
            if isinstance(id_, str) and first.setdefault(id_, index) != index:
                row["conversation_id"] = CrossTableError(f"is the id of interceptor[{first[id_]}] already")
        return {**tables, "interceptor": filled}

    @model_validator(mode="wrap")
    @classmethod
    def _know_own_keys(cls, tables: Any, validate: ModelWrapValidatorHandler[Settings]) -> Settings:
        """Note for each interceptor which keys stand in its own table."""
        settings = validate(tables)
        rows = tables.get("interceptor", ()) if isinstance(tables, Mapping) else ()
        for interceptor, row in zip(settings.interceptors, rows, strict=False):
            interceptor._own = frozenset(_mapping(row))
        return settings

    @property
    def labels_used(self) -> set[str]:
        """Return the names of the labels that groups, limits, notifications and the choice of calls go by."""
        used = {*self.groups.by, *self.watch.match}
        used.update(*(one.match for one in self.limits), *(one.match for one in self.notify_targets))
        return used

    def flow_record(self) -> dict[str, Any]:
        """Return the value of the journal's `settings` record: `windows`, `alerts`, and `defaults` if they are used.

        What is optional (the codec, the limits of optional rules, limits by label) is there only if it is set.
        """
        optional = {"codec"} if self.windows.codec == limits.DEFAULT_CODEC else set()
        windows = self.windows.model_dump(exclude=optional)
        alerts = self.alerts.model_dump(exclude_none=True, exclude=NOT_RECORDED)
        watch = {"forget_after_s": self.watch.forget_after_s}
        record: dict[str, Any] = {"windows": windows, "alerts": alerts, "watch": watch}
        if self.alerts.unwatched == "default":
            thresholds = {"max_latency_ms", "packet_loss_threshold", "qa_callback_url"}
            thresholds |= {"labels"} if self.defaults.labels else set()
            record["defaults"] = self.defaults.model_dump(include=thresholds)
        if self.limits:
            record["limits"] = [table.model_dump(exclude_none=True) for table in self.limits]
        stalls = {row.name: row.stall_rules(self.alerts.stalled_after_s) for row in self.feeds}
        if feeds := {name: rules for name, rules in stalls.items() if rules is not None}:
            record["feeds"] = feeds
        if self.groups.model_fields_set:
            record["groups"] = self.groups.model_dump(exclude_none=True)
            if (share := self.shard.share).count > 1:
                record["groups"]["part"] = [share.index, share.count]
        return record

    def override_record(self) -> dict[str, Any]:
        """Return what of `flow_record` stands in the configuration itself: a replay keeps the rest as it was recorded.

        Keys that are checked against each other go together: with one of them, the other has its default.
        """
        record = self.flow_record()
        for name in ("windows", "alerts", "watch", "defaults", "groups"):
            given = {*getattr(self, name).model_fields_set, "part"}
            given.update(*(keys for keys in _CHECKED_TOGETHER if keys & given))
            record[name] = {key: value for key, value in record.get(name, {}).items() if key in given}
        return {name: table for name, table in record.items() if table}

    @property
    def is_part_of_groups(self) -> bool:
        """Return whether this is one of several instances, whose groups are parts of wholes."""
        return bool(self.groups.by) and self.shard.share.count > 1

    @property
    def uses_interceptors(self) -> bool:
        """Return whether there is a voice event feed, the only kind that needs interceptors."""
        return not self.feeds or any(feed.kind == "voice-events" for feed in self.feeds)

    def watch_of(self, interceptor: InterceptorSettings) -> dict[str, Any]:
        """Return the journal's `watch` record of an interceptor, with the name of the feed of its events."""
        record = interceptor.watch_record()
        if default := self._default_limits(interceptor.own):
            record["default_limits"] = default
        heard_by = [feed.name for feed in self.feeds if feed.kind == "voice-events"]
        return record | ({"feed": heard_by[0]} if heard_by else {})

    def _default_limits(self, own: frozenset[str] = frozenset()) -> list[str]:
        """Return the limits that a `[[limits]]` table overrides: all but those that a conversation has of its own."""
        return [name for name in get_args(LimitName) if name not in own] if self.limits else []

    def discovered_interceptor(self, conversation_id: str, labels: Mapping[str, str]) -> InterceptorSettings:
        """Return the settings of an interceptor that discovery creates: `[defaults]` and the labels."""
        shared = self.defaults.model_dump()
        shared["labels"] = joined_labels(self.defaults.labels, dict(labels))
        shared["leg_id"] = shared["leg_id"] or conversation_id
        return InterceptorSettings.model_validate({**shared, "conversation_id": conversation_id})

    def limits_of(self, feed: FeedSettings) -> dict[str, Any]:
        """Return the limits of a feed's conversations: its own, else those of `[defaults]`."""
        own = feed.defaults.model_dump(exclude_none=True)
        labels = joined_labels(self.defaults.labels, feed.defaults.labels)
        shared = self.defaults.model_dump(include=set(FeedDefaults.model_fields))
        optional = {"labels": labels, "default_limits": tuple(self._default_limits())}
        values = {**shared, **own, **optional}
        return {key: value for key, value in values.items() if value or key not in optional}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
