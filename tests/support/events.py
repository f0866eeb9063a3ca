"""EventBridge events, and the ids of those that a journal holds."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from connectors.genesys.simulator.eventbridge import event_of
from connectors.journal.segments import segments

__all__ = ["PRIVATE", "detail_event", "journaled_ids"]

PRIVATE = "+49 30 1234567"


def detail_event(conversation: str, name: str, **body: Any) -> dict[str, Any]:
    """Return the event of a conversation's change, with a number that must not be kept."""
    content = {
        "conversationId": conversation,
        "eventTime": int(time.time() * 1000),
        "mediaType": "VOICE",
        "sessionId": f"s-{conversation}",
        "ani": PRIVATE,
        **body,
    }
    return event_of((f"v2.detail.events.conversation.{conversation}.{name}", content), time.time())


def journaled_ids(directory: Path) -> Counter[str]:
    """Return how often a journal holds each event."""
    lines = [line for segment in segments(directory) for line in segment.read_bytes().splitlines()]
    frames = [frame for line in lines if (frame := json.loads(line).get("frame")) is not None]
    return Counter(frame["id"] for frame in frames)
