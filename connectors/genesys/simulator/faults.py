"""What the simulator does wrong, read from a small TOML file.

A fault either strikes the event stream, once `after_frames` frames were sent in all::

    [[fault]]
    after_frames = 200
    do = "close"              # with code (default 1011)
                              # "abort"      the connection ends without a close frame
                              # "stall"      for `seconds`, nothing is sent to the open sockets, not even pongs
                              # "garbage"    `text`, or every message of GARBAGE
                              # "duplicate"  the last frame once more
                              # "oversize"   a frame of `bytes` bytes

or it strikes the next `times` (default 1) requests of one kind::

    [[fault]]
    on = "create"             # "token", "load", "create", "upgrade", "channel", "subscribe", "activity", "details",
                              # "details-query", "mediastatistics", "queues", "users" or "divisions"
    status = 429              # 401, 403, 429, 500 or 503, with retry_after (seconds) if wanted; or instead of it
    # do = "hang"             # no answer, ever
    # do = "reset"            # the connection is reset after the request was received
    times = 2

or it strikes the calls of one edge, queue, agent, division or provider, from `after_s` seconds after the run's start::

    [[fault]]
    on = "edge"
    name = "edge-frankfurt-2" # or its id
    do = "latency"            # adds latency_ms (default 250)
                              # "loss"       packet loss of at least `loss` (default 0.08)
                              # "one-way"    the agents' audio is silent (AudioHook)
                              # "dead-air"   all audio is silent (AudioHook)
                              # "disconnect" calls that end do so by a WebRTC failure, with error `code`
                              # "low-mos"    Genesys measures a MOS of at most `mos` (default 2.8); packets are well
                              # "codec"      agents' legs change to `codec` (default audio/G729) during the call
                              # "one-way-loss" of what agents receive, `loss` is lost; not of what they send
                              # "offline"    the edge is offline (only with on = "edge")
    after_s = 5
    for_s = 20                # unless given, until the end of the run
    share = 0.9               # of these calls, by their ids; all by default

or the platform publishes an operational event (notifications only)::

    [[fault]]
    on = "platform"
    event = "AUDIOHOOK-0001"
    after_s = 5

A create that hangs or is reset has taken effect, as it may have at Genesys; one answered with a status has not.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from websockets.exceptions import ProtocolError
from websockets.frames import Close

from connectors.errors import ConfigurationError

__all__ = [
    "GARBAGE",
    "Abort",
    "CloseSockets",
    "Duplicate",
    "Faults",
    "Garbage",
    "Impairment",
    "Misbehave",
    "Oversize",
    "PlatformEvent",
    "Refuse",
    "RequestFault",
    "RequestKind",
    "Stall",
    "StreamFault",
    "load_faults",
    "parse_faults",
]

GARBAGE: tuple[str | bytes, ...] = (
    '{"event":"conversation.updated","entity":{"id":"cut-in-the-mid',
    "null",
    '{"event":"conversation.updated","timestamp":1767225600.0}',
    '{"entity":{"id":"no-event"},"timestamp":1767225600.0}',
    '{"event":"conversation.updated","entity":{"id":7},"timestamp":1767225600.0}',
    '{"event":"conversation.updated","entity":{"id":"text-for-time"},"timestamp":"2026-01-01T00:00:00Z"}',
    '{"event":"conversation.updated","entity":{"id":"much-loss"},"timestamp":1767225600.0,"metrics":{"packetLoss":1.7}}',
    b"\x00\xff\x80 not text",
)
"""What a `garbage` fault sends by default: no message of it is a frame."""

RequestKind = Literal[
    "token",
    "load",
    "create",
    "upgrade",
    "channel",
    "subscribe",
    "activity",
    "details",
    "details-query",
    "mediastatistics",
    "queues",
    "users",
    "divisions",
]
Dimension = Literal["edge", "queue", "agent", "division", "provider"]


def _sendable(code: int) -> int:
    try:
        Close(code, "").check()
    except ProtocolError:
        raise ValueError('not a code that a close frame may carry; for 1006 say do = "abort"') from None
    return code


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Stream(_Table):
    after_frames: int = Field(ge=0)


class CloseSockets(_Stream):
    """Close every event socket with a close frame."""

    do: Literal["close"]
    code: Annotated[int, AfterValidator(_sendable)] = 1011


class Abort(_Stream):
    """End the connection of every event socket without a close frame."""

    do: Literal["abort"]


class Stall(_Stream):
    """Send nothing to the sockets that are open now, and read nothing from them; what was due follows late."""

    do: Literal["stall"]
    seconds: float = Field(gt=0, le=3600)


class Garbage(_Stream):
    """Send messages that are not frames."""

    do: Literal["garbage"]
    text: str | None = None


class Duplicate(_Stream):
    """Send the last frame again."""

    do: Literal["duplicate"]


class Oversize(_Stream):
    """Send one frame of at least this size."""

    do: Literal["oversize"]
    bytes: int = Field(gt=0, le=256 * 2**20)


class _Request(_Table):
    on: RequestKind
    times: int = Field(default=1, ge=1)


class Refuse(_Request):
    """Answer with an error status."""

    status: Literal[401, 403, 429, 500, 503]
    retry_after: int | None = Field(default=None, ge=0)


class Misbehave(_Request):
    """Receive the request and never answer it."""

    do: Literal["hang", "reset"]


class Impairment(_Table):
    """Worsen the calls of one edge, queue, agent, division or provider."""

    on: Dimension
    name: str = Field(min_length=1)
    do: Literal["latency", "loss", "one-way", "dead-air", "disconnect", "low-mos", "codec", "one-way-loss", "offline"]
    after_s: float = Field(default=0.0, ge=0)
    for_s: float = Field(default=math.inf, gt=0)
    latency_ms: float = Field(default=250.0, gt=0, le=60_000)
    loss: float = Field(default=0.08, gt=0, le=1)
    mos: float = Field(default=2.8, ge=1, le=4.9)
    codec: str = Field(default="audio/G729", min_length=1)
    share: float = Field(default=1.0, gt=0, le=1)
    code: str = "error.ininedgecontrol.connection.webrtc.endpoint.disconnect.iceIdleDetection"

    @model_validator(mode="after")
    def _check_offline(self) -> Self:
        if self.do == "offline" and self.on != "edge":
            raise ValueError('do = "offline" needs on = "edge"')
        return self

    def strikes(self, at_s: float) -> bool:
        """Whether the fault is in force at a time of the run."""
        return self.after_s <= at_s < self.after_s + self.for_s


class PlatformEvent(_Table):
    """Publish an operational event."""

    on: Literal["platform"]
    event: str = Field(min_length=1)
    after_s: float = Field(default=0.0, ge=0)


StreamFault = CloseSockets | Abort | Stall | Garbage | Duplicate | Oversize
RequestFault = Refuse | Misbehave


def _kind(fault: object) -> object:
    if not isinstance(fault, Mapping):
        return fault.__class__.__name__ if isinstance(fault, _Table) else None
    if fault.get("on") == "platform":
        return "PlatformEvent"
    if fault.get("on") in get_args(Dimension):
        return "Impairment"
    if "on" in fault:
        return "Misbehave" if "do" in fault else "Refuse"
    return _BY_ACTION.get(str(fault.get("do")))


_BY_ACTION = {
    "close": "CloseSockets",
    "abort": "Abort",
    "stall": "Stall",
    "garbage": "Garbage",
    "duplicate": "Duplicate",
    "oversize": "Oversize",
}

_AnyFault = Annotated[
    Annotated[CloseSockets, Tag("CloseSockets")]
    | Annotated[Abort, Tag("Abort")]
    | Annotated[Stall, Tag("Stall")]
    | Annotated[Garbage, Tag("Garbage")]
    | Annotated[Duplicate, Tag("Duplicate")]
    | Annotated[Oversize, Tag("Oversize")]
    | Annotated[Refuse, Tag("Refuse")]
    | Annotated[Misbehave, Tag("Misbehave")]
    | Annotated[Impairment, Tag("Impairment")]
    | Annotated[PlatformEvent, Tag("PlatformEvent")],
    Discriminator(
        _kind,
        custom_error_type="fault_kind",
        custom_error_message=(
            "must have either `on` (a kind of request such as token, load, create or upgrade, edge, queue, agent, "
            "division, provider or platform) or `do` as one of close, abort, stall, garbage, duplicate, oversize"
        ),
    ),
]


class Faults(_Table):
    """Every fault of a run, in the order of the file."""

    fault: list[_AnyFault] = Field(default_factory=list)

    def of_stream(self) -> list[StreamFault]:
        """Return the faults of the event stream, earliest first."""
        return sorted((f for f in self.fault if isinstance(f, StreamFault)), key=lambda f: f.after_frames)

    def of_calls(self) -> list[Impairment]:
        """Return the faults that worsen calls."""
        return [f for f in self.fault if isinstance(f, Impairment)]

    def of_platform(self) -> list[PlatformEvent]:
        """Return the operational events, earliest first."""
        return sorted((f for f in self.fault if isinstance(f, PlatformEvent)), key=lambda f: f.after_s)

    def of_requests(self) -> list[RequestFault]:
        """Return the faults of requests; those of one kind strike in this order."""
        return [f for f in self.fault if isinstance(f, RequestFault)]


def load_faults(path: Path) -> Faults:
    """Read the faults in a TOML file; raises ConfigurationError with every mistake in it."""
    try:
        return parse_faults(path.read_text(encoding="utf-8"), where=str(path))
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(str(path), [f"is not UTF-8 (byte {error.start})"]) from error


def parse_faults(text: str, *, where: str = "faults") -> Faults:
    """Read the faults in a TOML text; raises ConfigurationError, naming `where`, with every mistake in it."""
    try:
        tables = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigurationError(where, ["is nested too deeply"]) from error
    except ValueError as error:  # not TOML, or a number of thousands of digits
        raise ConfigurationError(where, [f"is not TOML: {error}"]) from error
    try:
        return Faults.model_validate(tables)
    except ValidationError as error:
        raise ConfigurationError(where, [_mistake(e["loc"], e["msg"]) for e in error.errors()]) from error


def _mistake(loc: tuple[Any, ...], message: str) -> str:
    # The third part of a location is the tag of the union's member, which no key of the file corresponds to.
    key = loc[0] if len(loc) == 1 else ".".join([f"{loc[0]}[{loc[1]}]", *map(str, loc[3:])])
    return f"{key}: {message.removeprefix('Value error, ')}"
