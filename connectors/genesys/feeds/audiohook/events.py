"""What a message of an AudioHook client means. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

__all__ = [
    "Audio",
    "ClientError",
    "CloseReason",
    "Closed",
    "Declined",
    "Discarded",
    "Event",
    "Failed",
    "Opened",
    "Paused",
    "Ping",
    "Resumed",
    "Updated",
]

CloseReason = Literal["end", "error", "disconnect", "reconnect"]


class Opened(NamedTuple):
    """The session is open. `channels` is 0 for one without audio; `is_probe` tells a connection probe.

    `continues` are the ids of the sessions that this one takes the place of. `texts` are the texts in the client's
    `customConfig` and `inputVariables`. `names` are those of the channels.
    """

    conversation_id: str
    position_s: float
    channels: int
    is_probe: bool
    continues: tuple[str, ...]
    texts: Mapping[str, str]
    names: tuple[str, ...] = ()


class Declined(NamedTuple):
    """The conversation is not wanted: it was opened without audio, and the client was asked to close."""

    conversation_id: str


class Audio(NamedTuple):
    """So many samples of each channel arrived."""

    samples: int


class Ping(NamedTuple):
    """The client asked for a sign of life (the pong is ready to be sent); `rtt_s` is that of its last ping."""

    rtt_s: float | None
    position_s: float


class Discarded(NamedTuple):
    """Genesys threw away audio that it could not send, from `start_s` on."""

    start_s: float
    discarded_s: float


class Paused(NamedTuple):
    """There is no audio from here on, by intention."""

    position_s: float


class Resumed(NamedTuple):
    """There is audio again; what was said in between, `discarded_s` from `start_s` on, was left out by intention."""

    start_s: float
    discarded_s: float


class Updated(NamedTuple):
    """The language of the conversation changed."""

    language: str


class ClientError(NamedTuple):
    """The client reports an error of ours or of its own; if it is fatal, it closes."""

    code: int
    message: str


class Failed(NamedTuple):
    """The client broke the protocol and was asked to close."""

    info: str


class Closed(NamedTuple):
    """The client closed the session; everything before it has been received."""

    reason: CloseReason


Event: TypeAlias = (
    Opened | Declined | Audio | Ping | Discarded | Paused | Resumed | Updated | ClientError | Failed | Closed
)
