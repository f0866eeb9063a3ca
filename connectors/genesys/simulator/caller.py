"""Genesys' side of an AudioHook session: a caller without a socket and without a clock.

It does what Genesys' reference client does: `open`, then audio at the pace of the media, a ping after 1 s, another one
as soon as that is answered, then one every 5 s, `discarded`, `paused` and `resumed` where the plan has them, `close` at
the end or when asked to, and the WebSocket closed when `closed` has come. A plan can make it misbehave.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import orjson

from connectors.genesys.feeds.audiohook.messages import duration
from connectors.genesys.feeds.audiohook.session import MAX_TEXT_BYTES
from connectors.genesys.simulator.audio import RATE, Channel, Span, chunk, sound_at
from connectors.genesys.simulator.calls import conversation_id

__all__ = ["FAULTS", "CallPlan", "Caller", "Fault", "plan_call"]

OPEN_S: Final = 5.0
CLOSE_S: Final = 10.0
FIRST_PING_S: Final = 1.0
PING_S: Final = 5.0

FaultKind = Literal["late-pong", "wrong-sequence", "binary-while-paused", "oversized-text", "half-sample", "abrupt-end"]
FAULTS: Final[tuple[FaultKind, ...]] = (
    "late-pong",
    "wrong-sequence",
    "binary-while-paused",
    "oversized-text",
    "half-sample",
    "abrupt-end",
)


class Spell(NamedTuple):
    """From `begins_s` to `ends_s` of the call audio comes `late_s` late."""

    begins_s: float
    ends_s: float
    late_s: float


class Fault(NamedTuple):
    """What the caller does wrong, and how many seconds after the session is open."""

    at_s: float
    kind: FaultKind


@dataclass(frozen=True, slots=True)
class CallPlan:
    """A call of `seconds`, in frames of `frame_s`; `discards` and `pauses` are spans of the call in seconds.

    `network_s` is added to the round trips that the caller measures. The parties speak in turns, except in the spans
    of `sounds`. `custom_config` goes into `open`.
    """

    conversation_id: str
    session_id: str
    organization_id: str
    correlation_id: str
    seconds: float
    frame_s: float = 0.1
    network_s: float = 0.0
    late: tuple[Spell, ...] = ()
    discards: tuple[tuple[float, float], ...] = ()
    pauses: tuple[tuple[float, float], ...] = ()
    sounds: tuple[Span, ...] = ()
    custom_config: dict[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    media: tuple[dict[str, Any], ...] = field(
        default_factory=lambda: tuple(
            {"type": "audio", "format": "PCMU", "channels": channels, "rate": 8000}
            for channels in (["external", "internal"], ["external"], ["internal"])
        )
    )


def plan_call(seed: int, slot: int, call: int = 0, *, seconds: float | None = None) -> CallPlan:
    """Call number `call` of a slot; the same arguments give the same call.

    First calls have something to show within 8 s: that of slot 0 comes late for a while, that of slot 1 loses audio,
    that of slot 2 is paused and ends after 11 to 12 s, that of slot 3 has one-way audio from the third second on (the
    agent is not heard), that of slot 4 is on hold from the fourth to the ninth second.
    """
    chance = random.Random(f"{seed}/{slot}/{call}/audiohook")  # noqa: S311 - generated calls, no secrets
    r = chance.random
    length_s = 40 + 120 * r() if seconds is None else seconds
    late: list[Spell] = []
    discards: list[tuple[float, float]] = []
    pauses: list[tuple[float, float]] = []
    if call == 0 and slot == 0:
        begins_s = 2 + r()
        late.append(Spell(begins_s, begins_s + 3 + r(), 0.3 + 0.1 * r()))
    elif call == 0 and slot == 1:
        begins_s = round(2.5 + r(), 1)
        discards += [(begins_s + 0.5 * n, begins_s + 0.5 * n + 0.1) for n in range(6)]
    elif call == 0 and slot == 2:
        begins_s = 4 + r()
        pauses.append((begins_s, begins_s + 2 + r()))
        length_s = min(length_s, 11 + r())
    elif r() < 0.3:
        begins_s = (0.2 + 0.6 * r()) * length_s
        late.append(Spell(begins_s, begins_s + 3 + 3 * r(), 0.2 + 0.2 * r()))
    return CallPlan(
        conversation_id=conversation_id(seed, slot, call),
        session_id=_uuid(seed, slot, call, "session"),
        organization_id=_uuid(seed, "organization"),
        correlation_id=_uuid(seed, slot, call, "correlation"),
        seconds=length_s,
        network_s=0.02 + 0.04 * r(),
        sounds=_sounds(slot, call),
        late=tuple(late),
        discards=tuple(discards),
        pauses=tuple(pauses),
    )


class Caller:
    """One call in progress; give it what is received, poll it when `due`, and send what `to_send` returns."""

    def __init__(self, plan: CallPlan, now: float) -> None:
        self.plan = plan
        self.finished = False
        """Whether the WebSocket is to be closed."""
        self.hung_up = False
        """Whether the connection is to be closed without a close frame."""
        self.disconnects: list[tuple[str, str]] = []
        self.errors: list[tuple[int, str]] = []
        self.rtts_s: list[float] = []
        self.closed = False
        self._seq = 0
        self._serverseq = 0
        self._position_s = 0.0
        self._channels: tuple[Channel, ...] = ()
        self._outgoing: list[str | bytes] = []
        self._opened_at: float | None = None
        self._closing_at: float | None = None
        self._pinged: tuple[int, float] | None = None
        self._steps: Iterator[tuple[float, str, float]] = iter(())
        self._step: tuple[float, str, float] | None = None
        self._next_ping = now + OPEN_S
        self._open()

    @property
    def due(self) -> float:
        """Return when to poll next."""
        if self._closing_at is not None or self._opened_at is None or self._step is None:
            return self._next_ping
        return min(self._next_ping, self._opened_at + self._step[0])

    def to_send(self) -> list[str | bytes]:
        """Take the messages that are due: text as str, audio as bytes."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def poll(self, now: float) -> None:
        """Do what is due by now."""
        while self._closing_at is None and self._opened_at is not None and self._step is not None:
            if self._opened_at + self._step[0] > now:
                break
            _, kind, value = self._step
            self._step = next(self._steps, None)
            self._do(kind, value, now)
        if self._next_ping <= now and not self.finished:
            if self._closing_at is not None:
                self._error(408, "Close transaction timeout")
                self.finished = True
            elif self._opened_at is None:
                self._give_up(408, "Open transaction timeout", now)
            elif self._pinged is not None:
                self._give_up(408, "Timeout waiting for pong", now)
            else:
                self._ping(now)

    def receive(self, text: str | bytes, now: float) -> None:
        """Take in a message of the server. Raises ValueError for one that Genesys would not take."""
        message = orjson.loads(text)
        self._serverseq += 1
        if (message["version"], message["id"], message["seq"]) != ("2", self.plan.session_id, self._serverseq):
            raise ValueError(f"not a message of this session in its turn: {message}")
        parameters = message["parameters"]
        match message["type"]:
            case "opened" if self._opened_at is None:
                self._on_opened(parameters, now)
            case "pong":
                self._on_pong(message["clientseq"], now)
            case "disconnect":
                self.disconnects.append((parameters["reason"], parameters.get("info", "")))
                self.close("disconnect", now)
            case "closed" if self._closing_at is not None:
                self.closed = self.finished = True
            case "updated" | "event" | "pause" | "resume" | "reconnect":
                pass
            case other:
                raise ValueError(f"unexpected {other}")

    def close(self, reason: str, now: float) -> None:
        """End the session in order."""
        if self._closing_at is None:
            self._closing_at = now
            self._next_ping = now + CLOSE_S
            self._say("close", {"reason": reason})

    def _open(self) -> None:
        participant = {"id": self.plan.correlation_id, "ani": "tel:+13175550123", "aniName": "", "dnis": ""}
        parameters = {
            "organizationId": self.plan.organization_id,
            "conversationId": self.plan.conversation_id,
            "participant": participant,
            "media": list(self.plan.media),
        }
        if self.plan.custom_config:
            parameters["customConfig"] = self.plan.custom_config
        self._say("open", parameters)

    def _on_opened(self, parameters: dict[str, Any], now: float) -> None:
        media = parameters["media"]
        if len(media) > 1 or any(one not in self.plan.media for one in media):
            raise ValueError("the selected media is not one of those offered")
        self._channels = tuple(media[0]["channels"]) if media else ()
        self._opened_at = now
        self._next_ping = now + FIRST_PING_S
        self._steps = _steps(self.plan)
        self._step = next(self._steps, None)

    def _on_pong(self, clientseq: int, now: float) -> None:
        if self._pinged is None or self._pinged[0] != clientseq:
            if self._closing_at is None:
                raise ValueError("a pong without its ping")
            return
        first = not self.rtts_s
        self.rtts_s.append(now - self._pinged[1] + self.plan.network_s)
        self._pinged = None
        if first and self._closing_at is None:
            self._ping(now)

    def _ping(self, now: float) -> None:
        self._next_ping = now + PING_S
        self._say("ping", {"rtt": duration(self.rtts_s[-1])} if self.rtts_s else {})
        self._pinged = (self._seq, now)

    def _do(self, kind: str, value: float, now: float) -> None:
        match kind:
            case "audio":
                if self._channels:
                    self._outgoing.append(self._audio(value))
                self._position_s += value
            case "discarded" | "resumed":
                start_s = self._position_s
                self._position_s += value
                self._say(kind, {"start": duration(start_s), "discarded": duration(value)})
            case "paused":
                self._say("paused", {})
            case "end":
                self.close("end", now)
            case _:
                self._misbehave(kind, now)

    def _audio(self, seconds: float) -> bytes:
        """Return the audio of the next frame, in the channels that the server has chosen."""
        sounds = tuple(sound_at(self.plan.sounds, channel, self._position_s) for channel in self._channels)
        return chunk(sounds, round(self._position_s * RATE) % RATE, round(seconds * RATE))

    def _misbehave(self, kind: str, now: float) -> None:
        match kind:
            case "late-pong":
                self._give_up(408, "Timeout waiting for pong", now)
            case "wrong-sequence":
                self._seq += 5
                self._say("ping", {})
            case "binary-while-paused":
                self._say("paused", {})
                self._outgoing.append(b"\xff" * 1600)
            case "oversized-text":
                self._say("error", {"code": 400, "message": "x" * MAX_TEXT_BYTES})
            case "half-sample":
                self._outgoing.append(b"\xff" * 1599)
            case "abrupt-end":
                self.hung_up = True

    def _give_up(self, code: int, message: str, now: float) -> None:
        self._error(code, message)
        self.close("error", now)

    def _error(self, code: int, message: str) -> None:
        self.errors.append((code, message))
        self._say("error", {"code": code, "message": message})

    def _say(self, kind: str, parameters: dict[str, Any]) -> None:
        self._seq += 1
        message = {
            "version": "2",
            "id": self.plan.session_id,
            "type": kind,
            "seq": self._seq,
            "serverseq": self._serverseq,
            "position": duration(self._position_s),
            "parameters": parameters,
        }
        self._outgoing.append(orjson.dumps(message).decode())


