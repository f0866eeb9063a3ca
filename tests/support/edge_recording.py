"""Makes `edge-fails.jsonl` in `tests/data`, in which one of three edges fails: run it as a module to write it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["CALLS", "RECORDING", "START", "edge_fails"]

RECORDING = Path(__file__).parents[1] / "data" / "edge-fails.jsonl"
START = 1_767_225_600  # 2026-01-01T00:00:00Z
CALLS, SECONDS = 12, 60
URL = "https://qa.example.com/alerts"
BAD = {"call-01": (12, 40), "call-04": (15, 40), "call-07": (21, 40), "call-10": (23, 40), "call-00": (30, 31)}
"""When calls are late: all four of edge-b, and one of edge-a for a second."""


def edge_fails() -> bytes:
    """Return the recording: twelve calls on three edges and two queues, a frame a second each."""
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in _records())


def _records() -> Iterator[dict[str, Any]]:
    groups = {"by": ["edge"], "min_conversations": 4, "raise_ratio": 0.5, "clear_ratio": 0.25, "clear_after_s": 5}
    settings = {"windows": {"length_s": 10, "slide_s": 5}, "alerts": {"clear_after_s": 5}, "groups": groups}
    yield {"received_at": START, "settings": settings}
    yield {"received_at": START, "feed": {"name": "voice-events", "state": "up", "reason": "connected"}}
    calls = [f"call-{number:02}" for number in range(CALLS)]
    for number, id_ in enumerate(calls):
        labels = {"edge": f"edge-{'abc'[number % 3]}", "queue": ["Support", "Sales"][number % 2]}
        watch = {"conversation_id": id_, "leg_id": f"leg-{number}", "qa_callback_url": URL, "labels": labels}
        yield {"received_at": START, "watch": watch}
    for second in range(1, SECONDS):
        for number, id_ in enumerate(calls):
            begin, end = BAD.get(id_, (SECONDS, SECONDS))
            at, late_s = START + second + number / 16, 0.4 if begin <= second < end else 0.04
            frame = {
                "event": "conversation.updated",
                "entity": {"id": id_},
                "timestamp": round(at - late_s, 6),
                "metrics": {"packetLoss": 0.001, "jitter": 2.0},
            }
            yield {"received_at": at, "via": "voice-events", "frame": frame}
    yield {"received_at": START + SECONDS, "tick": True}


if __name__ == "__main__":
    RECORDING.write_bytes(edge_fails())
