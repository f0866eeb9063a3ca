"""Rules over signals: events that raise one alert each and are not resolved.

A signal of the same rule, conversation and key raises no second alert while the conversation is watched. Events of the
platform, which belong to no conversation, are remembered by their newest 1,000 keys.
"""

from __future__ import annotations

from typing import Any, Final

from connectors.format.records import AlertSettings, Control
from connectors.format.signals import Signal
from flows.analytics.alerts import Change
from flows.analytics.roster import Roster, Watch
from flows.analytics.rules import Transition
from flows.analytics.slots import NOBODY

__all__ = ["SIGNAL_RULES", "Signals"]

SIGNAL_RULES: Final = ("CALL_FAILED", "PLATFORM_EVENT")
"""The rules that only signals raise; LOW_MOS is also one of windows."""
REMEMBERED: Final = 1_000
_ORDER: Final = -1


class Signals:
    """Decides which signals raise an alert, in one shard."""

    def __init__(self) -> None:
        self._of_slot: dict[int, list[str]] = {}
        self._of_platform: list[str] = []

    def changes(self, control: Control, roster: Roster, alerts: AlertSettings, now: float) -> list[Change]:
        """Return the alert that a signal's control record raises at `now`, epoch seconds; none if its conversation is
        not watched, its value is within the limit, or it has been raised.
        """
        signal: Signal = control.value
        if signal.conversation_id is None:
            slot, watch = NOBODY, Watch("", None, (0.0, 0.0), alerts.platform_callback_url)
        else:
            slot = roster.slot_of(signal.conversation_id)
            if slot == NOBODY:
                return []
            watch = roster.watch_in(slot)
        exceeded, limit = _judged(signal, alerts)
        if not exceeded or not self._is_new(f"{signal.rule}|{signal.key}", slot):
            return []
        transition = Transition(control.frames_before, slot, "raised", None, signal.value, now, limit, now, 0)
        return [Change(_ORDER, 0, transition, watch, signal=signal)]

    def forget(self, slot: int) -> None:
        """Drop what is known of a slot whose conversation has ended."""
        self._of_slot.pop(slot, None)

    def snapshot(self) -> tuple[Any, ...]:
        """A plain value that `restore` takes."""
        return {slot: list(keys) for slot, keys in self._of_slot.items()}, list(self._of_platform)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's place."""
        of_slot, of_platform = snapshot
        self._of_slot = {slot: list(keys) for slot, keys in of_slot.items()}
        self._of_platform = list(of_platform)

    def _is_new(self, key: str, slot: int) -> bool:
        keys = self._of_platform if slot == NOBODY else self._of_slot.setdefault(slot, [])
        if key in keys:
            return False
        keys.append(key)
        del keys[:-REMEMBERED]
        return True


def _judged(signal: Signal, alerts: AlertSettings) -> tuple[bool, float]:
    """Whether a signal raises an alert, and the limit that it is held to, NaN without one."""
    if signal.rule == "LOW_MOS":
        limit = alerts.mos_below if alerts.genesys_mos_below is None else alerts.genesys_mos_below
        return limit is not None and signal.value is not None and signal.value < limit, limit or float("nan")
    if signal.value is not None:  # of a trunk
        limit = alerts.trunk_mismatch_above
        return limit is not None and signal.value > limit, float("nan") if limit is None else limit
    return True, float("nan")
