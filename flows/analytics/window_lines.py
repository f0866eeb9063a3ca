"""Closed windows as JSON: one as an object, or many as lines that are put together by the column."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from connectors.format.decimals import number_texts
from connectors.format.ids import Ids
from connectors.format.words import Words, beside, words_of
from flows.analytics.label_texts import NO_LABELS, NO_TEXT, LabelTexts
from flows.analytics.voice_quality import MODELS
from flows.analytics.watch_table import WatchTable
from flows.analytics.windows import TEXTS, Column, Summaries

__all__ = ["FEW_WINDOWS", "NO_WINDOW_LINES", "WindowLines", "closed_lines", "window_lines", "window_object"]

Floats = NDArray[np.float64]

# So few are written one by one sooner than together.
FEW_WINDOWS: Final = 200
_THREE_DECIMALS: Final = [
    *(Column.LATENCY_MIN, Column.LATENCY_MAX, Column.LATENCY_P50, Column.LATENCY_P95, Column.LATENCY_P99),
    Column.MOS,
]
_BEGIN: Final = b'{"conversation_id":"'
_MODELS: Final = words_of([b',"model":%b},"labels":' % orjson.dumps(model) for model in MODELS])
_MODELS_AND_END: Final = words_of([b',"model":%b},"labels":{}}\n' % orjson.dumps(model) for model in MODELS])


class WindowLines(NamedTuple):
    """Closed windows, in order of their ends, then conversations: `end` float64 (n,), epoch seconds; whose they are;
    `text` uint64 (n, w), a JSON line in each row, with zeros that are left out, keys that `ids` write out, and digests
    of labels whose texts are in `long`.
    """

    end: Floats
    ids: Ids
    text: Words
    long: dict[bytes, bytes]


NO_WINDOW_LINES: Final = WindowLines(np.empty(0), Ids.of([]), np.empty((0, 1), np.uint64), {})


def closed_lines(closed: Summaries, watch_table: WatchTable) -> WindowLines:
    """Return the lines of windows that have closed, in the order of their ends, then conversations."""
    if not len(closed.slot):
        return NO_WINDOW_LINES
    rank = watch_table.ranks()[closed.slot]
    order = np.lexsort((closed.values[:, Column.START], rank, closed.values[:, Column.END]))
    return window_lines(watch_table.ids(closed.slot[order]), closed.values[order], watch_table.label_texts)


def window_object(
    conversation_id: str,
    values: list[float],
    labels: bytes = NO_TEXT,
    legs: bytes = NO_TEXT,
    event_lag: bytes = NO_TEXT,
) -> dict[str, Any]:
    """Return one row of `Summaries.values` as the JSON object of the contract; the others are JSON texts."""
    start, end, frames, seen, least, mean, most, p50, p95, p99, losses, mean_loss, most_loss, mos, codec, *_ = values
    return {
        "conversation_id": conversation_id,
        "start": start,
        "end": end,
        "frames": int(frames),
        "latency_ms": {
            "count": int(seen),
            "min": least,
            "mean": mean,
            "max": most,
            "p50": p50,
            "p95": p95,
            "p99": p99,
        }
        if seen
        else None,
        "packet_loss": {"count": int(losses), "mean": mean_loss, "max": most_loss} if losses else None,
        "mos": {"value": mos, "model": MODELS[int(codec)]} if mos == mos else None,
        "labels": orjson.Fragment(labels),
        **({} if legs == NO_TEXT else {"legs": orjson.Fragment(legs)}),
        **({} if event_lag == NO_TEXT else {"event_lag_ms": orjson.Fragment(event_lag)}),
    }


def window_lines(ids: Ids, values: Floats, labels: LabelTexts) -> WindowLines:
    """Rows of `Summaries.values` as JSON lines: `window_object` of each, dumped by orjson.

    Ids stand in them by their keys, so that no id, however long, makes all rows as wide as it is.
    """
    has_metrics = (values[:, Column.LATENCY_COUNT] > 0) & (values[:, Column.LOSS_COUNT] > 0)
    has_more = (values[:, Column.LEGS] != NO_LABELS) | (values[:, Column.EVENT_LAG] != NO_LABELS)
    whole = has_metrics & ~np.isnan(values[:, Column.MOS]) & ~has_more
    together, others = np.flatnonzero(whole), np.flatnonzero(~whole)
    if len(together) < FEW_WINDOWS:
        return WindowLines(values[:, Column.END], ids, *_lines(ids, values, labels))
    if not len(others):
        text, long = _whole_lines(ids, values, labels)
        return WindowLines(values[:, Column.END], ids, text, long)
    lines, long = _whole_lines(ids.take(together), values[together], labels)
    more, long_of_others = _lines(ids.take(others), values[others], labels)
    text = np.zeros((len(values), max(lines.shape[1], more.shape[1])), np.uint64)
    text[together, : lines.shape[1]] = lines
    text[others, : more.shape[1]] = more
    return WindowLines(values[:, Column.END], ids, text, long | long_of_others)


def _lines(ids: Ids, values: Floats, labels: LabelTexts) -> tuple[Words, dict[bytes, bytes]]:
    long: dict[bytes, bytes] = {}
    texts = [[labels.short(int(number), long) for number in row] for row in values[:, TEXTS].tolist()]
    objects = [window_object("", row, *text) for row, text in zip(values.tolist(), texts, strict=True)]
    lines = [orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in objects]
    return beside(len(values), [_BEGIN, ids.key, words_of([line[len(_BEGIN) :] for line in lines])]), long


def _whole_lines(ids: Ids, values: Floats, labels: LabelTexts) -> tuple[Words, dict[bytes, bytes]]:
    """Return the lines of rows that have every metric.

    Latencies are whole microseconds, and means are rounded to six and to nine decimals.
    """
    frames, latencies, losses = _texts(values[:, [Column.FRAMES, Column.LATENCY_COUNT, Column.LOSS_COUNT]], 0)
    least, most, p50, p95, p99, mos = _texts(values[:, _THREE_DECIMALS], 3)
    mean, mean_loss = _texts(values[:, [Column.LATENCY_MEAN, Column.LOSS_MEAN]], 9)
    (most_loss,) = _texts(values[:, [Column.LOSS_MAX]], 9)  # alone, for it has as many decimals as it came with
    model_and_labels, long = _model_and_labels(values, labels)
    parts: list[bytes | Words] = [
        *(_BEGIN, ids.key, _times(values[:, Column.START], values[:, Column.END]), frames),
        *(b',"latency_ms":{"count":', latencies, b',"min":', least, b',"mean":', mean, b',"max":', most),
        *(b',"p50":', p50, b',"p95":', p95, b',"p99":', p99),
        *(b'},"packet_loss":{"count":', losses, b',"mean":', mean_loss, b',"max":', most_loss),
        *(b'},"mos":{"value":', mos, *model_and_labels),
    ]
    return beside(len(values), parts), long


def _model_and_labels(values: Floats, labels: LabelTexts) -> tuple[list[bytes | Words], dict[bytes, bytes]]:
    """Return the ends of the lines, and the texts that stand in them by digests."""
    codec, number = values[:, Column.CODEC].astype(np.int64), values[:, Column.LABELS].astype(np.int64)
    if not (number != NO_LABELS).any():
        return [_MODELS_AND_END.take(codec, 0)], {}
    text, long = labels.words(number)
    return [_MODELS.take(codec, 0), text, b"}\n"], long


def _texts(columns: Floats, decimals: int) -> list[Words]:
    """Return the texts of columns (n, m) as m arrays of words, which is faster than one by one."""
    rows, count = columns.shape
    words = number_texts(columns.ravel(), decimals).reshape(rows, count, -1)
    return [words[:, column] for column in range(count)]


def _times(start: Floats, end: Floats) -> Words:
    """Return the text between the id and the number of frames; rows with the same times stand together."""
    begin = np.flatnonzero(np.append(True, (start[1:] != start[:-1]) | (end[1:] != end[:-1])))
    spans = zip(map(orjson.dumps, start[begin].tolist()), map(orjson.dumps, end[begin].tolist()), strict=True)
    texts = words_of([b'","start":%b,"end":%b,"frames":' % span for span in spans])
    return texts.repeat(np.diff(begin, append=len(start)), 0)
