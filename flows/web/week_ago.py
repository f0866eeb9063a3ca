"""Read the windows of this hour a week ago from the results of that day, if they are kept."""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from connectors.runtime.logs import get_logger
from connectors.state.results import daily_files, open_results
from flows.state import StateLayout
from flows.web.lines import Alert, Window, decode_lines
from flows.web.model import Limits, Model, breaches
from flows.web.queries import now_of
from flows.web.reader import offset_at
from flows.web.tail import CHUNK_BYTES

__all__ = ["HOUR_S", "WEEK_S", "Shares", "WeekAgo"]

HOUR_S: Final = 3600
WEEK_S: Final = 7 * 24 * HOUR_S
PIECE_BYTES: Final = 1 << 20
# A window is written when it ends, the longest ten minutes after its start.
LATE_S: Final = 600
# Of a larger hour every second piece is read, or every third, and so on; a larger compressed day is not read.
MAX_BYTES: Final = 256 << 20
MAX_PACKED_BYTES: Final = 256 << 20


Shares = dict[tuple[str, str], tuple[int, float]]


class WeekAgo:
    """Keep the shares of one hour, which are read in a thread when they are asked for. Any thread may call it."""

    def __init__(self, state: StateLayout) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._hour: int | None = None
        self._shares: Shares | None = None

    @property
    def is_read(self) -> bool:
        """Return whether the hour that was asked for last has been read."""
        return self._shares is not None

    def shares(self, model: Model) -> Shares:
        """Return the shares of this hour a week ago by label and value: none before they are read, or without results.

        Hold the lock of the model.
        """
        return self._shares_of(int(now_of(model) // HOUR_S) * HOUR_S, model) or {}

    def _shares_of(self, hour: int, model: Model) -> Shares | None:
        """Return the shares of the hour a week before another one; None until they are read."""
        with self._lock:
            if self._hour == hour:
                return self._shares
            self._hour, self._shares = hour, None
        defaults, alerts = (model.settings.get(name, {}) for name in ("defaults", "alerts"))
        usual = Limits(0)
        usual.max_latency_ms = float(defaults.get("max_latency_ms", usual.max_latency_ms))
        usual.packet_loss_threshold = float(defaults.get("packet_loss_threshold", usual.packet_loss_threshold))
        arguments = (hour, usual, alerts.get("mos_below"))
        threading.Thread(target=self._read, args=arguments, name="voicewatch-week-ago", daemon=True).start()
        return None

    def _read(self, hour: int, usual: Limits, mos_below: float | None) -> None:
        try:
            shares = shares_between(self._state, hour - WEEK_S, hour - WEEK_S + HOUR_S, usual, mos_below)
        except (OSError, EOFError, zlib.error) as error:
            get_logger(__name__).warning("week_ago_unreadable", error=str(error))
            shares = {}
        with self._lock:
            if self._hour == hour:
                self._shares = shares


def shares_between(state: StateLayout, start: int, end: int, usual: Limits, mos_below: float | None) -> Shares:
    """Return how many windows each value of each label had, and which share was in breach. Raises OSError, EOFError.

    Limits are those that the alerts of the day name, and the usual ones of now where a conversation had none.
    """
    day = f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d}"
    of_alerts, of_windows = (daily_files(path).get(day, path) for path in (state.alerts, state.windows))
    if not of_windows.exists():
        return {}
    limits: dict[str, Limits] = {}
    if of_alerts.exists():
        alerts = msgspec.json.Decoder(Alert)
        for data in _pieces(of_alerts, "timestamp", start, end):
            for alert in decode_lines(alerts, data)[0]:
                _learn(alert, limits, usual)
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    windows = msgspec.json.Decoder(Window)
    for data in _pieces(of_windows, "end", start, end):
        for window in decode_lines(windows, data)[0]:
            if not start <= window.start < end:
                continue
            breaching = breaches(window, limits.get(window.conversation_id, usual), mos_below)
            for place in window.labels.items():
                sums[place][0] += 1
                sums[place][1] += breaching
    return {place: (count, breaching / count) for place, (count, breaching) in sums.items()}


def _learn(alert: Alert, limits: dict[str, Limits], usual: Limits) -> None:
    if alert.conversation_id is None or alert.threshold is None:
        return
    known = limits.get(alert.conversation_id)
    if known is None:
        known = limits[alert.conversation_id] = Limits(0)
        known.max_latency_ms, known.packet_loss_threshold = usual.max_latency_ms, usual.packet_loss_threshold
    if alert.alert_type == "LATENCY_THRESHOLD_EXCEEDED":
        known.max_latency_ms = alert.threshold
    elif alert.alert_type == "PACKET_LOSS_DETECTED":
        known.packet_loss_threshold = alert.threshold


def _pieces(path: Path, field: str, start: float, end: float) -> Iterator[bytes]:
    """Yield whole lines of a file: all those between two times, and some before and after them; or a part of them."""
    if path.suffix == ".gz":
        if path.stat().st_size <= MAX_PACKED_BYTES:
            with open_results(path) as lines:
                while data := lines.read(PIECE_BYTES):
                    yield data + lines.readline()
        return
    first, last = offset_at(path, field, start), offset_at(path, field, end + LATE_S) + 2 * CHUNK_BYTES
    stride = max(-(-(last - first) // MAX_BYTES), 1)
    with path.open("rb") as file:
        for begin in range(first, last, PIECE_BYTES * stride):
            file.seek(begin)
            if begin > first:
                file.readline()  # it belongs to the piece before
            data = file.read(max(begin + PIECE_BYTES - file.tell(), 0))
            yield data + file.readline()
