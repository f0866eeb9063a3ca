"""Define what a valid record of the journal is, with a reason for every line that is not one.

`parse_line` and `parse_frame` read one line on top of orjson's own decoder. The structs, and the decoders made of
them, are shared with the fast loop in `frames`, which may refuse what is valid here, and never takes what is not.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import orjson

from connectors.format import limits
from connectors.format.captures import unwrapped
from connectors.format.labels import GroupSettings, LabelLimits, Labels, LimitName, within
from connectors.format.limits import MAX_EPOCH_S, CodecName
from connectors.format.media import LegMedia, leg_media
from connectors.format.notifications import (
    Heard,
    is_notification,
    place_in_time,
    read_notification,
    topic_of,
)
from connectors.format.signals import Signal, signals_of
from connectors.format.tables import AlertSettings, DefaultLimits, FeedRules, FlowSettings, WindowSettings

__all__ = [
    "CLOCK",
    "IGNORED",
    "MEDIA",
    "SIGNAL",
    "AlertSettings",
    "BareEvent",
    "BareFrame",
    "ClockStep",
    "Control",
    "DefaultLimits",
    "EventLine",
    "FeedRules",
    "FeedState",
    "FlowSettings",
    "Frame",
    "FrameLine",
    "GroupSettings",
    "InvalidFrameError",
    "LabelLimits",
    "Signalled",
    "WatchLine",
    "WatchSettings",
    "WindowSettings",
    "decode_bare_frame",
    "decode_frame_line",
    "decode_watch_line",
    "frame_of",
    "parse_frame",
    "parse_line",
]

IGNORED: Final = "ignored"
CLOCK: Final = "clock"
SIGNAL: Final = "signal"
MEDIA: Final = "media"
CONTROL_KINDS: Final = ("invalid", "tick", "feed", "watch", CLOCK, "settings")


Seconds = Annotated[float, msgspec.Meta(ge=-MAX_EPOCH_S, le=MAX_EPOCH_S)]
LossRatio = Annotated[float, within(limits.LOSS_RATIO)]


class Entity(msgspec.Struct, gc=False):
    """What a frame is about; the id is opaque text."""

    id: str


class Metrics(msgspec.Struct, gc=False):
    """The measurements that a frame may carry: loss as a ratio 0..1, jitter in milliseconds."""

    packetLoss: LossRatio | None = None  # noqa: N815 - Genesys' spelling
    jitter: float | None = None


class Frame(msgspec.Struct, gc=False):
    """A voice event as Genesys sends it; `timestamp` in epoch seconds. Unknown keys are ignored."""

    event: str
    entity: Entity
    timestamp: Seconds
    metrics: Metrics | None = None


class FrameLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A journal line that holds a frame; any other key beside it sends the line to `parse_line`.

    `arrived_at` is the wall clock at the arrival, where that differs from the journal's time, which is `received_at`.
    """

    received_at: Seconds
    frame: Frame
    via: str | None = None
    arrived_at: Seconds | None = None


class BareFrame(msgspec.Struct, gc=False):
    """A line that is itself a frame, with its arrival time if the recording has it."""

    event: str
    entity: Entity
    timestamp: Seconds
    metrics: Metrics | None = None
    receivedAt: Seconds | None = None  # noqa: N815 - Genesys' spelling


class EventLine(FrameLine, gc=False):
    """A journal line whose frame was read from a notification: an event, of which a healthy call may have few.

    `session_id` is the session that the event is about, "" without one; `sent_at` is the event's own time.
    """

    session_id: str = ""
    sent_at: float = np.nan


class BareEvent(BareFrame, gc=False):
    """A notification or an EventBridge record outside a journal, as the frame that it amounts to; see `EventLine`."""

    session_id: str = ""
    sent_at: float = np.nan


class InvalidFrameError(ValueError):
    """A line or a message that is not what it should be; the text is the reason, for a person."""


class Control(NamedTuple):
    """A record that is not a frame: `kind` is its key, `frames_before` its place among the block's frames.

    A notification that tells nothing of a voice conversation is one of the kind `IGNORED`, its topic the value.
    `time` is the largest in the block up to and including this record. `value` is that of the key: of a watch
    `WatchSettings`, of others plain JSON values.
    """

    frames_before: int
    time: float
    kind: str
    value: Any


class Signalled(NamedTuple):
    """A notification that raises alerts alone, or has a leg's media; `record` is what else it says, None if nothing."""

    record: FrameLine | BareFrame | None
    time: float
    signals: list[Signal | LegMedia]


class FeedState(msgspec.Struct, gc=False):
    """The value of a `feed` record."""

    name: str
    state: Literal["up", "down"]
    reason: str | None = None


