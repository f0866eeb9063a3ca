"""The ids of an alert, and its JSON body, which is the callback and the line of `alerts.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from connectors.format.labels import joined_labels
from connectors.format.signals import Signal
from flows.analytics.label_texts import LabelTexts
from flows.analytics.rules import RULES, Transition
from flows.analytics.slot_columns import SlotColumns
from flows.analytics.slots import NO_SLOT
from flows.analytics.watch_table import Watch
from flows.analytics.window_lines import window_object
from flows.analytics.windows import TEXTS, Column, Summaries

__all__ = [
    "Alert",
    "Change",
    "LatestWindows",
    "alert_id_of",
    "incident_id",
    "incident_id_of",
    "make_alert",
    "uuid5",
    "uuid_text",
]

_NAMESPACE: Final = bytes.fromhex("7d4e1c52 93c1 5a3e 8b1f 0f6f2d9c4a77")


class Change(NamedTuple):
    """A rule's transition, with its place among the alerts of one frame, and the watch in force.

    `window` is the row of `Summaries.values` that caused it, if it was a window. `signal` is the signal that caused it;
    then `rule` has no meaning.
    """

    order: int
    rule: int
    transition: Transition
    watch: Watch
    window: list[float] | None = None
    signal: Signal | None = None


class Alert(NamedTuple):
    """An alert, ready to be sent; `url` is None if there is no receiver, `is_sent` false if the alert is inhibited.

    Alerts of groups have no conversation.

    Alerts of a block sort by their fields up to `place`, across all shards: by time, in epoch seconds. Alerts raised by
    elapsed time (`row` is NO_FRAME) come before alerts raised by frames with the same timestamp.
    """

    time: float
    row: int
    order: int
    conversation_id: str | None
    place: int
    alert_id: str
    rule: str
    state: str
    reason: str | None
    url: str | None
    body: bytes
    labels: dict[str, str]
    incident_id: str = ""
    is_sent: bool = True

    @property
    def ordered_by(self) -> str:
        """Return the key of the alerts that are sent in order: those of a conversation, or of a group's incident."""
        return self.incident_id if self.conversation_id is None else self.conversation_id


def incident_id(conversation_id: str, rule: str, began_at: float, ordinal: int | str) -> bytes:
    """Return the same UUID of an incident in every run: of conversation, rule, begin, and the ordinal at that time.

    >>> uuid_text(incident_id("c1", "PACKET_LOSS_DETECTED", 1700000000.25, 0))
    'a610894a-d9d9-599d-9990-71c76a334722'
    """
    return incident_id_of([conversation_id, rule, began_at, ordinal])


def incident_id_of(name: list[object]) -> bytes:
    """Return the UUID of an incident from what tells it from all others, as JSON."""
    return uuid5(_NAMESPACE, orjson.dumps(name))


def uuid5(namespace: bytes, name: bytes) -> bytes:
    """Return a name's UUID of version 5 (RFC 9562, section 5.5). `uuid.uuid5` took half of an alert's time.

    >>> from uuid import NAMESPACE_DNS
    >>> uuid_text(uuid5(NAMESPACE_DNS.bytes, b"www.example.com"))
    '2ed6657d-e927-568b-95e1-2665a8aea6a2'
    """
    octets = bytearray(sha1(namespace + name, usedforsecurity=False).digest()[:16])
    octets[6] = octets[6] & 0x0F | 0x50
    octets[8] = octets[8] & 0x3F | 0x80
    return bytes(octets)


def uuid_text(octets: bytes) -> str:
    """Return a UUID as text."""
    digits = octets.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def alert_id_of(incident: str, state: str) -> str:
    """Return the id of the alert of an incident, by its id as text, in a state."""
    return uuid_text(uuid5(bytes.fromhex(incident.replace("-", "")), state.encode()))


