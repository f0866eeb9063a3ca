"""The `settings` record of the journal: the tables of the configuration that the dataflow reads. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np

from connectors.format import limits
from connectors.format.labels import GroupSettings, LabelLimits, Labels, within
from connectors.format.limits import CodecName

__all__ = ["AlertSettings", "DefaultLimits", "FeedRules", "FlowSettings", "WatchRules", "WindowSettings", "silent_at"]

_DECIMALS_OF_TIME: Final = 6


class WindowSettings(msgspec.Struct, gc=False):
    """The `[windows]` table: lengths in seconds, whole milliseconds, slide divides length; the codec of the MOS."""

    length_s: Annotated[float, within(limits.WINDOW_S)] = limits.DEFAULT_LENGTH_S
    slide_s: Annotated[float, within(limits.WINDOW_S)] = limits.DEFAULT_SLIDE_S
    codec: CodecName = limits.DEFAULT_CODEC

    def __post_init__(self) -> None:
        length_ms, slide_ms = round(self.length_s * 1000), round(self.slide_s * 1000)
        if length_ms % slide_ms:
            raise ValueError("slide_s must divide length_s")
        if length_ms // slide_ms > limits.MAX_OVERLAP:
            raise ValueError(f"a frame would be part of more than {limits.MAX_OVERLAP} windows")


class AlertSettings(msgspec.Struct, gc=False):
    """The `[alerts]` table; None turns a rule off."""

    policy: Literal["incident", "frame"] = "incident"
    raise_n: Annotated[int, within(limits.RAISE_FRAMES)] = limits.DEFAULT_RAISE_FRAMES
    raise_m: Annotated[int, within(limits.RAISE_FRAMES)] = limits.DEFAULT_RAISE_FRAMES
    clear_ratio: Annotated[float, within(limits.CLEAR_RATIO)] = limits.DEFAULT_CLEAR_RATIO
    clear_after_s: Annotated[float, within(limits.CLEAR_AFTER_S)] = limits.DEFAULT_CLEAR_AFTER_S
    unwatched: Literal["ignore", "default"] = "ignore"
    mos_below: Annotated[float, within(limits.MOS)] | None = None
    genesys_mos_below: Annotated[float, within(limits.GENESYS_MOS)] | None = None
    trunk_mismatch_above: Annotated[float, within(limits.TRUNK_MISMATCHES)] | None = None
    platform_callback_url: str | None = None
    stalled_after_s: Annotated[float, within(limits.STALLED_AFTER_S)] | None = None
    max_per_minute: Annotated[int, within(limits.ALERTS_A_MINUTE)] | None = None


class DefaultLimits(msgspec.Struct, gc=False):
    """The limits of conversations without a `watch`, for `unwatched = "default"`."""

    max_latency_ms: float = limits.DEFAULT_MAX_LATENCY_MS
    packet_loss_threshold: float = limits.DEFAULT_PACKET_LOSS_THRESHOLD
    qa_callback_url: str | None = None
    labels: Labels = msgspec.field(default_factory=dict)


class FeedRules(msgspec.Struct, gc=False):
    """What holds for the conversations of one feed; without a `stalled_after_s`, STREAM_STALLED is off for them."""

    stalled_after_s: Annotated[float, within(limits.STALLED_AFTER_S)] | None = None


class WatchRules(msgspec.Struct, gc=False):
    """What the dataflow reads of the `[watch]` table: after how many seconds without a frame a watch ends."""

    forget_after_s: Annotated[float, within(limits.FORGET_AFTER_S)] = limits.DEFAULT_FORGET_AFTER_S


class FlowSettings(msgspec.Struct, gc=False):
    """The value of a `settings` record: the tables in force."""

    windows: WindowSettings = msgspec.field(default_factory=WindowSettings)
    alerts: AlertSettings = msgspec.field(default_factory=AlertSettings)
    defaults: DefaultLimits = msgspec.field(default_factory=DefaultLimits)
    limits: list[LabelLimits] = msgspec.field(default_factory=list)
    groups: GroupSettings = msgspec.field(default_factory=GroupSettings)
    feeds: dict[str, FeedRules] = msgspec.field(default_factory=dict)
    watch: WatchRules = msgspec.field(default_factory=WatchRules)

    @property
    def keeps_open(self) -> bool:
        """Return whether alerts stay open until they are resolved."""
        return self.alerts.policy == "incident"

    def stalled_after_s(self, feed: str | None) -> float | None:
        """Return the limit of STREAM_STALLED for the conversations of a feed, in seconds; None if the rule is off."""
        rules = self.feeds.get(feed) if feed is not None else None
        return self.alerts.stalled_after_s if rules is None else rules.stalled_after_s

    @property
    def silent_after_s(self) -> float:
        """Return after how many seconds without a frame a watch ends; the windows of its last frame have ended then."""
        return max(self.watch.forget_after_s, self.windows.length_s)


def silent_at(last_frame_at: Any, after_s: float) -> Any:
    """Return when a watch has been silent for too long, epoch seconds, to the microsecond; floats or arrays.

    >>> float(silent_at(1767225600.1, 21600.0))
    1767247200.1
    """
    return np.round(last_frame_at + after_s, _DECIMALS_OF_TIME)
