"""Recordings to measure with: journals as the job writes them, from a seed, made as fast as Python formats lines.

20,000 frames of about 200 bytes arrive each second, spread evenly over the conversations. Each conversation has an
incident in about one of fifty stretches of ten seconds: high latency and loss. In a storm, every frame breaches.
On demand each watch has five labels, and groups are made by one of them.
"""

from __future__ import annotations

import argparse
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

__all__ = ["FRAMES_A_SECOND", "START", "conversation_ids", "generate"]

START: Final = 1767225600
FRAMES_A_SECOND: Final = 20_000
INCIDENT_S: Final = 10
INCIDENTS: Final = 0.02
CHUNK: Final = 100_000
_LINE: Final = (
    '{"received_at":%r,"frame":{"event":"conversation.updated","entity":{"id":"%s"},"timestamp":%r,'
    '"metrics":{"packetLoss":%r,"jitter":%r}}}\n'
)


def conversation_ids(seed: int, conversations: int) -> list[str]:
    """The ids of a recording's conversations."""
    chance = Random(f"{seed}/ids")
    return [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(conversations)]


def generate(
    path: Path,
    frames: int,
    conversations: int,
    *,
    storm: bool = False,
    labels: bool = False,
    groups: bool = False,
    seed: int = 1,
) -> None:
    """Write a recording; it has its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".new")
    ids = conversation_ids(seed, conversations)
    with unfinished.open("w", buffering=1 << 20) as file:
        file.writelines(_record(value) for value in _head(ids, labels=labels, groups=groups))
        for first in range(0, frames, CHUNK):
            file.writelines(_lines(ids, first, min(CHUNK, frames - first), storm=storm, seed=seed))
    unfinished.rename(path)


def _head(ids: list[str], *, labels: bool, groups: bool) -> Iterator[dict[str, Any]]:
    settings: dict[str, Any] = {"windows": {"length_s": 10.0, "slide_s": 5.0}, "alerts": {"policy": "incident"}}
    if groups:
        settings["groups"] = {"by": ["queue"]}
    yield {"settings": settings}
    yield {"feed": {"name": "voice-events", "state": "up", "reason": "connected"}}
    for number, one in enumerate(ids):
        yield {
            "watch": {
                **({"labels": _labels(number)} if labels else {}),
                "conversation_id": one,
                "leg_id": f"leg-{one[:8]}",
                "interceptor_address": "sip:qa@monitoring.internal",
                "audio_sampling_rate": 16000,
                "channel_matrix": ["mono", "stereo"],
                "transcription_enabled": False,
                "transcription_language": "en-US",
                "max_latency_ms": 150,
                "packet_loss_threshold": 0.02,
                "qa_callback_url": "https://qa.example.com/alerts",
            }
        }


def _labels(number: int) -> dict[str, str]:
    """Return the labels of a conversation: 20 queues, 8 edges, 4 divisions, an agent for two conversations."""
    return {
        "agent": f"agent-{number // 2}",
        "direction": "inbound" if number % 5 else "outbound",
        "division": f"division-{number % 4}",
        "edge": f"edge-{number % 8}",
        "queue": f"queue-{number % 20}",
    }


def _record(value: dict[str, Any], at: float = START) -> str:
    return json.dumps({"received_at": at, **value}, separators=(",", ":")) + "\n"


def _lines(ids: list[str], first: int, count: int, *, storm: bool, seed: int) -> Iterator[str]:
    """Frames number `first` and on, with a tick before the first one of each second."""
    chance = np.random.default_rng((seed, first))
    number = np.arange(first, first + count)
    arrival = START + (number + chance.random(count)) / FRAMES_A_SECOND
    conversation = _shuffled(number, len(ids), seed)
    ill = _incidents(seed, arrival, conversation) | storm
    latency_ms = np.where(ill, 300.0, 60.0) + chance.gamma(4.0, 8.0, count)
    latency_ms = np.where(ill, latency_ms, np.minimum(latency_ms, 145.0))
    loss = np.where(ill, 0.03, 0.0) + np.minimum(chance.exponential(0.002, count), 0.015)
    columns = zip(
        arrival.tolist(),
        [ids[one] for one in conversation.tolist()],
        (arrival - latency_ms / 1000.0).round(6).tolist(),
        loss.round(4).tolist(),
        chance.gamma(2.0, 2.0, count).round(2).tolist(),
        strict=True,
    )
    second = int(arrival[0]) if first else START
    for column in columns:
        if column[0] >= second + 1:
            second = int(column[0])
            yield _record({"tick": True}, float(second))
        yield _LINE % column


def _shuffled(number: np.ndarray[Any, Any], conversations: int, seed: int) -> np.ndarray[Any, Any]:
    """Which conversation each frame is of: all take turns, in an order that is another in each turn."""
    turn = number // conversations
    stride = 2 * np.random.default_rng(seed).integers(0, 1 << 20, int(turn.max()) + 1)[turn] + 1
    while np.gcd(stride, conversations).max() > 1:
        stride = np.where(np.gcd(stride, conversations) > 1, stride + 2, stride)
    shuffled: np.ndarray[Any, Any] = (number % conversations * stride + turn) % conversations
    return shuffled


def _incidents(seed: int, arrival: np.ndarray[Any, Any], conversation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whether a conversation has an incident at a time: by a hash of the two, so that chunks need not know more."""
    stretch = (arrival - START).astype(np.uint64) // np.uint64(INCIDENT_S)
    mixed = (conversation.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ (
        (stretch + np.uint64(seed)) * np.uint64(0xC2B2AE3D27D4EB4F)
    )
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xD6E8FEB86659FD93)
    ill: np.ndarray[Any, Any] = (mixed >> np.uint64(40)) < INCIDENTS * (1 << 24)
    return ill


def main() -> None:
    """`python -m tests.benchmarks.generate PATH FRAMES CONVERSATIONS [--storm] [--labels] [--groups]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("frames", type=int)
    parser.add_argument("conversations", type=int)
    for name in ("--storm", "--labels", "--groups"):
        parser.add_argument(name, action="store_true")
    generate(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
