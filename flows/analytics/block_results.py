"""What a shard makes of one block: collected while the block is applied, and handed on behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.format.records import FlowSettings
from flows.analytics.alerts import Alert, Change
from flows.analytics.group_parts import GroupPart
from flows.analytics.groups import Span
from flows.analytics.window_lines import WindowLines
from flows.analytics.windows import Summaries

__all__ = ["Done", "Kept", "ShardResult", "span_of"]


class ShardResult(NamedTuple):
    """What a block did in a shard: windows closed, alerts, unwatched frames, conversations first seen.

    `groups`: what its windows add to groups. `spans`: the settings of the block's time, the same in every shard.
    `silent`: the watches that ended without a frame, each with the moment, in epoch seconds. `late_us`: how long each
    late event took, in whole microseconds.
    """

    windows: WindowLines
    alerts: list[Alert]
    unwatched: int
    conversations: int
    groups: list[GroupPart]
    spans: list[Span]
    last: bool
    silent: list[tuple[float, str]]
    late_us: list[int]


@dataclass
class Done:
    """What a block has led to so far: changes of alerts, windows closed, spans of settings that are over."""

    changes: list[Change] = field(default_factory=list)
    closed: list[Summaries] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    silent: list[tuple[float, str]] = field(default_factory=list)
    late_us: list[int] = field(default_factory=list)


class Kept(NamedTuple):
    """Frames of watched conversations: columns of `ShardBlock`, and `slot` int32 (n,)."""

    row: NDArray[np.int64]
    slot: NDArray[np.int32]
    arrival: NDArray[np.float64]
    latency_us: NDArray[np.float64]
    packet_loss: NDArray[np.float64]
    ended: NDArray[np.bool_]


def span_of(settings: FlowSettings, until: float, row: int, step_s: float | None = None) -> Span:
    """Return the span of time that settings were in force until then."""
    alerts = settings.alerts
    slide_ms = round(settings.windows.slide_s * 1000)
    return Span(until, row, settings.groups, alerts.max_per_minute, alerts.policy == "incident", slide_ms, step_s)
