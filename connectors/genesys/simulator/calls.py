"""Made-up voice calls: a seeded, clockless generator of the frames that Genesys would send about them.

A run has a number of *slots*. A slot holds one call at a time (`conversation.started`, `conversation.updated` …,
`conversation.ended`), then a pause, then the next call under a new id. Every slot sends `rate` frames a second
while its call is on, evenly spread, so the frames of all slots come in order without sorting.

- latency: a base for each call, a slow drift, spikes of a frame or two that stay below every sensible limit, and now
  and then an incident: above 180 ms for several seconds;
- packet loss: the two-state model of Gilbert and Elliott (E. O. Elliott, "Estimates of error rates for codes on
  burst-noise channels", Bell System Technical Journal 42, 1963): next to none in the good state, 3 to 12 % in the bad
  one, exponential stays in both;
- jitter: follows what latency has above its base.

Whatever the seed, the opening has one clear incident of each kind over within ten seconds (see `opening_script`).
"""

from __future__ import annotations

import hashlib
import math
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, NamedTuple

import orjson

__all__ = [
    "ENDED",
    "EVENT_TYPES",
    "STARTED",
    "UPDATED",
    "CallFrame",
    "Incident",
    "Script",
    "call_frames",
    "conversation_id",
    "conversation_ids",
    "encode_frame",
    "opening_script",
    "slot_order",
]

STARTED, UPDATED, ENDED = "conversation.started", "conversation.updated", "conversation.ended"
EVENT_TYPES = (STARTED, UPDATED, ENDED)

_INCIDENT_EVERY_S = 180.0
_SPIKE_EVERY_S = 15.0
_GOOD_STAY_S = 120.0
_BAD_STAY_S = 3.0
_CALM_S = 12.0
"""Before and after a scripted incident, chance brings none of its kind, so that it can be seen to be over."""


class CallFrame(NamedTuple):
    """One frame: it arrives `due_s` seconds after the run's start and was stamped `lag_s` seconds earlier.

    `packet_loss` (ratio 0..1) and `jitter_ms` are None in a frame without metrics, which `conversation.started` is.
    """

    due_s: float
    lag_s: float
    slot: int
    conversation_id: str
    event: str
    packet_loss: float | None
    jitter_ms: float | None


class Incident(NamedTuple):
    """A scripted bad spell of one slot, in seconds after the run's start."""

    slot: int
    kind: Literal["latency", "loss"]
    begins_s: float
    ends_s: float


@dataclass(frozen=True, slots=True)
class Script:
    """What does not happen by chance: incidents, and when the first call of a slot starts and ends (seconds)."""

    incidents: Sequence[Incident] = ()
    starts_s: Mapping[int, float] = field(default_factory=dict)
    ends_s: Mapping[int, float] = field(default_factory=dict)


def conversation_id(seed: int, slot: int, call: int) -> str:
    """Return the id of a slot's call number `call` (0, 1, …): like a random UUID, the same for the same arguments."""
    digest = hashlib.blake2b(f"{seed}/{slot}/{call}".encode(), digest_size=16, person=b"voicewatch-call").digest()
    return str(uuid.UUID(bytes=digest, version=4))


def conversation_ids(seed: int, conversations: int) -> list[str]:
    """Return the ids of the first call of each slot, so that a configuration can name them before anything runs.

    >>> conversation_ids(1, 2) == [conversation_id(1, 0, 0), conversation_id(1, 1, 0)]
    True
    """
    return [conversation_id(seed, slot, 0) for slot in range(conversations)]


def slot_order(seed: int, conversations: int) -> list[int]:
    """Return the slots in the order in which the scripted parts are given out."""
    order = list(range(conversations))
    _chance(seed, "order").shuffle(order)
    return order


def opening_script(seed: int, conversations: int) -> Script:
    """Return the start of every run, so that a demo of fifteen seconds has something to show.

    Within the first 7 seconds one slot has a latency incident and one a burst of loss, each of at least 2.5 s and
    followed by 12 s without another of its kind. With four conversations or more, a third slot's first call ends
    within 12 s, in the middle of a latency incident. Needs a rate of at least one frame a second to be seen.
    """
    r = _chance(seed, "opening").random
    order = slot_order(seed, conversations)
    latency_at, loss_at = 2 + r(), 2.5 + r()
    incidents = [
        Incident(order[0], "latency", latency_at, latency_at + 3 + r()),
        Incident(order[1 % conversations], "loss", loss_at, loss_at + 2.5 + r()),
    ]
    if conversations < 4:
        return Script(incidents)
    hangs_up, hangs_up_at = order[2], 11 + r()
    incidents.append(Incident(hangs_up, "latency", hangs_up_at - 2.5, hangs_up_at + 1))
    return Script(incidents, ends_s={hangs_up: hangs_up_at})


def call_frames(seed: int, conversations: int, rate: float, script: Script | None = None) -> Iterator[CallFrame]:
    """Every frame of a run, in the order of `due_s`, without end; `rate` is frames/s for each conversation.

    The same arguments give the same frames. Without a `script`, the run opens with `opening_script`.

    Raises ValueError when `conversations` or `rate` is not positive.
    """
    if conversations < 1 or not 0 < rate < math.inf:
        raise ValueError(f"conversations and rate must be positive, not {conversations} and {rate}")
    script = opening_script(seed, conversations) if script is None else script
    period_s = 1.0 / rate
    slots = [_slot(seed, slot, slot * period_s / conversations, period_s, script) for slot in range(conversations)]
    while True:
        for slot in slots:
            frame = next(slot)
            if frame is not None:
                yield frame