def _steps(plan: CallPlan) -> Iterator[tuple[float, str, float]]:
    """Yield what happens in a call: when (seconds from its opening), what, and the seconds of media concerned."""
    faults = [(at_s, kind, 0.0) for at_s, kind in plan.faults]
    return heapq.merge(_media(plan), faults, key=lambda step: step[0])


def _media(plan: CallPlan) -> Iterator[tuple[float, str, float]]:
    frames = round(plan.seconds / plan.frame_s)
    sent_s = left_out_s = thrown_away_s = 0.0
    paused = False
    for number in range(frames):
        begins_s, ends_s = number * plan.frame_s, (number + 1) * plan.frame_s
        late_s = next((spell.late_s for spell in plan.late if spell.begins_s <= begins_s < spell.ends_s), 0.0)
        sent_s = max(sent_s, ends_s + late_s)
        pausing = _within(plan.pauses, begins_s)
        discarding = not pausing and _within(plan.discards, begins_s)
        if pausing and not paused:
            yield sent_s - plan.frame_s, "paused", 0.0
        elif paused and not pausing:
            yield sent_s - plan.frame_s, "resumed", left_out_s
            left_out_s = 0.0
        paused = pausing
        if thrown_away_s and not discarding:
            yield sent_s - plan.frame_s, "discarded", thrown_away_s
            thrown_away_s = 0.0
        if pausing:
            left_out_s += plan.frame_s
        elif discarding:
            thrown_away_s += plan.frame_s
        else:
            yield sent_s, "audio", plan.frame_s
    yield max(sent_s, plan.seconds), "end", 0.0


def _sounds(slot: int, call: int) -> tuple[Span, ...]:
    if (slot, call) == (3, 0):
        return (Span(3.0, math.inf, "internal", "silence"),)
    if (slot, call) == (4, 0):
        return (Span(4.0, 9.0, "internal", "music"), Span(4.0, 9.0, "external", "noise"))
    return ()


def _within(spans: tuple[tuple[float, float], ...], at_s: float) -> bool:
    return any(begins_s - 1e-9 <= at_s < ends_s - 1e-9 for begins_s, ends_s in spans)


def _uuid(*names: object) -> str:
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=16, person=b"voicewatch-hook").digest()
    return str(uuid.UUID(bytes=digest, version=4))
