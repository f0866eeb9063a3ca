"""What rules are called in messages and pages, and which of them have incidents that are resolved."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

__all__ = ["EDGE_STATUS", "LASTING_EVENTS", "RATIOS", "TITLES", "TRUNK_MISMATCHES", "is_lasting"]

TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "LATENCY_THRESHOLD_EXCEEDED": "High latency",
        "PACKET_LOSS_DETECTED": "Packet loss",
        "LOW_MOS": "Low MOS",
        "STREAM_STALLED": "Stream stalled",
        "GROUP_DEGRADED": "Group degraded",
        "CALL_FAILED": "Call failed",
        "ONE_WAY_AUDIO": "One-way audio",
        "DEAD_AIR": "Dead air",
        "PLATFORM_EVENT": "Platform event",
        "ALERT_STORM": "Alert storm",
    }
)
"""What an alert is called, by its `alertType`."""

RATIOS: Final = frozenset({"PACKET_LOSS_DETECTED", "GROUP_DEGRADED"})
"""The rules whose value and limit are ratios."""

_LASTING: Final = frozenset(
    {
        "LATENCY_THRESHOLD_EXCEEDED",
        "PACKET_LOSS_DETECTED",
        "LOW_MOS",
        "STREAM_STALLED",
        "GROUP_DEGRADED",
        "ONE_WAY_AUDIO",
        "DEAD_AIR",
    }
)
"""The rules whose incidents end with a resolve; an alert of any other stands for itself."""

TRUNK_MISMATCHES: Final = "trunk.qos.mismatchCount"
EDGE_STATUS: Final = "edge.onlineStatus"
LASTING_EVENTS: Final = frozenset({TRUNK_MISMATCHES, EDGE_STATUS})
"""The events of `PLATFORM_EVENT` that are a state, which is resolved when it is over."""

_IN_EVERY_POLICY: Final = frozenset({"GROUP_DEGRADED", "ONE_WAY_AUDIO", "DEAD_AIR", "PLATFORM_EVENT"})
"""The rules whose alerts are resolved under the policy `frame`, too."""


def is_lasting(rule: str, evidence: Mapping[str, Any] | None, *, framewise: bool = False) -> bool:
    """Return whether a raised alert is followed by a resolved one; `framewise` under the policy `frame`.

    A LOW_MOS with evidence is the MOS that Genesys measured of a leg, which is over: nothing resolves it. Events of the
    platform are resolved if they are a state.

    >>> is_lasting("LOW_MOS", None), is_lasting("LOW_MOS", {"minMos": 2.1})
    (True, False)
    >>> is_lasting("LOW_MOS", None, framewise=True), is_lasting("DEAD_AIR", None, framewise=True)
    (False, True)
    """
    if framewise and rule not in _IN_EVERY_POLICY:
        return False
    if rule == "PLATFORM_EVENT":
        return evidence is not None and evidence.get("event") in LASTING_EVENTS
    return rule in _LASTING and not (rule == "LOW_MOS" and evidence is not None)
