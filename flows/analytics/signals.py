"""Rules over signals: events that raise one alert each. Faults of the audio, of trunks and of edges are resolved by a
later signal, and those of a leg's media, which is over, at the end of the conversation.

A signal of the same rule, conversation and key raises no second alert while the conversation is watched. Events of the
platform, which belong to no conversation, are remembered by their newest 1,000 keys.
"""

from __future__ import annotations

from typing import Any, Final

from connectors.format.records import AlertSettings, Control
from connectors.format.rule_names import LASTING_EVENTS
from connectors.format.signals import AUDIO_RULES, LEG_RULES, Signal
from flows.analytics.alerts import Change
from flows.analytics.rules import RULES, Transition, clear_level
from flows.analytics.slots import NO_SLOT
from flows.analytics.watch_table import Watch, WatchTable

__all__ = ["OPEN_RULES", "SIGNAL_RULES", "Signals"]

SIGNAL_RULES: Final = ("CALL_FAILED", *AUDIO_RULES, "PLATFORM_EVENT")
"""The rules that only signals raise; LOW_MOS is also one of windows."""
OPEN_RULES: Final = (*AUDIO_RULES, *LEG_RULES)
"""The rules of signals whose incidents stay open until they are resolved."""
REMEMBERED: Final = 1_000
_ORDER: Final = -1
_END_ORDER: Final = 2 * len(RULES)


class Signals:
    """Decides which signals raise an alert, in one shard."""

    def __init__(self) -> None:
        self._of_slot: dict[int, list[str]] = {}
        self._of_platform: list[str] = []
        self._open: dict[int, dict[str, tuple[float, Signal]]] = {}

    def changes(self, control: Control, watch_table: WatchTable, alerts: AlertSettings, now: float) -> list[Change]:
        """Return the alert that a signal's control record raises at `now`, epoch seconds; none if its conversation is
        not watched, its value is within the limit, or it has been raised.
        """
        signal: Signal = control.value
        if signal.conversation_id is None:
            slot, watch = NO_SLOT, Watch("", None, (0.0, 0.0), alerts.platform_callback_url)
        else:
            slot = watch_table.slot_of(signal.conversation_id)
            if slot == NO_SLOT:
                return []
            watch = watch_table.watch_at(slot)
        key, row = f"{signal.rule}|{signal.key}", control.frames_before
        if signal.rule in AUDIO_RULES:
            return self._fault(signal, key, slot, watch, now, row)
        if signal.rule in LEG_RULES:
            limit = watch.limits[LEG_RULES.index(signal.rule)]
            if signal.value is None or not signal.value > limit:
                return []
            if alerts.policy == "incident":
                return self._fault(signal._replace(limit=limit), key, slot, watch, now, row)
            transition = Transition(row, slot, "raised", None, signal.value, now, limit, now, 0)
            return [Change(_ORDER, 0, transition, watch, signal=signal)] if self._is_new(key, slot) else []
        if signal.conversation_id is None and signal.evidence.get("event") in LASTING_EVENTS:
            state = signal if signal.value is None else _of_trunk(signal, signal.value, alerts)
            return [] if state is None else self._fault(state, key, slot, watch, now, row)
        exceeded, limit = _judged(signal, alerts)
        if not exceeded or not self._is_new(key, slot):
            return []
        transition = Transition(row, slot, "raised", None, signal.value, now, limit, now, 0)
        return [Change(_ORDER, 0, transition, watch, signal=signal)]

    def end(self, slot: int, row: int, arrival: float, watch: Watch, reason: str) -> list[Change]:
        """Resolve what is open of a watch that ends with the frame `row`, or without one; the next watch restarts."""
        self._of_slot.pop(slot, None)
        return [
            Change(_END_ORDER, 0, _resolved(signal, slot, row, arrival, began_at, reason), watch, signal=signal)
            for began_at, signal in self._open.pop(slot, {}).values()
        ]

    def open_by_slot(self) -> dict[int, int]:
        """Return how many open incidents there are, of legs and of the audio, by slot."""
        return {slot: len(faults) for slot, faults in self._open.items() if slot != NO_SLOT}

    def forget(self, slot: int) -> None:
        """Drop what is known of a slot whose conversation has ended."""
        self._of_slot.pop(slot, None)
        self._open.pop(slot, None)

    def snapshot(self) -> tuple[Any, ...]:
        """Return the state as a plain value, for `restore`."""
        opened = {
            slot: {key: (began_at, tuple(signal)) for key, (began_at, signal) in faults.items()}
            for slot, faults in self._open.items()
        }
        return {slot: list(keys) for slot, keys in self._of_slot.items()}, list(self._of_platform), opened

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot."""
        of_slot, of_platform, opened = snapshot
        self._of_slot = {slot: list(keys) for slot, keys in of_slot.items()}
        self._of_platform = list(of_platform)
        self._open = {
            slot: {key: (began_at, Signal(*signal)) for key, (began_at, signal) in faults.items()}
            for slot, faults in opened.items()
        }

    def _fault(self, signal: Signal, key: str, slot: int, watch: Watch, now: float, row: int) -> list[Change]:
        """Raise or resolve a fault that stays open; one that is reported twice counts once."""
        faults = self._open.setdefault(slot, {})
        if (signal.state == "raised") == (key in faults):
            return []
        if signal.state == "raised":
            faults[key] = now, signal
            limit = float("nan") if signal.limit is None else signal.limit
            transition = Transition(row, slot, "raised", None, signal.value, now, limit, now, 0)
        else:
            began_at, _ = faults.pop(key)
            transition = _resolved(signal, slot, row, now, began_at, signal.reason)
        return [Change(_ORDER, 0, transition, watch, signal=signal)]

    def _is_new(self, key: str, slot: int) -> bool:
        keys = self._of_platform if slot == NO_SLOT else self._of_slot.setdefault(slot, [])
        if key in keys:
            return False
        keys.append(key)
        del keys[:-REMEMBERED]
        return True


def _resolved(signal: Signal, slot: int, row: int, arrival: float, began_at: float, reason: str | None) -> Transition:
    limit = float("nan") if signal.limit is None else signal.limit
    return Transition(row, slot, "resolved", reason, signal.value, arrival, limit, began_at, 0)


def _judged(signal: Signal, alerts: AlertSettings) -> tuple[bool, float]:
    """Whether a signal raises an alert, and the limit that it is held to, NaN without one."""
    if signal.rule == "LOW_MOS":
        limit = alerts.mos_below if alerts.genesys_mos_below is None else alerts.genesys_mos_below
        return limit is not None and signal.value is not None and signal.value < limit, limit or float("nan")
    return True, float("nan")


def _of_trunk(signal: Signal, value: float, alerts: AlertSettings) -> Signal | None:
    """Return the signal with the trunk's state, None for a value between the limit and the level that clears it."""
    limit = alerts.trunk_mismatch_above
    if limit is not None and value > limit:
        return signal._replace(limit=limit)
    if limit is not None and value > clear_level(limit, alerts.clear_ratio):
        return None
    return signal._replace(state="resolved", reason="recovered", limit=limit)
