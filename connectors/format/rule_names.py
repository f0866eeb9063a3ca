"""The names of rules for people."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["RATIOS", "TITLES"]

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