def encode_frame(frame: CallFrame, start: float) -> bytes:
    """Return the frame as it goes over the wire, in a run that started at `start` (epoch seconds)."""
    message: dict[str, object] = {
        "event": frame.event,
        "entity": {"id": frame.conversation_id},
        "timestamp": round(start + frame.due_s - frame.lag_s, 6),
    }
    if frame.packet_loss is not None:
        message["metrics"] = {"packetLoss": frame.packet_loss, "jitter": frame.jitter_ms}
    return orjson.dumps(message)


def _chance(*names: object) -> random.Random:
    return random.Random("/".join(map(str, names)))  # noqa: S311 - made-up calls, no secrets


def _slot(seed: int, slot: int, phase_s: float, period_s: float, script: Script) -> Iterator[CallFrame | None]:
    """One item for each period: the frame of the call that is on, or None in the pause between two calls."""
    at = (phase_s + beat * period_s for beat in count())
    due_s = next(at)
    begins_s = script.starts_s.get(slot, 0.0)
    ends_s = script.ends_s.get(slot)
    for call in count():
        rng = _chance(seed, slot, call)
        r = rng.random
        latency, loss = _Latency(rng, slot, script, period_s), _Loss(rng, slot, script, period_s)
        if ends_s is None:
            ends_s = begins_s + 40 + min(260.0, 80 * -math.log(1 - r()))
        name = conversation_id(seed, slot, call)
        while due_s < begins_s:
            yield None
            due_s = next(at)
        event = STARTED
        while event is not ENDED:
            lag_s = round(latency.ms(due_s) / 1000, 6)
            if event is STARTED:
                yield CallFrame(due_s, lag_s, slot, name, STARTED, None, None)
                event = UPDATED
            else:
                if due_s + period_s > ends_s:
                    event = ENDED
                jitter_ms = round(0.5 + 2.5 * r() + 0.12 * max(0.0, lag_s * 1000 - latency.base_ms), 2)
                yield CallFrame(due_s, lag_s, slot, name, event, loss.ratio(due_s), jitter_ms)
            due_s = next(at)
        begins_s, ends_s = due_s + 2 + 6 * r(), None


class _Spells:
    """The scripted incidents of one kind in one slot, and the calm around them."""

    def __init__(self, kind: str, slot: int, script: Script) -> None:
        self._spans = [(i.begins_s, i.ends_s) for i in script.incidents if i.slot == slot and i.kind == kind]

    def bad(self, at_s: float) -> bool:
        return any(begins_s <= at_s < ends_s for begins_s, ends_s in self._spans)

    def calm(self, at_s: float) -> bool:
        return any(begins_s - _CALM_S <= at_s < ends_s + _CALM_S for begins_s, ends_s in self._spans)


class _Latency:
    def __init__(self, rng: random.Random, slot: int, script: Script, period_s: float) -> None:
        self._random = r = rng.random
        self._spells = _Spells("latency", slot, script)
        self._incident_chance = period_s / _INCIDENT_EVERY_S
        self._spike_chance = period_s / _SPIKE_EVERY_S
        self._spike_s = 2 * period_s
        self.base_ms = 35 + 30 * r()
        self._drift_ms = 4 + 6 * r()
        self._drift_turn = 2 * math.pi / (30 + 60 * r())
        self._drift_phase = 2 * math.pi * r()
        self._incident_ms = 200 + 120 * r()
        self._incident_ends_s = -math.inf
        self._spike_ms = 0.0
        self._spike_ends_s = -math.inf

    def ms(self, at_s: float) -> float:
        r = self._random
        noise_ms = (r() + r() - 1) * 8
        if self._spells.bad(at_s) or at_s < self._incident_ends_s:
            return self._incident_ms + 2 * noise_ms
        chance = r()
        if chance < self._incident_chance and not self._spells.calm(at_s):
            self._incident_ms = 200 + 120 * r()
            self._incident_ends_s = at_s + 3 + 4 * r()
            return self._incident_ms
        if chance > 1 - self._spike_chance:
            self._spike_ms = 15 + 30 * r()
            self._spike_ends_s = at_s + self._spike_s * r()
        drift_ms = self._drift_ms * math.sin(at_s * self._drift_turn + self._drift_phase)
        spike_ms = self._spike_ms if at_s <= self._spike_ends_s else 0.0
        return self.base_ms + drift_ms + noise_ms + spike_ms


class _Loss:
    def __init__(self, rng: random.Random, slot: int, script: Script, period_s: float) -> None:
        self._random = rng.random
        self._spells = _Spells("loss", slot, script)
        self._worsens = period_s / _GOOD_STAY_S
        self._recovers = period_s / _BAD_STAY_S
        self._bad = False

    def ratio(self, at_s: float) -> float:
        r = self._random
        if self._spells.calm(at_s):
            self._bad = self._spells.bad(at_s)
        else:
            self._bad = r() >= self._recovers if self._bad else r() < self._worsens
        if self._bad:
            return round(0.03 + 0.09 * r() * r(), 5)
        return round(0.008 * r() ** 4, 5)
