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
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from connectors.format import limits
from flows.settings.errors import toml_repr
from flows.settings.feeds import (
    AudioHookSettings,
    FeedDefaults,
    FeedSettings,
    audiohook_keys,
    complete_feeds,
)
from flows.settings.metrics import MetricsSettings
from flows.settings.values import (
    Between,
    CrossTableError,
    HttpBase,
    HttpUrl,
    SocketUrl,
    Table,
    Text,
    channels,
    conversation_path,
    language_tag,
    non_empty,
    path_text,
    refuse_cross_table_error,
    sip_address,
    url_path,
)

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

    extension: Text = "QA_MONITOR"
    name_prefix: str = "QA-"
    skill: Text = "quality-assurance"
    department: Text = "QA"
    title: Text = "QA Specialist"
    email: Text = "qa@monitoring.internal"


class GenesysSettings(Table):
    """`[genesys]`: where Genesys is. None means: derived from `base_url`, or the built-in path.

    Paths are appended to `base_url`; `login_url` is what `/oauth/token` is appended to; `events_url` is complete.
    """

    base_url: HttpBase = "https://api.mypurecloud.com"
    max_concurrent: Annotated[int, AfterValidator(Between(1, 1_000_000))] = 50
    login_url: HttpBase | None = None
    events_url: SocketUrl | None = None
    load_path: Annotated[str, AfterValidator(url_path)] | None = None
    interceptor_path: Annotated[str, AfterValidator(conversation_path)] | None = None
    interceptor: InterceptorTexts = InterceptorTexts()


class WindowSettings(Table):
    """`[windows]`: length and slide in seconds, whole milliseconds both; the slide divides the length.

    `codec` is that of the MOS of conversations whose `watch` names none.
    """

    length_s: WindowSeconds = limits.DEFAULT_LENGTH_S
    slide_s: Annotated[WindowSeconds, Field(validate_default=True)] = limits.DEFAULT_SLIDE_S
    codec: limits.CodecName = limits.DEFAULT_CODEC

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


def _exact_ms(seconds: float) -> Decimal:
    """Milliseconds of seconds as they are written: 1.001 s is 1001 ms, though no float is 1.001."""
    return Decimal(repr(seconds)) * 1000


class AlertSettings(Table):
    """`[alerts]`: when an alert is raised and resolved; without their limits, LOW_MOS and STREAM_STALLED are off."""

    policy: Literal["incident", "frame"] = "incident"
    raise_m: Annotated[int, AfterValidator(Between(*limits.RAISE_FRAMES))] = limits.DEFAULT_RAISE_FRAMES
    raise_n: Annotated[int, AfterValidator(Between(*limits.RAISE_FRAMES))] = limits.DEFAULT_RAISE_FRAMES
    clear_ratio: Annotated[float, AfterValidator(Between(*limits.CLEAR_RATIO))] = limits.DEFAULT_CLEAR_RATIO
    clear_after_s: Annotated[float, AfterValidator(Between(*limits.CLEAR_AFTER_S))] = limits.DEFAULT_CLEAR_AFTER_S
    unwatched: Literal["ignore", "default"] = "ignore"
    mos_below: Annotated[float, AfterValidator(Between(*limits.MOS))] | None = None
    stalled_after_s: Annotated[float, AfterValidator(Between(*limits.STALLED_AFTER_S))] | None = None

    @field_validator("raise_n")
    @classmethod
    def _within_raise_m(cls, raise_n: int, info: ValidationInfo) -> int:
        raise_m = info.data.get("raise_m")
        if raise_m is not None and raise_n > raise_m:
            raise ValueError(f"{raise_n} is above raise_m, which is {raise_m}: so many frames are never looked at")
        return raise_n


class DeliverySettings(Table):
    """`[delivery]`: how callbacks are sent."""

    timeout_s: Annotated[float, AfterValidator(Between(0.1, 120))] = 5.0
    max_attempts: Annotated[int, AfterValidator(Between(1, 100))] = 8
    allow_private_addresses: bool = False


class StateSettings(Table):
    """`[state]`: the directory of journal, outbox, recovery and audit log; how durable and how long the journal is."""

    dir: Annotated[Path, Field(strict=False), BeforeValidator(path_text)] = Path("state")
    fsync: Literal["interval", "always"] = "interval"
    keep_hours: Annotated[float, AfterValidator(Between(0, 87_600))] = 72.0


