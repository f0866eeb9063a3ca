"""How values are spread over bins, counted in the tables of the read model."""

from __future__ import annotations

from pathlib import Path

from flows.web.histograms import BINS, Histogram, histograms
from flows.web.queries import Span
from flows.web.reader import StateReader
from tests.support.state_dirs import BEGAN, StateDir


def read(state: StateDir, start: float, end: float) -> dict[str, Histogram]:
    reader = StateReader(state.dir, keep_s=1e6)
    reader.read_once()
    with reader.model.lock:
        found = histograms(reader.model, Span("custom", BEGAN + start, BEGAN + end, 60))
    reader.stop()
    return {one.field: one for one in found}


def test_minutes_are_counted_by_their_worst_window(tmp_path: Path) -> None:
    """Of each minute of a conversation the highest p95 counts, once; what is above the last bin is in it."""
    state = StateDir(tmp_path / "state")
    state.watch(0, "a", max_latency_ms=120.0)
    for minute, p95 in enumerate((35.0, 39.9, 155.0, 9000.0)):
        state.window(60 * minute, "a", p95=p95, loss=0.03, mos=4.0)
        state.window(60 * minute + 20, "a", p95=1.0, loss=0.03, mos=4.4)
    latency = read(state, 0, 600)["max_latency_ms"]
    assert (sum(latency.counts), latency.counts[3], latency.counts[15], latency.counts[BINS - 1]) == (4, 2, 1, 1)
    assert (latency.limit, latency.above, latency.below) == (120.0, 0.5, False)


def test_loss_and_mos_have_their_own_bins(tmp_path: Path) -> None:
    """A mean loss of 1.5 % lies in the bin from 1.4 %; MOS has no limit until the settings name one."""
    state = StateDir(tmp_path / "state")
    state.record(0, settings={"alerts": {"mos_below": 4.1}})
    state.watch(0, "a")
    state.window(0, "a", loss=0.03, mos=4.0)
    state.window(60, "a", loss=0.001, mos=4.3)
    found = read(state, 0, 600)
    loss, mos = found["packet_loss_threshold"], found["mos_below"]
    assert [place for place, count in enumerate(loss.counts) if count] == [0, 7]
    assert (mos.limit, mos.above, mos.below, sum(mos.counts)) == (4.1, 0.5, True, 2)


def test_minutes_outside_the_span_do_not_count(tmp_path: Path) -> None:
    """Nothing in the span, no histogram; a conversation that measured nothing gives none either."""
    state = StateDir(tmp_path / "state")
    state.watch(0, "a")
    state.window(0, "a", p95=100.0)
    assert read(state, 3600, 7200) == {}
    assert set(read(state, 0, 60)) == {"max_latency_ms", "packet_loss_threshold", "mos_below"}
