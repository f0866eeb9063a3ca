"""Windows of single legs: what Genesys measured of each leg of a conversation, never averaged with another leg's.

The line of a window in which media records arrived has one object for each leg in `legs`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from connectors.format.media import LegMedia
from connectors.format.signals import GENESYS_SCALE
from flows.analytics.voice_quality import Codec, codec_of_media, mos_from_r, r_factor

__all__ = ["leg_windows"]

_NO_LATENCY: Final = "no latency measured"
_NO_LOSS: Final = "no packets counted"


def leg_windows(records: Sequence[LegMedia]) -> list[dict[str, Any]]:
    """Return the JSON objects of the legs that these records measure; records of the same leg and source are one.

    >>> media = LegMedia("c", "p", "s", "endpoint", "agent", None, ("audio/PCMU",), 41.0, 0.02, 4.05, 82.6, 500, 10)
    >>> leg_windows([media])[0]["mos"]
    {'value': 4.197, 'model': 'G.107 narrowband, G.711+PLC'}
    """
    legs: dict[tuple[str | None, str | None, str], list[LegMedia]] = {}
    for media in records:
        legs.setdefault((media.leg_id, media.session_id, media.source), []).append(media)
    return [_leg(of_leg) for of_leg in legs.values()]


def _leg(records: list[LegMedia]) -> dict[str, Any]:
    latest = records[-1]
    latency = _latency([media.latency_ms for media in records if media.latency_ms is not None])
    loss = _loss([media.packet_loss for media in records if media.packet_loss is not None])
    codecs = sorted({codec for media in records for codec in media.codecs})
    mos, reason = _mos(codecs, latency, loss)
    scores = [media.genesys_mos for media in records if media.genesys_mos is not None]
    ratings = [media.r_factor for media in records if media.r_factor is not None]
    return {
        "leg_id": latest.leg_id,
        "session_id": latest.session_id,
        "source": latest.source,
        "purpose": latest.purpose,
        "direction": latest.direction,
        "codecs": codecs,
        "records": len(records),
        "latency_ms": latency,
        "packet_loss": loss,
        "mos": mos,
        "mos_reason": reason,
        "genesys_mos": {"min": min(scores), "scale": GENESYS_SCALE} if scores else None,
        "genesys_r_factor": min(ratings) if ratings else None,
        "received_packets": _sum([media.received for media in records]),
        "discarded_packets": _sum([media.discarded for media in records]),
        "sent_packets": _sum([media.sent for media in records]),
        "jitter_ms": max((media.jitter_ms for media in records if media.jitter_ms is not None), default=None),
        "connected_after_s": latest.connected_after_s,
    }


def _latency(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {"count": len(values), "min": min(values), "mean": _mean(values, 6), "max": max(values)}


def _loss(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {"count": len(values), "mean": _mean(values, 9), "max": max(values)}


def _mos(
    codecs: list[str], latency: dict[str, Any] | None, loss: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the leg's MOS of the E-model, or why there is none."""
    codec: Codec | str = codec_of_media(codecs)
    if isinstance(codec, str):
        return None, codec
    if latency is None or loss is None:
        return None, _NO_LATENCY if latency is None else _NO_LOSS
    r = r_factor(np.array([latency["mean"]]), np.array([loss["mean"]]), codec)
    return {"value": round(float(mos_from_r(r)[0]), 3), "model": f"G.107 narrowband, {codec.name}"}, None


def _mean(values: list[float], decimals: int) -> float:
    return round(math.fsum(values) / len(values), decimals)


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
