"""Figures out of columns agree with the same figures counted line by line."""

from __future__ import annotations

import gzip
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from flows.report.figures import MIN_RANKED, bands_of, bars_of, ranked, totals, worst
from flows.report.journal import Watched
from flows.report.windows import Windows, WindowsReader

USUAL = Watched(150.0, 0.02)
LIMITS = {"b": Watched(100.0, 0.1)}


def window(id_: str, start: float, *, p95: float | None, loss: float | None, mos: float | None) -> dict[str, Any]:
    return {
        "conversation_id": id_,
        "start": start,
        "end": start + 10.0,
        "frames": 5,
        "latency_ms": None if p95 is None else {"max": p95 + 1, "p50": p95 / 2, "p95": p95},
        "packet_loss": None if loss is None else {"count": 4, "mean": loss / 2, "max": loss},
        "mos": None if mos is None else {"value": mos, "model": "test"},
        "labels": {"queue": f"q-{id_}"} if id_ else {},
    }


def read(path: Path, lines: list[dict[str, Any]], *, since: float = -math.inf) -> Windows:
    data = b"".join(orjson.dumps(line) + b"\n" for line in lines) + b'{"torn'
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    reader = WindowsReader(since)
    assert sum(reader.read(path)) == len(data)
    return reader.done(LIMITS, USUAL, 3.0)


values = st.one_of(st.none(), st.floats(0, 400).map(lambda one: round(one, 2)))
losses = st.one_of(st.none(), st.floats(0, 0.2).map(lambda one: round(one, 4)))
scores = st.one_of(st.none(), st.floats(1, 4.5).map(lambda one: round(one, 2)))
windows_lines = st.lists(
    st.builds(
        lambda id_, at, p95, loss, mos: window(id_, at * 5.0, p95=p95, loss=loss, mos=mos),
        st.sampled_from(["a", "b", "", "c"]),
        st.integers(0, 200),
        values,
        losses,
        scores,
    ),
    max_size=40,
)


def is_bad(line: dict[str, Any]) -> bool:
    limits = LIMITS.get(line["conversation_id"], USUAL)
    latency, loss, mos = line["latency_ms"], line["packet_loss"], line["mos"]
    return bool(
        (latency and latency["max"] > limits.max_latency_ms)
        or (loss and loss["max"] > limits.packet_loss_threshold)
        or (mos and mos["value"] < 3.0)
    )


@given(lines=windows_lines)
def test_totals_are_those_of_the_lines(tmp_path_factory: Any, lines: list[dict[str, Any]]) -> None:
    """Counts, minutes, means and extremes; labels, bands and columns of time add up to the same."""
    windows = read(tmp_path_factory.mktemp("w") / "windows.jsonl", lines)
    sums, bad = totals(windows), [line for line in lines if is_bad(line)]
    assert (sums.windows, sums.breaching) == (len(lines), len(bad))
    assert sums.conversations == len({line["conversation_id"] for line in lines})
    assert sums.breaching_conversations == len({line["conversation_id"] for line in bad})
    assert sums.breaching_minutes == len({(line["conversation_id"], line["start"] // 60) for line in bad})
    latencies = [line["latency_ms"]["p95"] for line in lines if line["latency_ms"]]
    assert sums.highest_p95_ms == max(latencies, default=None)
    mos = [line["mos"]["value"] for line in lines if line["mos"]]
    assert sums.lowest_mos == min(mos, default=None)
    measured = [line["packet_loss"]["mean"] for line in lines if line["packet_loss"]]
    assert (sums.loss is None) == (not measured)
    assert not measured or math.isclose(sums.loss or 0.0, sum(measured) / len(measured), abs_tol=1e-12)
    by_queue = ranked(windows, [labels.get("queue") for labels in windows.label_sets])
    assert sum(one.totals.windows for one in by_queue) == sum(bool(line["labels"]) for line in lines)
    assert {one.value for one in by_queue} == {line["labels"]["queue"] for line in lines if line["labels"]}
    assert sum(band.windows for _, bands in bands_of(windows) for band in bands) == len(mos)
    bars = bars_of(windows, 0.0, 1100.0)
    assert (sum(bar.windows for bar in bars), sum(bar.breaching for bar in bars)) == (len(lines), len(bad))


@given(lines=windows_lines)
def test_the_worst_have_most_windows_in_breach(tmp_path_factory: Any, lines: list[dict[str, Any]]) -> None:
    """No conversation that is left out has more windows in breach than one that is shown."""
    windows = read(tmp_path_factory.mktemp("w") / "windows.jsonl", lines)
    counts: dict[str, int] = defaultdict(int)
    for line in lines:
        counts[line["conversation_id"]] += is_bad(line)
    shown = [counts[windows.ids[place]] for place in worst(windows, 2)]
    assert shown == sorted((count for count in counts.values() if count), reverse=True)[:2]


def test_too_few_conversations_have_no_rank(tmp_path: Path) -> None:
    """A queue with a bad call of one is listed behind one with a small share of thirty."""
    lines = [window(f"call-{n}", 0.0, p95=50.0, loss=0.0, mos=4.0) for n in range(MIN_RANKED)]
    for line in lines:
        line["labels"] = {"queue": "large"}
    lines[0]["latency_ms"]["max"] = 500.0
    lines.append(window("single", 0.0, p95=400.0, loss=0.0, mos=4.0))
    windows = read(tmp_path / "windows.jsonl", lines)
    rows = ranked(windows, [labels.get("queue") for labels in windows.label_sets])
    assert [(row.value, row.rank, row.totals.share) for row in rows] == [
        ("large", 1, 1 / MIN_RANKED),
        ("q-single", None, 1.0),
    ]


def test_what_was_not_measured_is_not_counted(tmp_path: Path) -> None:
    """A window with frames alone is counted and has no figures; nothing at all gives no figures either."""
    windows = read(tmp_path / "windows-2026-01-01.jsonl.gz", [window("a", 0.0, p95=None, loss=None, mos=None)])
    sums = totals(windows)
    assert (sums.windows, sums.breaching) == (1, 0)
    assert (sums.p95_ms, sums.loss, sums.mos, sums.share) == (None, None, None, 0.0)
    empty = totals(read(tmp_path / "none.jsonl", []))
    assert (empty.windows, empty.share, empty.conversations_share) == (0, None, None)
