"""Windows as columns: a row each, so that a day of them is summed up in a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from connectors.state.results import reading_results
from flows.report.journal import Watched
from flows.web.lines import Lag, Loss, Mos, decode_lines
from flows.web.reader import offset_at

__all__ = ["Windows", "WindowsReader"]

PIECE_BYTES: Final = 4 << 20
Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


class _Latency(msgspec.Struct, gc=False):
    max: float
    p50: float
    p95: float


class _Window(msgspec.Struct, gc=False):
    conversation_id: str
    start: float
    end: float
    frames: int
    latency_ms: _Latency | None = None
    packet_loss: Loss | None = None
    mos: Mos | None = None
    labels: dict[str, str] = {}
    event_lag_ms: Lag | None = None


@dataclass(frozen=True)
class Windows:
    """Columns of windows, in the order of their files. What a window did not measure is NaN.

    `conversation`, `labelled` and `model` are places in `ids`, `label_sets` and `models`; `model` is -1 without a MOS.
    Latencies are in milliseconds, losses are ratios, times epoch seconds.
    """

    ids: list[str]
    label_sets: list[dict[str, str]]
    models: list[str]
    bad_lines: int
    conversation: Ints
    labelled: Ints
    model: Ints
    start: Floats
    end: Floats
    frames: Floats
    highest_ms: Floats
    p50_ms: Floats
    p95_ms: Floats
    loss_count: Floats
    loss_mean: Floats
    loss_max: Floats
    mos: Floats
    lag_count: Floats
    lag_mean: Floats
    lag_max: Floats

    in_breach: np.ndarray[Any, np.dtype[np.bool_]]

    def at(self, rows: Any) -> Windows:
        """Return some of the windows: places in the columns, or a mask."""
        columns = {name: getattr(self, name)[rows] for name in (*_COLUMNS, "in_breach")}
        return replace(self, **columns)

    def __len__(self) -> int:
        return len(self.start)


_COLUMNS: Final = (
    *("conversation", "labelled", "model", "start", "end", "frames", "highest_ms", "p50_ms", "p95_ms"),
    *("loss_count", "loss_mean", "loss_max", "mos", "lag_count", "lag_mean", "lag_max"),
)
_WHOLE: Final = frozenset({"conversation", "labelled", "model"})
NAN: Final = float("nan")
NO_LATENCY: Final = _Latency(NAN, NAN, NAN)
NO_LOSS: Final = Loss(0, NAN, NAN)
NO_LAG: Final = Lag(0, NAN, NAN)


@dataclass
class WindowsReader:
    """Collects windows that end at or after `since`, piece by piece."""

    since: float
    _pieces: list[list[Floats]] = field(default_factory=list)
    _ids: dict[str, int] = field(default_factory=dict)
    _label_sets: dict[tuple[tuple[str, str], ...], int] = field(default_factory=dict)
    _models: dict[str, int] = field(default_factory=dict)
    _bad_lines: int = 0

    def read(self, path: Path) -> Iterator[int]:
        """Read a file of windows, plain or gzip; yield the bytes of each piece. Raises StateError."""
        decoder = msgspec.json.Decoder(_Window)
        is_packed = path.suffix == ".gz"
        begin = 0 if is_packed else offset_at(path, "end", self.since)
        with reading_results(path) as file:
            file.seek(begin)
            while data := file.read(PIECE_BYTES):
                data += file.readline()
                # A torn last line is one that a run is about to complete.
                whole = data[: data.rfind(b"\n") + 1]
                windows, bad = decode_lines(decoder, whole)
                self._bad_lines += bad
                self._take([window for window in windows if window.end >= self.since])
                yield len(data)

    def done(self, limits: Mapping[str, Watched], usual: Watched, mos_below: float | None) -> Windows:
        """Return everything that was read; a window is in breach with a value beyond its conversation's limits."""
        columns = [np.concatenate(parts) for parts in zip(*self._pieces, strict=True)]
        pairs = zip(_COLUMNS, columns or [np.empty(0)] * len(_COLUMNS), strict=True)
        named: dict[str, Any] = {name: column.astype(np.int64) if name in _WHOLE else column for name, column in pairs}
        of = [limits.get(id_, usual) for id_ in self._ids]
        latency = np.array([one.max_latency_ms for one in of] or [0.0])[named["conversation"]]
        loss = np.array([one.packet_loss_threshold for one in of] or [0.0])[named["conversation"]]
        # A comparison with NaN is False: what was not measured is not in breach.
        in_breach = (named["highest_ms"] > latency) | (named["loss_max"] > loss)
        if mos_below is not None:
            in_breach |= named["mos"] < mos_below
        label_sets = [dict(items) for items in self._label_sets]
        return Windows(list(self._ids), label_sets, list(self._models), self._bad_lines, **named, in_breach=in_breach)

    def _take(self, windows: Sequence[_Window]) -> None:
        if not windows:
            return
        ids, sets, models = self._ids, self._label_sets, self._models
        latency = [window.latency_ms or NO_LATENCY for window in windows]
        loss = [window.packet_loss or NO_LOSS for window in windows]
        lags = [window.event_lag_ms or NO_LAG for window in windows]
        columns = (
            [ids.setdefault(window.conversation_id, len(ids)) for window in windows],
            [sets.setdefault(tuple(window.labels.items()), len(sets)) for window in windows],
            [-1 if window.mos is None else models.setdefault(window.mos.model, len(models)) for window in windows],
            [window.start for window in windows],
            [window.end for window in windows],
            [window.frames for window in windows],
            [one.max for one in latency],
            [one.p50 for one in latency],
            [one.p95 for one in latency],
            [one.count for one in loss],
            [one.mean for one in loss],
            [one.max for one in loss],
            [NAN if window.mos is None else window.mos.value for window in windows],
            [one.count for one in lags],
            [one.mean for one in lags],
            [one.max for one in lags],
        )
        self._pieces.append([np.array(column, dtype=np.float64) for column in columns])
