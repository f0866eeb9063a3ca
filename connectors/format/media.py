"""What Genesys measured of one leg's media: a record of the leg, which is never averaged with another's. Pure.

`connectors.genesys.feeds.notifications` writes one for each of the `mediaEndpointStats` of analytics, and one for each
difference of two readings of the media statistics of a call that goes on (`mediaStatistics`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from connectors.format.values import number_or_nan

__all__ = ["LegMedia", "leg_media"]

_MAX_TEXT = 200


class LegMedia(NamedTuple):
    """The media of one leg of a conversation; None for what the record does not have.

    `latency_ms` is the largest one measured, `packet_loss` the ratio of packets discarded, `genesys_mos` the lowest MOS
    on Genesys' scale, and `r_factor` the lowest rating. `codecs` are media types such as `audio/opus`. `source` is
    `endpoint` for what analytics has of a leg that is over, `client` or `server` for readings of one that goes on; of
    those, `genesys_mos` is the average over the call so far. `connected_after_s` is the time from the alert of an agent
    to the first interaction.
    """

    conversation_id: str
    leg_id: str | None
    session_id: str | None
    source: str
    purpose: str | None
    direction: str | None
    codecs: tuple[str, ...]
    latency_ms: float | None
    packet_loss: float | None
    genesys_mos: float | None
    r_factor: float | None
    received: int | None
    discarded: int | None
    connected_after_s: float | None = None
    sent: int | None = None
    jitter_ms: float | None = None


def leg_media(record: Mapping[str, Any]) -> LegMedia | None:
    """Return the media of a media record; None for a record without statistics, or of a leg that received no packet.

    >>> stats = {"codecs": ["audio/opus"], "minMos": 2.82, "maxLatencyMs": 23, "receivedPackets": 400,
    ...          "discardedPackets": 4}
    >>> media = leg_media({"conversationId": "c", "participantId": "p", "mediaEndpointStats": stats})
    >>> media.leg_id, media.packet_loss, media.genesys_mos
    ('p', 0.01, 2.82)
    """
    conversation_id, stats = record.get("conversationId"), record.get("mediaEndpointStats")
    if isinstance(conversation_id, str) and isinstance(record.get("mediaStatistics"), Mapping):
        return _reading(conversation_id, record, record["mediaStatistics"])
    if not isinstance(conversation_id, str) or not isinstance(stats, Mapping):
        return None
    received, discarded = _count(stats.get("receivedPackets")), _count(stats.get("discardedPackets", 0))
    if received == 0:
        return None
    codecs = stats.get("codecs")
    latency_ms = _known(stats.get("maxLatencyMs"))
    return LegMedia(
        conversation_id,
        _text(record.get("participantId")),
        _text(record.get("sessionId")),
        "endpoint",
        _text(record.get("purpose")),
        _text(record.get("direction")),
        tuple(text for text in map(_text, codecs if isinstance(codecs, list) else []) if text),
        latency_ms if latency_ms is None or latency_ms >= 0 else None,
        None if received is None or discarded is None else min(discarded / received, 1.0),
        _known(stats.get("minMos")),
        _known(stats.get("minRFactor")),
        received,
        discarded,
        _known(record.get("connectedAfterS")),
    )


def _reading(conversation_id: str, record: Mapping[str, Any], statistics: Mapping[str, Any]) -> LegMedia | None:
    source = record.get("source")
    if source not in ("client", "server"):
        return None
    return LegMedia(
        conversation_id,
        leg_id=_text(record.get("participantId")),
        session_id=_text(record.get("sessionId")),
        source=source,
        purpose=None,
        direction=None,
        codecs=(),
        latency_ms=None,
        packet_loss=None,
        genesys_mos=_known(statistics.get("averageMos")),
        r_factor=None,
        received=_count(statistics.get("packetsReceived")),
        discarded=None,
        sent=_count(statistics.get("packetsSent")),
        jitter_ms=_known(statistics.get("averageJitterMs")),
    )


def _count(value: Any) -> int | None:
    number = number_or_nan(value)
    return int(number) if number >= 0 else None


def _known(value: Any) -> float | None:
    number = number_or_nan(value)
    return None if number != number else number


def _text(value: Any) -> str | None:
    return value[:_MAX_TEXT] if isinstance(value, str) and value else None
