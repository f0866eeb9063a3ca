"""Makes the recordings of notifications in `tests/data`: run it as a module to write them again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "data"
START = 1_767_225_600  # 2026-01-01T00:00:00Z
CALL, OTHER_CALL = "11111111-aaaa-4aaa-8aaa-000000000001", "22222222-bbbb-4bbb-8bbb-000000000002"
QUEUE = "v2.routing.queues.33333333-cccc-4ccc-8ccc-000000000003.conversations.calls"


def notification(topic: str, body: dict[str, Any], call: str = CALL) -> dict[str, Any]:
    """A notification as a channel sends it."""
    return {"topicName": topic, "version": "2", "eventBody": body, "metadata": {"CorrelationId": f"of-{call[:8]}"}}


def detail(call: str, event: str, at: float, number: int) -> dict[str, Any]:
    """A detail event that came to be at `at`."""
    body = {
        "eventTime": round(at * 1000),
        "conversationId": call,
        "participantId": f"{call[:8]}-p",
        "sessionId": f"{call[:8]}-s{number}",
        "mediaType": "VOICE",
        "provider": "Edge",
        "direction": "INBOUND",
        "ani": "tel:+15555550100",
    }
    return notification(f"v2.detail.events.conversation.{call}.{event}", body, call)


def snapshot(call: str, *legs: tuple[str, str]) -> dict[str, Any]:
    """A call with participants of these purposes and states."""
    participants = [
        {"id": f"{call[:8]}-{number}", "purpose": purpose, "state": state, "direction": "inbound", "held": False}
        for number, (purpose, state) in enumerate(legs)
    ]
    return notification(QUEUE, {"id": call, "participants": participants, "recordingState": "none"}, call)


def media(call: str, latency_ms: int, discarded: int, **more: Any) -> dict[str, Any]:
    """A media record as the feed makes it."""
    stats = {
        "codecs": ["audio/opus"],
        "minMos": 4.1,
        "maxLatencyMs": latency_ms,
        "receivedPackets": 2000,
        "discardedPackets": discarded,
    }
    return {"conversationId": call, "participantId": f"{call[:8]}-p", "mediaEndpointStats": stats, **more}


def watch(call: str) -> dict[str, Any]:
    """The watch that the feed writes."""
    return {
        "conversation_id": call,
        "leg_id": f"{call[:8]}-p",
        "max_latency_ms": 300.0,
        "packet_loss_threshold": 0.02,
        "qa_callback_url": "https://qa.example.com/alerts",
        "feed": "queues",
    }


def journal() -> Iterator[dict[str, Any]]:
    """A minute of two calls: one with a bad spell and enriched at its end, one that just ends."""
    tables = {"windows": {"length_s": 10, "slide_s": 5}, "alerts": {"policy": "incident", "clear_after_s": 10}}
    yield {"received_at": START, "settings": tables}
    yield {"received_at": START, "feed": {"name": "queues", "state": "up", "reason": "connected"}}
    for second in range(60):
        yield from _second(START + second + 0.25, second)
        yield {"received_at": START + second + 1.0, "tick": True}
    yield {"received_at": START + 60.5, "feed": {"name": "queues", "state": "down", "reason": "stopped"}}


def _second(at: float, second: int) -> Iterator[dict[str, Any]]:
    def heard(message: dict[str, Any]) -> dict[str, Any]:
        return {"received_at": at, "via": "queues", "frame": message}

    if second == 0:
        yield {"received_at": at, "watch": watch(CALL)}
        yield heard(detail(CALL, "customer.start", at - 0.2, second))
        yield heard(snapshot(CALL, ("customer", "connected"), ("agent", "terminated"), ("agent", "alerting")))
    elif second < 45:
        lag_s = 0.45 if 20 <= second < 23 else 0.2
        yield heard(detail(CALL, "user.start", at - lag_s, second))
    elif second == 45:
        yield heard({"enrich": True, **detail(CALL, "customer.end", at - 0.2, second)})
        yield heard({"enrich": True, **snapshot(CALL, ("customer", "disconnected"), ("agent", "disconnected"))})
    elif second == 55:
        yield heard(media(CALL, 120, 100))
        yield heard(media(CALL, 40, 0, ended=True))
    if second == 5:
        yield {"received_at": at, "watch": watch(OTHER_CALL)}
    if 5 <= second < 15:
        yield heard(snapshot(OTHER_CALL, ("customer", "connected"), ("agent", "connected")))
    elif second == 15:
        yield heard(snapshot(OTHER_CALL, ("agent", "terminated"), ("customer", "disconnected")))
    elif second in (16, 30):
        yield heard(detail(OTHER_CALL, "wrapup", at - 0.3, second))
    if second == 10:
        yield heard(notification("v2.users.44444444.presence", {"source": "PURECLOUD", "modifiedDate": "x"}))
        yield heard(notification("v2.system.socket_closing", {"message": "soon"}))


def eventbridge() -> Iterator[dict[str, Any]]:
    """EventBridge records as they were taken from a queue: detail events, a transcription, and what is of no use."""
    for number in range(12):
        sent = START + number * 2
        event = "customer.start" if number == 0 else "customer.end" if number == 11 else "flow.outcome"
        detail_event = detail(CALL, event, sent, number)
        yield _record("v2.detail.events.conversation.{id}." + event, detail_event, sent, 0.7 if number == 6 else 0.238)
    body = {"eventTime": _iso(START + 25), "conversationId": OTHER_CALL, "communicationId": "x", "transcripts": []}
    transcription = notification(f"v2.conversations.{OTHER_CALL}.transcription", body, OTHER_CALL)
    yield _record("v2.conversations.{id}.transcription", transcription, START + 25, 0.3)
    unknown = notification("v2.flows.outcomes.55555555", {"id": "x"})
    yield _record("v2.flows.outcomes.{id}", unknown, START + 26, 0.2)
    without_arrival = _record("v2.detail.events.conversation.{id}.acw", detail(CALL, "acw", START + 27, 99), 0, 0)
    del without_arrival["receivedAt"]
    yield without_arrival


def _record(kind: str, envelope: dict[str, Any], sent: float, lag_s: float) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "00000000-0000-4000-8000-000000000000",
        "detail-type": kind,
        "source": "aws.partner/genesys.com/cloud/organization/voicewatch",
        "time": _iso(round(sent))[:19] + "Z",
        "detail": {**envelope, "timestamp": _iso(sent)},
        "receivedAt": _iso(sent + lag_s),
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


RECORDINGS = {"notifications.jsonl": journal, "eventbridge.jsonl": eventbridge}


def lines(name: str) -> bytes:
    """The text of a recording."""
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in RECORDINGS[name]())


if __name__ == "__main__":
    for name in RECORDINGS:
        (DATA / name).write_bytes(lines(name))
