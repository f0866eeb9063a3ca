"""A day of calls to report on: a state directory with its journal, and the windows and alerts of a replay of it.

Calls of seven minutes with a frame a second, spread over a day; a tick each second. An edge is slow for an hour, and
the feed is lost for five minutes.
"""

from __future__ import annotations

import argparse
import heapq
import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

from flows.commands.replay import replay

__all__ = ["make_day"]

START: Final = 1767225600.0
DAY_S: Final = 86_400
FRAMES_A_CALL: Final = 420
QUEUES: Final = ("Support", "Sales", "Billing", "Claims", "Onboarding", "Retention")
EDGES: Final = ("edge-fra-1", "edge-fra-2", "edge-dub-1", "edge-lon-3")
GAP_S: Final = (40_000.0, 40_300.0)
Line = tuple[float, str]
LINE: Final = (
    '{"received_at":%.6f,"frame":{"event":"%s","entity":{"id":"%s"},"timestamp":%.3f,'
    '"metrics":{"packetLoss":%.4f,"jitter":3.0}}}'
)


def call(seed: int, number: int) -> Iterator[Line]:
    """Yield the lines of one call, in the order of their times."""
    chance = Random(f"{seed}/{number}")
    id_ = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    labels = {"agent": f"agent-{number % 300:03d}", "edge": chance.choice(EDGES), "queue": chance.choice(QUEUES)}
    begin = chance.uniform(0.0, DAY_S - FRAMES_A_CALL - 5.0)
    limits = {"max_latency_ms": 150.0, "packet_loss_threshold": 0.02, "qa_callback_url": "https://qa.example.com/"}
    watch = {"conversation_id": id_, "leg_id": f"leg-{number}", "labels": labels, **limits}
    yield begin, json.dumps({"received_at": round(START + begin, 6), "watch": watch}, separators=(",", ":"))
    for frame in range(FRAMES_A_CALL):
        sent = begin + 0.1 + frame
        is_slow = labels["edge"] == "edge-lon-3" and 50_000 < sent < 53_600
        at = sent + (chance.uniform(0.1, 0.3) if is_slow else chance.uniform(0.03, 0.12))
        event = "conversation.updated" if frame + 1 < FRAMES_A_CALL else "conversation.ended"
        if not GAP_S[0] < at < GAP_S[1]:
            yield at, LINE % (START + at, event, id_, START + sent, chance.expovariate(500))


def ticks() -> Iterator[Line]:
    """Yield the ticks of the day, the settings, and what became of the feed."""
    settings = {"windows": {"length_s": 10.0, "slide_s": 5.0}, "alerts": {"raise_m": 5, "raise_n": 3}}
    changes: dict[int, dict[str, Any]] = {0: {"settings": settings}}
    for at, state in ((1, "up"), (int(GAP_S[0]), "down"), (int(GAP_S[1]), "up")):
        changes[at] = {"feed": {"name": "voice-events", "state": state, "reason": "scripted"}}
    for second in range(DAY_S):
        if second in changes:
            yield float(second), json.dumps({"received_at": START + second, **changes[second]}, separators=(",", ":"))
        yield float(second), f'{{"received_at":{START + second},"tick":true}}'


def make_day(directory: Path, frames: int) -> None:
    """Write a state directory of about a number of frames."""
    segment = directory / "journal" / "00000001.jsonl"
    segment.parent.mkdir(parents=True)
    calls = [call(7, number) for number in range(frames // FRAMES_A_CALL)]
    with segment.open("w") as file:
        file.writelines(f"{line}\n" for _, line in heapq.merge(ticks(), *calls, key=lambda one: one[0]))
    out = directory / "out"
    replay([segment], out, settings=None, environ={}, speed=None, deliver=False, stop=threading.Event())
    for path in out.iterdir():
        path.rename(directory / path.name)
    shutil.rmtree(out)


def main() -> None:
    """`python -m tests.benchmarks.day DIRECTORY FRAMES`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("frames", type=int)
    options = parser.parse_args()
    make_day(options.directory, options.frames)


if __name__ == "__main__":
    main()