class ClockStep(msgspec.Struct, gc=False):
    """The value of a `clock` record: by how many seconds the journal's time changes there, and why."""

    step_s: float
    reason: str | None = None


class WatchSettings(msgspec.Struct, gc=False):
    """What the dataflow needs of a `watch` record.

    A limit that is not set keeps its value, or is the built-in default for a conversation that was not watched.
    `default_limits` names the limits that are not set for this conversation; `[[limits]]` overrides those. `feed` names
    the feed that the conversation's events come from, None for any; `codec` is None for that of `[windows]`. `labels`
    are added to those of the conversation, and replace those of the same names. `last_frame_at` stands in the head of a
    segment, whose watches go on from the segment before.
    """

    conversation_id: str
    leg_id: str | None = None
    max_latency_ms: float | msgspec.UnsetType = msgspec.UNSET
    packet_loss_threshold: float | msgspec.UnsetType = msgspec.UNSET
    qa_callback_url: str | None = None
    feed: str | None = None
    codec: CodecName | None = None
    labels: Labels = msgspec.field(default_factory=dict)
    default_limits: tuple[LimitName, ...] = ()
    last_frame_at: Seconds | None = None


class WatchLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A journal line that holds a watch; any other key beside it sends the line to `parse_line`."""

    received_at: Seconds
    watch: WatchSettings


decode_frame_line: Final = msgspec.json.Decoder(FrameLine).decode
decode_bare_frame: Final = msgspec.json.Decoder(BareFrame).decode
decode_watch_line: Final = msgspec.json.Decoder(WatchLine).decode
# Described here, while there is one thread: two that are the first to use a type at once crash msgspec 0.22.
_DESCRIBED: Final = [msgspec.json.Decoder(kind) for kind in (FeedState, FlowSettings, ClockStep)]


def parse_line(line: bytes) -> FrameLine | BareFrame | Control | Signalled:
    """Read one line by the definition, as the first of a block; raises InvalidFrameError with the reason."""
    try:
        record = unwrapped(_load_object(line))
    except ValueError as error:
        if (unread := _with_unread_numbers(line)) is None:
            raise InvalidFrameError(str(error)) from None
        return unread
    if "event" in record:
        frame = _as_frame(record)
        arrival = record.get("receivedAt")
        if arrival is not None:
            arrival = _number(arrival, "receivedAt", -MAX_EPOCH_S, MAX_EPOCH_S)
        return BareFrame(frame.event, frame.entity, frame.timestamp, frame.metrics, arrival)
    if is_notification(record):
        return _bare_notification(record)
    if "received_at" not in record:
        raise InvalidFrameError("neither a record (received_at is missing) nor a frame (event is missing)")
    received_at = _number(record["received_at"], "received_at", -MAX_EPOCH_S, MAX_EPOCH_S)
    kinds = [kind for kind in ("frame", *CONTROL_KINDS) if kind in record]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none"
        raise InvalidFrameError(f"a record has exactly one of frame, {', '.join(CONTROL_KINDS)}; found {found}")
    if kinds[0] == "frame":
        arrived_at = record.get("arrived_at")
        if arrived_at is not None:
            arrived_at = _number(arrived_at, "arrived_at", -MAX_EPOCH_S, MAX_EPOCH_S)
        message = _object(record["frame"], "frame")
        if not is_notification(message):
            return FrameLine(received_at, _as_frame(message), None, arrived_at)
        heard = read_notification(message)
        framed = None
        if heard is not None:
            placed = (received_at, frame_of(heard), None, arrived_at)
            framed = EventLine(*placed, heard.session_id, heard.timestamp)
        if signals := _reported(message):
            return Signalled(framed, received_at, signals)
        return framed or Control(0, received_at, IGNORED, topic_of(message))
    return Control(0, received_at, kinds[0], _control_value(kinds[0], record))


def parse_frame(message: bytes) -> Frame:
    """Read a message as a frame by the definition; raises InvalidFrameError with the reason if it is not one.

    A notification becomes the frame that it amounts to, one that is ignored a frame of the event `IGNORED`.
    """
    record = _load_object(message)
    _load_object(b'{"frame":%b}' % message)  # in its line it will be nested a level deeper, and must be read there
    if not is_notification(record):
        return _as_frame(record)
    heard = read_notification(record)
    return Frame(IGNORED, Entity(""), np.nan) if heard is None else frame_of(heard)


def is_ignored(frame: Frame) -> bool:
    """Return whether a frame is what `parse_frame` makes of a notification that is ignored."""
    return frame.event == IGNORED and not frame.entity.id and np.isnan(frame.timestamp)


def _bare_notification(record: dict[str, Any]) -> BareFrame | Control | Signalled:
    """Read a notification that was captured as it is; one without any time is ignored."""
    arrival, sent = place_in_time(record)
    placed = sent if np.isnan(arrival) else arrival
    if np.isnan(placed):
        return Control(0, -np.inf, IGNORED, topic_of(record))
    heard, signals = read_notification(record), _reported(record)
    bare = None
    if heard is not None:
        frame = frame_of(heard)
        timestamp, arrived = (placed, None) if np.isnan(arrival) else (frame.timestamp, arrival)
        event = (frame.event, frame.entity, timestamp, frame.metrics, arrived)
        bare = BareEvent(*event, heard.session_id, heard.timestamp)
    if signals:
        return Signalled(bare, placed, signals)
    return bare or Control(0, placed, IGNORED, topic_of(record))


def frame_of(heard: Heard) -> Frame:
    """Return a message as a frame; its timestamp is NaN if its latency is unknown."""
    return Frame(heard.event, Entity(heard.conversation_id), heard.timestamp)


def _reported(record: dict[str, Any]) -> list[Signal | LegMedia]:
    """Return the signals of a message, behind the media of the leg that it is about."""
    media = leg_media(record)
    return [*([] if media is None else [media]), *signals_of(record)]


def _with_unread_numbers(line: bytes) -> FrameLine | BareFrame | Control | None:
    """Return a record that orjson refuses for a number that no float64 holds, even under a key that is not read."""
    with suppress(UnicodeDecodeError):
        line.decode()  # msgspec does not look into strings that it skips
        for decode in (decode_frame_line, decode_bare_frame, decode_watch_line):
            with suppress(msgspec.DecodeError, RecursionError):
                read = decode(line)
                return Control(0, read.received_at, "watch", read.watch) if isinstance(read, WatchLine) else read
    return None


def _control_value(kind: str, record: dict[str, Any]) -> Any:
    """Return the checked value of a control record; `invalid` comes with its reason."""
    value = record[kind]
    if kind == "invalid":
        if not isinstance(value, str):
            raise InvalidFrameError("invalid must be the text received")
        reason = record.get("reason")
        return {"text": value, "reason": reason if isinstance(reason, str) else "invalid when it was received"}
    if kind == "tick":
        if value is not True:
            raise InvalidFrameError("tick must be true")
        return True
    try:
        if kind == "feed":
            return msgspec.to_builtins(msgspec.convert(value, FeedState))
        if kind == CLOCK:
            return msgspec.to_builtins(msgspec.convert(value, ClockStep))
        if kind == "watch":
            return msgspec.convert(value, WatchSettings)
        return msgspec.to_builtins(msgspec.convert(value, FlowSettings))
    except msgspec.ValidationError as error:
        raise InvalidFrameError(f"{kind}: {error}") from None


def _load_object(line: bytes) -> dict[str, Any]:
    if not line.strip():
        raise InvalidFrameError("an empty line")
    try:
        loaded = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidFrameError(f"not JSON: {error}") from None
    return _object(loaded, "the line")


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidFrameError(f"{name} must be a JSON object")
    return value


def _as_frame(record: dict[str, Any]) -> Frame:
    """Return a frame that the contract calls valid. Raises InvalidFrameError for any other."""
    event = record.get("event")
    if not isinstance(event, str):
        raise InvalidFrameError("event is missing" if event is None else "event must be a string")
    entity = _object(record.get("entity", {}), "entity")
    conversation_id = entity.get("id")
    if not isinstance(conversation_id, str):
        raise InvalidFrameError("entity.id is missing" if conversation_id is None else "entity.id must be a string")
    if record.get("timestamp") is None:
        raise InvalidFrameError("timestamp is missing")
    timestamp = _number(record["timestamp"], "timestamp", -MAX_EPOCH_S, MAX_EPOCH_S)
    given = record.get("metrics")
    metrics = None if given is None else _object(given, "metrics")
    loss = jitter = None
    if metrics is not None:
        if metrics.get("packetLoss") is not None:
            loss = _number(metrics["packetLoss"], "metrics.packetLoss", *limits.LOSS_RATIO)
        if metrics.get("jitter") is not None:
            jitter = _number(metrics["jitter"], "metrics.jitter", -np.inf, np.inf)
    return Frame(event, Entity(conversation_id), timestamp, None if metrics is None else Metrics(loss, jitter))


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidFrameError(f"{name} must be a number")
    if not low <= value <= high:
        allowed = "epoch seconds" if high == MAX_EPOCH_S else f"within {low:g} and {high:g}"
        raise InvalidFrameError(f"{name} must be {allowed}, not {value!r}")
    return float(value)