def make_alert(place: int, change: Change, window: list[float] | None, labels: LabelTexts) -> Alert:
    """Return the alert of a change; its body shows the window, a row of `Summaries.values`.

    `labels` has the texts of windows' labels. `place` is that of the change among those of its shard in the block.
    """
    transition, watch, signal = change.transition, change.watch, change.signal
    if signal is None:
        rule, leg_id, in_force, evidence = RULES[change.rule], watch.leg_id, watch.labels, {}
        ordinal: int | str = transition.ordinal
    else:
        rule, leg_id, evidence = signal.rule, signal.leg_id or watch.leg_id, {"evidence": signal.evidence}
        in_force, ordinal = joined_labels(watch.labels, signal.labels), signal.key
    incident = incident_id(watch.conversation_id, rule, transition.began_at, ordinal)
    alert_id = uuid_text(uuid5(incident, transition.state.encode()))
    body = orjson.dumps(
        {
            "conversationId": watch.conversation_id if signal is None else signal.conversation_id,
            "alertType": rule,
            "metricValue": transition.value,
            "timestamp": transition.arrival,
            "source": "genesys-interceptor",
            "alertId": alert_id,
            "incidentId": uuid_text(incident),
            "state": transition.state,
            "reason": transition.reason,
            "threshold": transition.limit,
            "legId": leg_id,
            "window": None if window is None else _window(watch.conversation_id, window, labels),
            "labels": in_force,
            **evidence,
        }
    )
    return Alert(
        transition.arrival,
        transition.row,
        change.order,
        watch.conversation_id,
        place,
        alert_id,
        rule,
        transition.state,
        transition.reason,
        watch.url,
        body,
        in_force,
        uuid_text(incident),
    )


def _window(conversation_id: str, window: list[float], texts: LabelTexts) -> dict[str, Any]:
    return window_object(conversation_id, window, *(texts.text(int(window[column])) for column in TEXTS))


class LatestWindows:
    """The last window of each slot that had ended when the last block was over."""

    def __init__(self, columns: SlotColumns) -> None:
        self._latest = columns.add("latest_window", np.float64, np.nan, width=len(Column))

    def forget_after(self, now: float) -> None:
        """Drop the windows that end after `now`, for the clock was set back to it."""
        latest = self._latest.values
        latest[latest[:, Column.END] > now] = np.nan

    def alerts(self, changes: Sequence[Change], ending: Summaries, labels: LabelTexts) -> list[Alert]:
        """Return a block's alerts in order; `ending` are its windows, and those that closed early before it."""
        if not changes:
            return []
        ending_of: dict[int, list[list[float]]] = {}
        changed = np.zeros(len(self._latest.values), np.bool_)  # np.isin imports numpy.ma, which takes 10 ms
        changed[[change.transition.slot for change in changes]] = True
        concerned = changed.take(ending.slot)
        for slot, values in zip(ending.slot[concerned].tolist(), ending.values[concerned].tolist(), strict=True):
            ending_of.setdefault(slot, []).append(values)
        return sorted(
            make_alert(place, change, change.window or self._at(change.transition, ending_of), labels)
            for place, change in enumerate(changes)
        )

    def keep(self, ending: Summaries, now: float) -> None:
        """Keep each slot's last window for the alerts to come, once its end has passed, also if it closed early."""
        ended = ending.values[:, Column.END] <= now
        self._latest.values[ending.slot[ended]] = ending.values[ended]  # of a slot's several windows the last one stays

    def _at(self, transition: Transition, ending_of: dict[int, list[list[float]]]) -> list[float] | None:
        if transition.slot == NO_SLOT:
            return None
        ended = [values for values in ending_of.get(transition.slot, ()) if values[Column.END] <= transition.arrival]
        window: list[float] = ended[-1] if ended else self._latest.values[transition.slot].tolist()
        return window if window[Column.END] == window[Column.END] else None

    @property
    def texts(self) -> NDArray[np.int64]:
        """Return the numbers of all texts of the windows that are kept."""
        numbers: NDArray[np.float64] = self._latest.values[:, TEXTS]
        return np.nan_to_num(numbers).astype(np.int64).ravel()
