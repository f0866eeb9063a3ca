"""The configuration: one TOML file as immutable models, with the environment on top.

A value comes from the first that has one: the environment, the file, for an interceptor the `[defaults]` table, the
built-in default. Every key outside the lists `[[interceptor]]` and `[[feed]]` can be set by a variable:
VOICEWATCH_STATE_DIR, VOICEWATCH_GENESYS__BASE_URL (one underscore or two between table and key; lists in JSON; an
empty variable counts as unset). Credentials have no key: they are read from the environment where they are used.

Relative paths are relative to the current directory. Nothing is opened but the file itself.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from connectors.errors import ConfigurationError
from flows.settings.environment import Overrides, read_overrides, tables_of
from flows.settings.errors import describe, shown, toml_key
from flows.settings.feeds import (
    AUDIOHOOK_SECRETS,
    AudioHookSettings,
    FeedDefaults,
    FeedSettings,
    audiohook_keys,
    complete_feeds,
)
from flows.settings.metrics import MetricsSettings
from flows.settings.values import (
    Between,
    HttpBase,
    HttpUrl,
    Mistake,
    SocketUrl,
    Table,
    Text,
    channels,
    conversation_path,
    is_loopback,
    is_private,
    language_tag,
    no_mistake,
    non_empty,
    path_text,
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
    "load_settings",
    "parse_settings",
]

_CALLBACK_SECRET = "VOICEWATCH_CALLBACK_SECRET"  # noqa: S105 - the name of the variable
_NOT_SETTINGS = frozenset(
    {"VOICEWATCH_CONFIG", "VOICEWATCH_LOG_JSON", "VOICEWATCH_RUN_ID", _CALLBACK_SECRET, AUDIOHOOK_SECRETS}
)
_MAX_OVERLAP = 1000
_MEDIA_RATES_HZ = (8000, 16000)


WindowSeconds = Annotated[float, AfterValidator(Between(0.001, 3600))]


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

    length_s: WindowSeconds = 10.0
    slide_s: Annotated[WindowSeconds, Field(validate_default=True)] = 5.0
    codec: Literal["g711", "g711-no-plc", "g729a"] = "g711"

    @field_validator("length_s", "slide_s")
    @classmethod
    def _whole_ms(cls, value: float) -> float:
        if _exact_ms(value) % 1:
            raise ValueError(f"{shown(value)} is not a whole number of milliseconds")
        return value

    @field_validator("slide_s")
    @classmethod
    def _divides_length(cls, slide_s: float, info: ValidationInfo) -> float:
        length_s = info.data.get("length_s")
        if length_s is None:
            return slide_s
        if _exact_ms(length_s) % _exact_ms(slide_s):
            raise ValueError(f"{shown(slide_s)} must divide length_s, which is {shown(length_s)}")
        if (overlap := round(length_s / slide_s)) > _MAX_OVERLAP:
            raise ValueError(
                f"{shown(slide_s)} makes every frame part of {overlap} windows (allowed: {_MAX_OVERLAP}); "
                "raise it, or lower length_s"
            )
        return slide_s


def _exact_ms(seconds: float) -> Decimal:
    """Milliseconds of seconds as they are written: 1.001 s is 1001 ms, though no float is 1.001."""
    return Decimal(repr(seconds)) * 1000


class AlertSettings(Table):
    """`[alerts]`: when an alert is raised and resolved; without their limits, LOW_MOS and STREAM_STALLED are off."""

    policy: Literal["incident", "frame"] = "incident"
    raise_m: Annotated[int, AfterValidator(Between(1, 1000))] = 1
    raise_n: Annotated[int, AfterValidator(Between(1, 1000))] = 1
    clear_ratio: Annotated[float, AfterValidator(Between(0, 1))] = 0.9
    clear_after_s: Annotated[float, AfterValidator(Between(0, 86_400))] = 10.0
    unwatched: Literal["ignore", "default"] = "ignore"
    mos_below: Annotated[float, AfterValidator(Between(1, 4.5))] | None = None
    stalled_after_s: Annotated[float, AfterValidator(Between(0.001, 86_400))] | None = None

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
    max_latency_ms: Annotated[float, AfterValidator(Between(50, 500))] = 150.0
    packet_loss_threshold: Annotated[float, AfterValidator(Between(0, 0.1))] = 0.02
    qa_callback_url: HttpUrl | None = None


class InterceptorSettings(InterceptorDefaults):
    """`[[interceptor]]`: one conversation to watch, with the defaults filled in."""

    conversation_id: Annotated[str, AfterValidator(non_empty), BeforeValidator(no_mistake)]
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
                row["conversation_id"] = Mistake(f"is the id of interceptor[{first[id_]}] already")
        return {**tables, "interceptor": filled}

    def flow_record(self) -> dict[str, Any]:
        """The value of the journal's `settings` record: `windows`, `alerts`, and `defaults` if they are used.

        What is optional (the codec, the limits of optional rules) is there only if it is set.
        """
        optional = {"codec"} if self.windows.codec == "g711" else set()
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

    def warnings(self, environ: Mapping[str, str] | None = None) -> list[str]:
        """What is allowed and probably not meant, a line each; the callback secret is looked for in `environ`."""
        lines = [*self._interceptor_warnings(), *self._feed_warnings()]
        if self.uses_interceptors and not self.interceptors and self.alerts.unwatched == "ignore":
            lines.append("interceptor: there is none, so nothing is watched")
        if self.alerts.unwatched == "default" and self.defaults.qa_callback_url is None:
            lines.append("defaults.qa_callback_url: is missing, so alerts of unwatched conversations go nowhere")
        if self.genesys.base_url.startswith("http://") and not is_loopback(self.genesys.base_url):
            lines.append("genesys.base_url: http:// sends the client's credentials in clear text")
        if environ is not None and not environ.get(_CALLBACK_SECRET):
            lines.append(f"{_CALLBACK_SECRET} is not set: callbacks will not be signed")
        if environ is not None and any(feed.kind == "audiohook" for feed in self.feeds):
            try:
                audiohook_keys(self.audiohook, environ)
            except ConfigurationError as error:
                lines += [f"{error.where}: {mistake}" for mistake in error.mistakes]
        return lines

    def _feed_warnings(self) -> Iterator[str]:
        if self.interceptors and not self.uses_interceptors:
            yield "interceptor: without a feed of kind voice-events, none is created"
        if any(feed.kind == "audiohook" for feed in self.feeds):
            yield from (f"audiohook.{key}: {doubt}" for key, doubt in self.audiohook.doubts())
        elif self.audiohook.model_fields_set:
            yield "audiohook: without a feed of kind audiohook, nothing listens"
        for index, feed in enumerate(self.feeds):
            if feed.kind == "voice-events":
                continue
            if self.limits_of(feed)["qa_callback_url"] is None:
                yield f"feed[{index}].defaults.qa_callback_url: is missing, so its alerts go nowhere"
            for key, doubt in self._limit_doubts(feed.defaults):
                yield f"feed[{index}].defaults.{key}: {doubt}"

    def _interceptor_warnings(self) -> Iterator[str]:
        """The warnings about interceptors; what many have in common is said once, about the first."""
        said: set[str] = set()
        tables = {f"interceptor[{i}]": interceptor for i, interceptor in enumerate(self.interceptors)}
        for where, table in ({"defaults": self.defaults} | tables).items():
            for key, doubt in self._doubts(table):
                if doubt not in said:
                    said.add(doubt)
                    yield f"{where}.{key}: {doubt}"

    def _doubts(self, table: InterceptorDefaults) -> Iterator[tuple[str, str]]:
        """Keys of an interceptor, or of the defaults, each with what is doubtful about its value."""
        rate_hz = table.audio_sampling_rate
        if rate_hz not in _MEDIA_RATES_HZ:
            yield "audio_sampling_rate", f"media servers send 8000 or 16000 Hz, not {rate_hz}"
        yield from self._limit_doubts(table)

    def _limit_doubts(self, table: InterceptorDefaults | FeedDefaults) -> Iterator[tuple[str, str]]:
        url = table.qa_callback_url
        if table.packet_loss_threshold == 0:
            yield "packet_loss_threshold", "0 raises an alert for every lost packet"
        if url is None:
            return
        host = urlsplit(url).hostname
        if is_private(url) and not self.delivery.allow_private_addresses:
            yield "qa_callback_url", f"{host} is a private address: set delivery.allow_private_addresses"
        elif url.startswith("http://") and not is_private(url):
            yield "qa_callback_url", f"http:// sends callbacks to {host} in clear text"


def load_settings(path: Path | str, environ: Mapping[str, str]) -> Settings:
    """The configuration in a TOML file, with the variables of `environ` on top.

    Raises ConfigurationError, which names the file and lists every mistake in it and in the variables, each with its
    key; a file that cannot be read or is no TOML is one mistake.
    """
    try:
        tables = _parse_toml(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror or error}"]) from error
    except ValueError as error:
        raise ConfigurationError(str(path), [str(error)]) from error
    return parse_settings(tables, str(path), environ)


def parse_settings(
    tables: Mapping[str, Any], where: str, environ: Mapping[str, str] = MappingProxyType({})
) -> Settings:
    """The configuration in tables as `tomllib` gives them; `where` is what a ConfigurationError calls it.

    Raises ConfigurationError, which lists every mistake in the tables and in the variables of `environ`.
    """
    overrides = read_overrides(Settings, environ, _NOT_SETTINGS)
    merged = _merged(tables, overrides.tables)
    mistakes = list(overrides.mistakes)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        mistakes += _mistakes(error, merged, overrides)
    if mistakes:
        raise ConfigurationError(where, mistakes)
    return settings


def _parse_toml(raw: bytes) -> dict[str, Any]:
    """The tables in a file's bytes. Raises ValueError, which names line and column."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: is not UTF-8 (byte 0x{raw[error.start]:02x})") from error
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        # Python up to 3.13 gives the place in the text only: "… (at line 3, column 7)", "… (at end of document)".
        found = re.fullmatch(r"(.*) \(at (line \d+, column \d+|end of document)\)", str(error), re.DOTALL)
        if found is None:
            raise ValueError(f"is no TOML: {error}") from error
        place = found[2] if found[2].startswith("line") else f"line {len(text.splitlines())}, end of file"
        raise ValueError(f"{place}: is no TOML: {found[1]}") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both in one; where both have a value, that of `above`, unless it is a table put where no table belongs."""
    merged = dict(below)
    for key, value in above.items():
        if not isinstance(value, Mapping):
            merged[key] = value
        elif isinstance(old := merged.get(key, {}), Mapping):
            merged[key] = _merged(old, value)
    return merged


def _mistakes(error: ValidationError, tables: Mapping[str, Any], overrides: Overrides) -> Iterator[str]:
    """A line for each of Pydantic's errors; those of a default only once, where it was written."""
    models = tables_of(Settings)
    defaults = tables.get("defaults")
    for details in error.errors(include_url=False):
        key = details["loc"]
        if key[:2] == ("feed", 0) and isinstance(tables.get("feed"), Mapping):
            key = ("feed", *key[2:])  # written as one table, not as a list
        if key[:1] == ("interceptor",) and len(key) > 2 and isinstance(defaults, Mapping) and key[2] in defaults:
            row = tables["interceptor"][key[1]]
            if key[2] not in row:
                continue
        model = models.get(tuple(part for part in key[:-1] if isinstance(part, str)))
        known = [info.alias or name for name, info in model.model_fields.items()] if model else []
        variable = overrides.variables.get(key)
        yield f"{toml_key(key)}: {describe(details, known)}" + (f" [from {variable}]" if variable else "")
