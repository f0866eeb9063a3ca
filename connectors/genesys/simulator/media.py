"""The media of a leg as Genesys measures it after the call: mediaEndpointStats on its scale of 5. Pure.

The formula is that of Genesys' softphone (genesys-cloud-webrtc-sdk, src/stats-aggregator.ts): R = 93.2 - L/40 for a
latency L up to 160 ms and 93.2 - (L - 120)/10 above, less 2.5 for each percent of loss; MOS of ITU-T G.107, times
5/4.5.
"""

from __future__ import annotations

import random
from typing import Any

from connectors.genesys.simulator.call_book import SimulatedCall, iso
from connectors.genesys.simulator.stories import Leg

__all__ = ["capped", "endpoint_stats", "genesys_mos"]

_PACKETS_PER_S = 50


def genesys_mos(latency_ms: float, loss: float) -> tuple[float, float]:
    """Compute MOS on Genesys' scale and the R factor; `loss` is a ratio.

    >>> genesys_mos(0.0, 0.0)
    (4.9, 93.2)
    >>> genesys_mos(300.0, 0.05)[0] < genesys_mos(100.0, 0.01)[0]
    True
    """
    r = 93.2 - (latency_ms / 40 if latency_ms < 160 else (latency_ms - 120) / 10) - 250 * loss
    r = min(max(r, 0.0), 100.0)
    return _mos_of(r), round(r, 1)


def capped(mos: float, r_factor: float, highest_mos: float) -> tuple[float, float]:
    """Return a MOS of at most `highest_mos`, and an R factor that gives it.

    >>> capped(4.3, 85.0, 5.0)
    (4.3, 85.0)
    >>> capped(4.3, 85.0, 2.82)
    (2.82, 49.3)
    """
    if mos <= highest_mos:
        return mos, r_factor
    return highest_mos, next(tenths / 10 for tenths in range(1001) if _mos_of(tenths / 10) >= highest_mos)


def _mos_of(r: float) -> float:
    return round(max(1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6, 1.0) * 5 / 4.5, 2)


def endpoint_stats(call: SimulatedCall, leg: Leg) -> dict[str, Any]:
    """Measure a leg that has ended, with what faults added."""
    chance = random.Random(f"{call.id}/{leg.id}/media")  # noqa: S311 - generated calls, no secrets
    received = max(round((leg.ends_s - leg.connects_s) * _PACKETS_PER_S), 1)
    latency_ms = round(20 + 60 * chance.random() + call.added_ms)
    loss = call.added_loss + (0.0 if leg.agent is None else call.agent_loss)
    discarded = min(round(received * (0.006 * chance.random() ** 3 + loss)), received)
    mos, r_factor = capped(*genesys_mos(latency_ms, discarded / received), call.highest_mos)
    codecs = ["audio/PCMU"] if leg.agent is None else ["audio/opus", *filter(None, [call.other_codec])]
    return {
        "codecs": codecs,
        "eventTime": iso(call.began_at + leg.ends_s),
        "minMos": mos,
        "minRFactor": r_factor,
        "maxLatencyMs": latency_ms,
        "receivedPackets": received,
        "discardedPackets": discarded,
        "duplicatePackets": 0,
        "invalidPackets": 0,
        "overrunPackets": discarded // 2,
        "underrunPackets": discarded // 3,
    }
