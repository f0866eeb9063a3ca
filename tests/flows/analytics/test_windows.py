"""Windows: where their boundaries are, when they close, and what they say."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.format.ids import Ids
from connectors.format.words import text_of
from flows.analytics.label_texts import LabelTexts, with_long_texts
from flows.analytics.window_lines import FEW_WINDOWS, window_lines, window_object
from flows.analytics.windows import TEXTS, Column, Frames, OpenWindows, Summaries, by_end, pane_of

NAN = math.nan


def add(windows: OpenWindows, *frames: tuple[int, float, float, float]) -> None:
    """Add frames (slot, arrival, latency in µs, loss)."""
    columns = [np.array(column, np.float64) for column in zip(*frames, strict=True)]
    windows.add(columns[1], Frames(columns[0].astype(np.int32), *columns[2:]))


def spans(closed: Summaries) -> list[tuple[int, float, float, int]]:
    """Each window as (slot, start, end, frames)."""
    return [
        (slot, start, end, int(frames))
        for slot, (start, end, frames, *_) in zip(closed.slot.tolist(), closed.values.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("arrival", "slide_ms", "pane"),
    [
        (0.0, 5000, 0),
        (-0.0, 5000, 0),
        (15.0, 5000, 3),
        (math.nextafter(15.0, 0), 5000, 2),
        (-5.0, 5000, -1),
        (math.nextafter(-5.0, -math.inf), 5000, -2),
        (-5e-324, 5000, -1),
        (1700000000.1, 100, 17000000001),
        (math.nextafter(1700000000.1, 0), 100, 17000000000),
        (0.3, 100, 3),
        (math.nextafter(0.3, 0), 100, 2),
        (1e10, 1, 10**13),
        (-1e10, 1, -(10**13)),
    ],
)
def test_an_arrival_at_a_boundary_is_of_the_later_pane(arrival: float, slide_ms: int, pane: int) -> None:
    """And the next smaller float of the earlier one, wherever the float next to the decimal number lies."""
    assert pane_of(arrival, slide_ms) == pane


@given(st.floats(-1e10, 1e10), st.integers(1, 3_600_000))
def test_a_pane_holds_its_arrival(arrival: float, slide_ms: int) -> None:
    """For every time and slide, by the boundaries that are written out."""
    pane = pane_of(arrival, slide_ms)
    assert pane * slide_ms / 1000 <= arrival < (pane + 1) * slide_ms / 1000


def test_windows_close_once_and_when_their_end_is_reached() -> None:
    """Sliding windows of 10 s and 5 s over one frame at 12 s; nothing else comes of it."""
    windows = OpenWindows(10_000, 5_000)
    add(windows, (0, 12.0, NAN, NAN))
    assert spans(windows.close(math.nextafter(15.0, 0))) == []
    assert spans(windows.close(15.0)) == [(0, 5.0, 15.0, 1)]
    assert spans(windows.close(15.0)) == []
    assert spans(windows.close(99.0)) == [(0, 10.0, 20.0, 1)]
    assert spans(windows.close_all()) == []
    assert windows.ends_at(12.0) == 20.0


def test_windows_without_a_frame_are_not_there() -> None:
    """However long the pause, and whatever the time before the first record."""
    windows = OpenWindows(10_000, 10_000)
    assert spans(windows.close(-math.inf)) == []
    assert spans(windows.close(5.0)) == []
    add(windows, (1, 5.0, NAN, NAN), (0, 6.0, NAN, NAN))
    add(windows, (1, 9e9, NAN, NAN))
    assert spans(windows.close(9e9)) == [(0, 0.0, 10.0, 1), (1, 0.0, 10.0, 1)]
    assert spans(windows.close_all()) == [(1, 9e9, 9e9 + 10, 1)]


def test_a_frame_at_a_boundary_is_in_the_later_windows_only() -> None:
    """The windows that end there do not hold it."""
    windows = OpenWindows(10_000, 5_000)
    add(windows, (0, 10.0, NAN, NAN), (0, 15.0, NAN, NAN))
    assert spans(windows.close_all()) == [(0, 5.0, 15.0, 1), (0, 10.0, 20.0, 2), (0, 15.0, 25.0, 1)]


def test_a_window_says_what_its_frames_said() -> None:
    """Exact nearest-rank quantiles, means, maxima; a frame that lacks a metric counts as a frame only."""
    windows = OpenWindows(10_000, 10_000)
    add(windows, *((0, 1.0, latency_ms * 1000.0, NAN) for latency_ms in range(100, 0, -1)))
    add(windows, (0, 2.0, NAN, 0.01), (0, 2.0, NAN, 0.03), (0, 2.0, NAN, NAN))
    (values,) = windows.close_all().values.tolist()
    window = window_object("c", values, b'{"queue":"a"}')
    assert orjson.loads(orjson.dumps(window)) == {
        "conversation_id": "c",
        "start": 0.0,
        "end": 10.0,
        "frames": 103,
        "latency_ms": {"count": 100, "min": 1.0, "mean": 50.5, "max": 100.0, "p50": 50.0, "p95": 95.0, "p99": 99.0},
        "packet_loss": {"count": 2, "mean": 0.02, "max": 0.03},
        "mos": {"value": 4.19, "model": "G.107 narrowband, G.711+PLC"},
        "labels": {"queue": "a"},
    }


@pytest.mark.parametrize(
    ("latency_us", "loss", "absent"),
    [
        (NAN, NAN, {"latency_ms", "packet_loss", "mos"}),
        (1e5, NAN, {"packet_loss", "mos"}),
        (NAN, 0.0, {"latency_ms", "mos"}),
    ],
)
def test_a_metric_that_no_frame_carried_is_null(latency_us: float, loss: float, absent: set[str]) -> None:
    """And without both there is no MOS."""
    windows = OpenWindows(10_000, 10_000)
    add(windows, (0, 1.0, latency_us, loss), (1, 1.0, 1e5, 0.5))
    window = window_object("c", windows.close_all().values.tolist()[0])
    assert {name for name, value in window.items() if value is None} == absent


def test_absurd_latencies_are_exact_too() -> None:
    """Those beyond the packed sort, and sums beyond an int64."""
    windows = OpenWindows(10_000, 10_000)
    add(windows, *((0, 1.0, latency_us, NAN) for latency_us in [2e16] * 999 + [-2e16]))
    latency = window_object("c", windows.close_all().values.tolist()[0])["latency_ms"]
    assert (latency["min"], latency["p50"], latency["max"]) == (-2e13, 2e13, 2e13)
    assert latency["mean"] == pytest.approx(0.998 * 2e13, rel=1e-12)


def test_rows_of_several_closings_are_put_in_order() -> None:
    """By their ends; those that end together stay in the order in which they closed."""
    first, second = (OpenWindows(length_ms, length_ms) for length_ms in (10_000, 5_000))
    add(first, (0, 1.0, NAN, NAN), (0, 11.0, NAN, NAN))
    add(second, (7, 1.0, NAN, NAN), (7, 6.0, NAN, NAN))
    together = by_end([first.close_all(), by_end([]), second.close_all()])
    assert spans(together) == [(7, 0.0, 5.0, 1), (0, 0.0, 10.0, 1), (7, 5.0, 10.0, 1), (0, 10.0, 20.0, 1)]


some_frames = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([0.0, 0.0, 0.1, 1.0, 2.5, 100.0]),
        st.sampled_from([NAN, 0.0, -5000.0, 150_000.0, 2.0**31 - 1, 2.0**31, 1e16]),
        st.sampled_from([NAN, 0.0, 0.02, 1 / 3]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(
    some_frames,
    st.lists(st.integers(0, 40), max_size=5),
    st.sampled_from([(10_000, 5_000), (6_000, 2_000), (100, 100)]),
)
def test_no_portion_and_no_restart_changes_a_window(
    frames: list[tuple[int, float, float, float]], cuts: list[int], lengths: tuple[int, int]
) -> None:
    """Closing after each portion, from a snapshot, gives the very floats of closing once."""
    arrival = np.cumsum([step for _, step, _, _ in frames]).tolist()
    timed = [(slot, time, latency, loss) for (slot, _, latency, loss), time in zip(frames, arrival, strict=True)]
    whole = OpenWindows(*lengths)
    if timed:
        add(whole, *timed)
    expected = whole.close_all()
    parts = []
    windows = OpenWindows(*lengths)
    for begin, end in pairwise([0, *sorted(min(place, len(timed)) for place in cuts), len(timed)]):
        if end > begin:
            add(windows, *timed[begin:end])
            parts.append(windows.close(timed[end - 1][1]))
        kept, windows = windows.snapshot(), OpenWindows(*lengths)
        windows.restore(kept)
    found = by_end([*parts, windows.close_all()])
    assert found.slot.tolist() == expected.slot.tolist()
    np.testing.assert_array_equal(found.values, expected.values)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["x" * 65, "é" * 33]),
            st.tuples(*[st.sampled_from([0.0, NAN, 1e300]) | st.floats(0, 1e10) for _ in range(11)]),
            st.tuples(*[st.integers(0, 3) for _ in range(3)]),
            st.integers(0, 2),
            st.integers(0, 3),
        )
    ),
    st.sampled_from([1, FEW_WINDOWS]),
)
def test_lines_formatted_together_are_those_formatted_one_by_one(rows: list[Any], times: int) -> None:
    """Byte for byte, whatever the conversation is called and whichever metrics are missing; some with legs."""
    rows = rows * times
    ids = [conversation_id for conversation_id, *_ in rows]
    texts = LabelTexts()
    for labels in ({"queue": "é"}, {"agent": "x" * 128, "queue": "y" * 128}, {"edge": "\x00"}):
        texts.number(labels)
    values = np.array(
        [
            [*v[:2], c[0], c[1], *v[2:8], c[2], *v[8:], codec, n, n * (codec == 1), n * (c[0] % 2)]
            for _, v, c, codec, n in rows
        ]
    )
    values = values.reshape(-1, len(Column))
    expected = [
        orjson.dumps(window_object(one, row, *(texts.text(int(row[column])) for column in TEXTS)))
        for one, row in zip(ids, values.tolist(), strict=True)
    ]
    keys = Ids.of(ids)
    written = window_lines(keys, values, texts)
    lines = [with_long_texts(keys.written_out(text_of(line)), written.long) for line in written.text]
    assert lines == [line + b"\n" for line in expected]


@pytest.mark.parametrize("windows", [2, FEW_WINDOWS])
def test_one_long_id_makes_no_other_line_longer(windows: int) -> None:
    """Otherwise the name of one conversation would cost a megabyte of memory for each window of all others."""
    ids = Ids.of(["x" * 1_000_000, *map(str, range(windows - 1))])
    lines = window_lines(
        ids, np.zeros((windows, len(Column))) + ([1.0] * Column.LABELS + [0.0] * len(TEXTS)), LabelTexts()
    ).text
    assert lines.nbytes < windows * 1000
    assert ids.written_out(text_of(lines[0])).startswith(b'{"conversation_id":"xxx')
