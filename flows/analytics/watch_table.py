"""Who is watched, under which limits: conversation ids to dense slots, which arrays are indexed with.

A slot belongs to a conversation from its watch until the windows of its last frame have closed; then it is used
again. What the watch_table remembers of conversations that are over is bounded by time, in journal time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import Ids
from connectors.format.limits import DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD
from flows.analytics.label_texts import NO_LABELS, LabelTexts
from flows.analytics.slot_columns import SlotColumns
from flows.analytics.slots import NO_SLOT, SlotIndex
from flows.analytics.voice_quality import CODECS
from flows.analytics.windows import Traits

__all__ = ["REMEMBER_S", "Watch", "WatchTable"]

REMEMBER_S: Final = 86400.0
_NUMBERS: Final = {name: number for number, name in enumerate(CODECS)}


class Watch(NamedTuple):
    """What is known of a watched conversation; limits in milliseconds and as a ratio.

    `limits` are those that hold, `own` those set for this conversation, `default` those where none is set. `feed` is
    the feed that its events come from, None for any; `codec` is its own, None for that of the settings. `labels` are
    sorted by name.
    """

    conversation_id: str
    leg_id: str | None
    limits: tuple[float, float]
    url: str | None
    feed: str | None = None
    codec: str | None = None
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    own: tuple[float | None, float | None] = (None, None)
    default: tuple[float, float] = (DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD)

    def is_affected_by(self, feeds: Collection[str]) -> bool:
        """Return whether the loss of any of these feeds concerns the conversation."""
        return bool(feeds) and (self.feed is None or self.feed in feeds)


_decode_watches: Final = msgspec.msgpack.Decoder(list[Watch | None]).decode


class WatchTable:
    """The watches of a shard by slot, and by conversation while their watch is on.

    Columns: `limits` of latency in milliseconds and of loss as a ratio; `on_since` and `over_at`, epoch seconds, when
    the watch began and when the conversation ended, infinite while it is on; `codec`, the number of the conversation's
    own codec in `CODECS`, -1 for none; `labels`, the number of its labels in `label_texts`.
    """

    def __init__(self, columns: SlotColumns) -> None:
        self.columns = columns
        self.limits = (
            columns.add("max_latency_ms", np.float64, np.nan),
            columns.add("packet_loss_threshold", np.float64, np.nan),
        )
        self.on_since = columns.add("on_since", np.float64, np.inf)
        self.over_at = columns.add("over_at", np.float64, np.inf)
        self.codec = columns.add("codec", np.int8, -1)
        self.labels = columns.add("labels", np.int32, NO_LABELS)
        self.label_texts = LabelTexts()
        self.watches: list[Watch | None] = []
        self._slots: dict[str, int] = {}
        self._index = SlotIndex()
        self._not_indexed: dict[str, int] = {}
        self._free: list[int] = []
        self._ended: dict[str, int] = {}
        self._retired: dict[int, float] = {}
        self._over: dict[str, float] = {}
        self._ranks: NDArray[np.int64] | None = None

    @property
    def used(self) -> int:
        """Return the number of slots that have been in use, one at least."""
        return max(1, len(self.watches))

    @property
    def traits(self) -> Traits:
        """Return what windows are closed with, by slot."""
        return Traits(self.codec.values, self.labels.values)

    @property
    def watching(self) -> int:
        """Return the number of conversations that are watched now."""
        return len(self._slots)

    def watch(self, watch: Watch, now: float) -> int:
        """Watch a conversation, or change the watch of one that is watched already; its slot.

        One that ended is watched again: in its old slot until the last window of its last frame ends, then in another.
        In the old slot it keeps its codec if the watch names none, for its windows go on.
        """
        slot = self._slots.get(watch.conversation_id, NO_SLOT)
        if slot == NO_SLOT:
            slot = self._returning(watch.conversation_id, now)
            self._ranks = None
            self._slots[watch.conversation_id] = slot
            self._not_indexed[watch.conversation_id] = slot
            self.on_since.values[slot], self.over_at.values[slot] = now, np.inf
            if watch.codec is not None:
                self.codec.values[slot] = _NUMBERS[watch.codec]
        self._put(slot, watch)
        self.labels.values[slot] = self.label_texts.number(watch.labels) if watch.labels else NO_LABELS
        return slot

    def current(self, conversation_id: str) -> Watch | None:
        """Return the watch that is on, None if the conversation is not watched."""
        slot = self._slots.get(conversation_id, NO_SLOT)
        return None if slot == NO_SLOT else self.watches[slot]

    def slot_of(self, conversation_id: str) -> int:
        """Return the slot of a conversation that is watched, NO_SLOT for another."""
        return self._slots.get(conversation_id, NO_SLOT)

    def resolve(self, resolved: Callable[[Watch], Watch]) -> None:
        """Put the limits in force that `resolved` gives each watch."""
        for slot in self._slots.values():
            self._put(slot, resolved(self.watch_at(slot)))

    def sweep_labels(self, *others: NDArray[Any]) -> None:
        """Drop the texts of labels that neither slots nor these numbers refer to."""
        self.label_texts.sweep(np.concatenate([self.labels.values, *others]).astype(np.int64))

    def is_returning(self, conversation_id: str, now: float) -> bool:
        """Return whether a watch of the conversation would restart it in the slot that its open windows are in."""
        slot = self._ended.get(conversation_id, NO_SLOT)
        return slot != NO_SLOT and self._retired[slot] > now

    def affected_by(self, feeds: Collection[str]) -> NDArray[np.bool_]:
        """Return the slots, as a mask, of the conversations that the loss of any of these feeds concerns."""
        concerned = np.zeros(self.columns.capacity, np.bool_)
        heard = [watch is not None and watch.is_affected_by(feeds) for watch in self.watches]
        concerned[: len(heard)] = heard
        return concerned

    def watch_at(self, slot: int) -> Watch:
        """Return the watch in a slot."""
        watch = self.watches[slot]
        assert watch is not None
        return watch

    def ranks(self) -> NDArray[np.int64]:
        """Return the place of each slot in the order of conversation ids; a free slot has any place."""
        if self._ranks is None:
            ids = ["" if watch is None else watch.conversation_id for watch in self.watches]
            self._ranks = np.empty(len(ids), np.int64)
            self._ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
        return self._ranks

    def slots(self, ids: Ids) -> NDArray[np.int32]:
        """Return the slot of each row's conversation, shape (n,); NO_SLOT where none is on."""
        return self._indexed().find(ids)

    def ids(self, slots: NDArray[np.int32]) -> Ids:
        """Return the conversation of each slot, shape (n,)."""
        ids = self._indexed().ids(slots)
        for row in np.flatnonzero(ids.is_long).tolist():
            ids.long[ids.key_text(row)] = self.watch_at(int(slots[row])).conversation_id
        return ids

    def end(self, slot: int, windows_end: float) -> None:
        """End a watch; its slot stays until `windows_end`, when the last window of its last frame ends."""
        conversation_id = self.watch_at(slot).conversation_id
        del self._slots[conversation_id]
        self._indexed().remove(slot)
        self._ended[conversation_id] = slot
        self._retired[slot] = windows_end

    def remember(self, conversation_id: str, now: float) -> None:
        """Know for a day of journal time that a conversation is over, so that no late frame of it starts a watch."""
        self._over.pop(conversation_id, None)
        self._over[conversation_id] = now

    def over_until(self, conversation_id: str) -> float:
        """Return the time up to which frames belong to a conversation that has ended; -inf if it never ended."""
        return self._over.get(conversation_id, -np.inf) + REMEMBER_S

    def release(self, now: float, forget: Callable[[int], None]) -> None:
        """Free the slots of ended conversations whose windows have all ended, calling `forget` with each."""
        for slot in [slot for slot, windows_end in self._retired.items() if windows_end <= now]:
            conversation_id = self.watch_at(slot).conversation_id
            if self._ended.get(conversation_id) == slot:
                del self._ended[conversation_id]
            del self._retired[slot]
            self.watches[slot] = None
            self.columns.forget(slot)
            self._free.append(slot)
            forget(slot)
        while self._over and (oldest := next(iter(self._over.items())))[1] + REMEMBER_S <= now:
            del self._over[oldest[0]]

    def step_clock(self, step_s: float, now: float) -> None:
        """Go on at `now`, which differs from the time so far by `step_s`; of a step back, all windows have closed."""
        self._over = {conversation_id: ended + step_s for conversation_id, ended in self._over.items()}
        if step_s < 0:
            self.on_since.values += step_s
            self.over_at.values += step_s
            self._retired = dict.fromkeys(self._retired, now)

    def _put(self, slot: int, watch: Watch) -> None:
        self.watches[slot] = watch
        latency, loss = self.limits
        latency.values[slot], loss.values[slot] = watch.limits

    def _indexed(self) -> SlotIndex:
        """Return the index of all watched conversations, with the new ones added in one go."""
        if self._not_indexed:
            self._index.add(Ids.of(list(self._not_indexed)), np.array(list(self._not_indexed.values()), np.int32))
            self._not_indexed = {}
        return self._index

    def _returning(self, conversation_id: str, now: float) -> int:
        if not (self._ended and self.is_returning(conversation_id, now)):
            return self._new_slot()
        slot = self._ended.pop(conversation_id)
        del self._retired[slot]
        return slot

    def _new_slot(self) -> int:
        if self._free:
            return self._free.pop()
        self.watches.append(None)
        if len(self.watches) > self.columns.capacity:
            self.columns.grow(2 * self.columns.capacity)
        return len(self.watches) - 1

    def snapshot(self) -> tuple[Any, ...]:
        """Return a plain value that `restore` takes, sharing nothing with this table; the columns are not in it."""
        # As one piece of bytes: pickling each watch as an object would be most of what a snapshot costs.
        watches = msgspec.msgpack.encode(self.watches)
        kept = (list(self._free), dict(self._ended), dict(self._retired), dict(self._over))
        return (watches, *kept, self.label_texts.snapshot())

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot, besides that of the columns."""
        watches, free, ended, retired, over, label_texts = snapshot
        self._ranks = None
        self.label_texts.restore(label_texts)
        self.watches = _decode_watches(watches)
        self._free, self._ended = list(free), dict(ended)
        self._retired, self._over = dict(retired), dict(over)
        taken = {slot: watch.conversation_id for slot, watch in enumerate(self.watches) if watch is not None}
        self._slots = {conversation_id: slot for slot, conversation_id in taken.items() if slot not in self._retired}
        self._index, self._not_indexed = SlotIndex(), {}
        self._index.add(Ids.of(list(taken.values())), np.array(list(taken), np.int32))
        for slot in self._retired:
            self._index.remove(slot)