class InterceptorDefaults(Table):
    """`[defaults]`: what holds for every interceptor that does not say otherwise."""

    leg_id: Text | None = None
    interceptor_address: Annotated[str, AfterValidator(sip_address)] | None = None
    audio_sampling_rate: Annotated[int, AfterValidator(Between(8000, 48_000))] = 16_000
    channel_matrix: Annotated[tuple[Literal["mono", "stereo"], ...], Field(strict=False), AfterValidator(channels)] = (
        "mono",
        "stereo",
    )
    transcription_enabled: bool = False
    transcription_language: Annotated[str, AfterValidator(language_tag)] = "en-US"
    max_latency_ms: Annotated[float, AfterValidator(Between(50, 500))] = limits.DEFAULT_MAX_LATENCY_MS
    packet_loss_threshold: Annotated[float, AfterValidator(Between(0, 0.1))] = limits.DEFAULT_PACKET_LOSS_THRESHOLD
    qa_callback_url: HttpUrl | None = None


class InterceptorSettings(InterceptorDefaults):
    """`[[interceptor]]`: one conversation to watch, with the defaults filled in."""

    conversation_id: Annotated[str, AfterValidator(non_empty), BeforeValidator(refuse_cross_table_error)]
    leg_id: Text
    interceptor_address: Annotated[str, AfterValidator(sip_address)]
    qa_callback_url: HttpUrl

    def watch_record(self) -> dict[str, Any]:
        """The value of the journal's `watch` record: all ten settings, as JSON types."""
        return {"conversation_id": self.conversation_id, **self.model_dump(mode="json")}


class Settings(Table):
    """A whole configuration, valid in itself."""

    genesys: GenesysSettings = GenesysSettings()
    windows: WindowSettings = WindowSettings()
    alerts: AlertSettings = AlertSettings()
    delivery: DeliverySettings = DeliverySettings()
    state: StateSettings = StateSettings()
    defaults: InterceptorDefaults = InterceptorDefaults()
    audiohook: AudioHookSettings = AudioHookSettings()
    metrics: MetricsSettings = MetricsSettings()
    feeds: Annotated[tuple[FeedSettings, ...], Field(strict=False, alias="feed")] = ()
    interceptors: Annotated[tuple[InterceptorSettings, ...], Field(strict=False, alias="interceptor")] = ()

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, tables: Any) -> Any:
        """Complete each interceptor with the defaults, each feed with its name, and mark what contradicts."""
        if not isinstance(tables, Mapping):
            return tables
        tables = complete_feeds(tables)
        if not isinstance(rows := tables.get("interceptor"), list):
            return tables
        defaults = tables.get("defaults")
        shared = dict(defaults) if isinstance(defaults, Mapping) else {}
        shared = {key: shared[key] for key in InterceptorDefaults.model_fields if key in shared}
        first: dict[str, int] = {}
        filled = [{**shared, **row} if isinstance(row, Mapping) else row for row in rows]
        for index, row in enumerate(filled):
            id_ = row.get("conversation_id") if isinstance(row, dict) else None
            if isinstance(id_, str) and first.setdefault(id_, index) != index:
                row["conversation_id"] = CrossTableError(f"is the id of interceptor[{first[id_]}] already")
        return {**tables, "interceptor": filled}

    def flow_record(self) -> dict[str, Any]:
        """The value of the journal's `settings` record: `windows`, `alerts`, and `defaults` if they are used.

        What is optional (the codec, the limits of optional rules) is there only if it is set.
        """
        optional = {"codec"} if self.windows.codec == limits.DEFAULT_CODEC else set()
        windows = self.windows.model_dump(exclude=optional)
        record = {"windows": windows, "alerts": self.alerts.model_dump(exclude_none=True)}
        if self.alerts.unwatched == "default":
            thresholds = {"max_latency_ms", "packet_loss_threshold", "qa_callback_url"}
            record["defaults"] = self.defaults.model_dump(include=thresholds)
        return record

    @property
    def uses_interceptors(self) -> bool:
        """Whether there is a voice event feed, which is the one that hears of interceptors' conversations only."""
        return not self.feeds or any(feed.kind == "voice-events" for feed in self.feeds)

    def watch_of(self, interceptor: InterceptorSettings) -> dict[str, Any]:
        """The journal's `watch` record of an interceptor; of several feeds, it names the one that hears of it."""
        heard_by = [feed.name for feed in self.feeds if feed.kind == "voice-events"]
        return interceptor.watch_record() | ({"feed": heard_by[0]} if heard_by else {})

    def limits_of(self, feed: FeedSettings) -> dict[str, Any]:
        """The limits of the conversations that a feed hears of: its own, else those of `[defaults]`."""
        own = feed.defaults.model_dump(exclude_none=True)
        return {**self.defaults.model_dump(include=set(FeedDefaults.model_fields)), **own}
