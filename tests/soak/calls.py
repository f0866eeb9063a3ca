"""What the simulator plays in a soak: many short calls with many incidents, and messages that no server should send.

Every frame carries a `serial`, which voicewatch ignores, so that each one sent can be found in the journal.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from pathlib import Path

import orjson

from connectors.genesys.simulator.calls import ENDED, STARTED, UPDATED

__all__ = ["HOSTILE", "first_ids", "write_calls"]

RATE = 10.0
BEGAN = 1_700_000_000.0
ODD_IDS = (
    "",
    " ",
    "0",
    "null",
    "\u0000",
    "\u2028",
    '"}\\',
    "é" * 40,
    "\U0001f4de",
    "../../etc/passwd",
    "=1+1",
    "x" * 4000,
)

HOSTILE: tuple[str | bytes, ...] = (
    "",
    "\x00",
    "{" * 100_000,
    "[" * 500_000 + "]" * 500_000,
    '{"event":"conversation.updated","entity":{"id":"huge"},"timestamp":1e400}',
    '{"event":"conversation.updated","entity":{"id":"nan"},"timestamp":NaN}',
    '{"event":"conversation.updated","entity":{"id":"far"},"timestamp":-1e300}',
    '{"event":"conversation.updated","entity":{"id":"long"},"timestamp":' + "9" * 5000 + "}",
    '{"event":"conversation.updated","entity":{"id":"half","id":"\\ud800"},"timestamp":1700000000}',
    '{"event":"conversation.updated","entity":{"id":"twice"},"timestamp":"x","timestamp":1700000000}',
    '{"event":"conversation.updated","entity":{"id":"loss"},"timestamp":1700000000,"metrics":{"packetLoss":-0.1}}',
    '{"event":"conversation.updated","entity":{"id":"deep"},"timestamp":1700000000,"x":' + "[" * 900 + "]" * 900 + "}",
    '{"event":"conversation.updated","entity":{"id":"wide"},"timestamp":1700000000,"x":"' + "w" * 900_000 + '"}',
    '{"received_at":1,"watch":{"conversation_id":"forged","qa_callback_url":"http://127.0.0.1:1/"}}',
    '{"received_at":1,"tick":true}\n{"received_at":2,"tick":true}',
    b"\x00\xff\xfe",
    b"\xed\xa0\x80" * 100,
)


def first_ids(slots: int) -> list[str]:
    """The conversations of the first call of each slot."""
    return [_name(slot, 0) for slot in range(slots)]


def write_calls(path: Path, *, seed: int, slots: int, seconds: float) -> int:
    """Write a recording of `slots` calls at a time, `seconds` long; the number of frames in it."""
    serial = 0
    with path.open("wb") as file:
        for at, _, frame in heapq.merge(*(_slot(seed, slot, seconds) for slot in range(slots))):
            file.write(orjson.dumps({"received_at": BEGAN + at, "frame": {**frame, "serial": serial}}) + b"\n")
            serial += 1
    return serial


def _name(slot: int, call: int) -> str:
    if call and slot < len(ODD_IDS) and call % 3 == 0:
        return f"{ODD_IDS[slot]}{call}" if call % 2 else ODD_IDS[slot]
    return f"call-{slot}-{call}"


def _slot(seed: int, slot: int, seconds: float) -> Iterator[tuple[float, int, dict[str, object]]]:
    rng = random.Random(f"{seed}/{slot}")
    at, call = rng.uniform(0.0, 1.0), 0
    while at < seconds:
        event, ends = STARTED, at + rng.uniform(3.0, 14.0)
        bad_latency = bad_loss = 0
        while event is not ENDED and at < seconds:
            if rng.random() < 0.02:
                bad_latency = rng.randrange(5, 25)
            if rng.random() < 0.02:
                bad_loss = rng.randrange(3, 15)
            bad_latency, bad_loss = bad_latency - 1, bad_loss - 1
            lag_s = rng.uniform(0.2, 0.4) if bad_latency > 0 else rng.uniform(0.03, 0.1)
            frame: dict[str, object] = {
                "event": event,
                "entity": {"id": _name(slot, call)},
                "timestamp": BEGAN + at - lag_s,
            }
            if event is not STARTED:
                loss = rng.uniform(0.03, 0.2) if bad_loss > 0 else rng.uniform(0.0, 0.01)
                frame["metrics"] = {"packetLoss": round(loss, 5), "jitter": round(rng.uniform(0.5, 9.0), 2)}
            yield at, slot, frame
            at += 1.0 / RATE
            event = ENDED if at + 1.0 / RATE > ends else UPDATED
        at, call = at + rng.uniform(0.2, 2.0), call + 1
