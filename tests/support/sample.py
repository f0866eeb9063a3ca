"""A recording made up from `calls`, in the journal's format, without waiting and without a clock.

It holds one of everything that a replay has to cope with, so that the project can ship a recording to try things on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson

from connectors.genesys.simulator.calls import (
    STARTED,
    CallFrame,
    Incident,
    Script,
    call_frames,
    conversation_id,
    encode_frame,
    slot_order,
)

__all__ = ["record"]

_GAP_S = 8.0
_SETTINGS = {
    "windows": {"length_s": 10, "slide_s": 5},
    "alerts": {
        "policy": "incident",
        "raise_n": 1,
        "raise_m": 1,
        "clear_ratio": 0.9,
        "clear_after_s": 10,
        "unwatched": "ignore",
    },
}
_INVALID = (
    ('{"event":"conversation.updated","entity":{"id":"cut-in-the-mid', "not JSON"),
    ('{"event":"conversation.updated","timestamp":1767225600.0}', "entity.id is missing"),
    ('{"event":"conversation.updated","entity":{"id":"c"},"timestamp":"noon"}', "timestamp is not a number"),
    ("\ufffd\x00\x17", "binary message"),
)

_Line = tuple[float, bytes]


def record(path: Path, *, seed: int, conversations: int, rate: float, seconds: float, start: float) -> None:
    """Write a recording of `seconds` from `start` (epoch seconds); the same arguments give the same bytes.

    There are `conversations` watched calls at a time (at least 6) and one that is not watched, each with `rate`
    frames/s. Besides what chance brings, one latency and two loss incidents recover; one latency incident is ended by
    its call; another is under way when the feed is lost for 8 s in the middle, and over when it is back. One slot
    starts late, and every new call is watched from its start. There are four `invalid` records and two bad lines: one
    cut short, and one frame that lost more than everything.

    Raises ValueError for fewer than 6 conversations or 60 seconds, OSError when `path` cannot be written.
    """
    if conversations < 6 or seconds < 60:
        raise ValueError(f"needs 6 conversations and 60 seconds, not {conversations} and {seconds}")
    script = _script(seed, conversations, seconds)
    gap = (seconds / 2 - _GAP_S / 2, seconds / 2 + _GAP_S / 2)
    frames = takewhile(lambda f: f.due_s < seconds, call_frames(seed, conversations + 1, rate, script))
    lines = heapq.merge(
        _beginning(start),
        _disturbances(seed, seconds, gap, start),
        _calls(frames, conversations, gap, start),
        ((at, _line(start + at, tick=True)) for at in range(1, int(seconds) + 1)),
        key=lambda line: line[0],
    )
    with path.open("wb") as file:
        file.writelines(line + b"\n" for _, line in lines)


def _script(seed: int, conversations: int, seconds: float) -> Script:
    recovers, loses, hangs_up, freezes, late, loses_later = slot_order(seed, conversations)[:6]
    middle = seconds / 2
    incidents = [
        Incident(recovers, "latency", seconds / 9, seconds / 9 + 6),
        Incident(loses, "loss", seconds / 6, seconds / 6 + 4),
        Incident(hangs_up, "latency", seconds / 3 - 4, seconds / 3 + 4),
        Incident(freezes, "latency", middle - _GAP_S / 2 - 4, middle + _GAP_S / 2 - 2),
        Incident(loses_later, "loss", seconds * 0.7, seconds * 0.7 + 4),
    ]
    ends_s = {recovers: seconds * 0.4, loses: seconds * 0.4, hangs_up: seconds / 3, freezes: seconds * 0.75}
    ends_s |= {late: seconds * 2, loses_later: seconds * 0.9}
    return Script(incidents, starts_s={late: seconds * 0.2}, ends_s=ends_s)


def _beginning(start: float) -> Iterator[_Line]:
    yield 0.0, _line(start, settings=_SETTINGS)
    yield 0.0, _line(start, feed={"name": "voice-events", "state": "up", "reason": "connected"})


def _disturbances(seed: int, seconds: float, gap: tuple[float, float], start: float) -> Iterator[_Line]:
    spread = [
        (seconds * (0.13 + 0.23 * number), {"invalid": text, "reason": reason})
        for number, (text, reason) in enumerate(_INVALID)
    ]
    lost_too_much = {
        "event": "conversation.updated",
        "entity": {"id": conversation_id(seed, 0, 0)},
        "timestamp": start + seconds * 0.3,
        "metrics": {"packetLoss": 1.7, "jitter": 2.0},
    }
    lines = [(at, _line(start + at, **keys)) for at, keys in spread]
    lines += [
        (seconds * 0.31, _line(start + seconds * 0.31, frame=lost_too_much)),
        (seconds * 0.62, _line(start + seconds * 0.62, frame=lost_too_much)[:60]),
        (
            gap[0],
            _line(start + gap[0], feed={"name": "voice-events", "state": "down", "reason": "1006 connection lost"}),
        ),
        (gap[1], _line(start + gap[1], feed={"name": "voice-events", "state": "up", "reason": "connected"})),
    ]
    yield from sorted(lines)


def _calls(frames: Iterator[CallFrame], watched: int, gap: tuple[float, float], start: float) -> Iterator[_Line]:
    for frame in frames:
        received_at = start + frame.due_s
        if frame.event is STARTED and frame.slot < watched:
            yield frame.due_s, _line(received_at, watch=_watch(frame))
        if not gap[0] <= frame.due_s < gap[1]:
            yield frame.due_s, _line(received_at, frame=orjson.Fragment(encode_frame(frame, start)))


def _watch(frame: CallFrame) -> dict[str, Any]:
    return {
        "conversation_id": frame.conversation_id,
        "leg_id": f"leg-{frame.conversation_id[:8]}",
        "interceptor_address": "sip:qa@monitoring.internal",
        "audio_sampling_rate": 16000,
        "channel_matrix": ["mono", "stereo"],
        "transcription_enabled": False,
        "transcription_language": "en-US",
        "max_latency_ms": 150,
        "packet_loss_threshold": 0.015 if frame.slot == 0 else 0.02,
        "qa_callback_url": "https://qa.example.com/alerts",
    }


def _line(received_at: float, **record: object) -> bytes:
    return orjson.dumps({"received_at": round(received_at, 6), **record})
