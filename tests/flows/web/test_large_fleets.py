"""What the page keeps of very many conversations, and what it finds again without reading everything."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from flows.web import model as read_model
from flows.web import queries
from flows.web.heat import heat_map
from flows.web.history import windows_of
from flows.web.marks import JournalMarks
from flows.web.queries import Span
from flows.web.reader import StateReader
from flows.web.story import story_of
from tests.support.state_dirs import BEGAN, StateDir

HOUR = Span("custom", BEGAN, BEGAN + 3600, 60)


def reader_of(state: StateDir) -> StateReader:
    reader = StateReader(state.dir, keep_s=86_400.0)
    reader.read_once()
    return reader


def test_the_windows_of_a_conversation_are_found_among_many(tmp_path: Path) -> None:
    """Those of 300 conversations lie between each other; lines that are not windows move none."""
    state = StateDir(tmp_path / "state")
    for start in range(0, 60, 10):
        for number in range(300):
            state.window(start, f"conversation-{number}", p95=float(number))
        with (state.dir / "windows.jsonl").open("ab") as file:
            file.write(b'not json\n\n{"conversation_id":"conversation-7"}\n')
    reader = reader_of(state)
    for number in (0, 7, 299):
        offsets, was_cut = reader.model.windows_of(f"conversation-{number}")
        read = windows_of(state.dir / "windows.jsonl", f"conversation-{number}", offsets)
        assert [one["start"] - BEGAN for one in read.windows] == [0, 10, 20, 30, 40, 50]
        assert {one["latency_ms"]["max"] for one in read.windows} == {float(number)}
        assert (read.complete, was_cut) == (True, False)
    assert reader.model.bad_lines == 18
    reader.stop()


def test_lines_that_have_moved_are_left_out(tmp_path: Path) -> None:
    """A file that is cut or replaced meanwhile gives no window of another conversation, and says so."""
    state = StateDir(tmp_path / "state")
    state.window(0, "a")
    state.window(10, "b")
    path = state.dir / "windows.jsonl"
    reader = reader_of(state)
    (offsets, _) = reader.model.windows_of("a")
    read = windows_of(path, "b", offsets)
    assert (read.windows, read.complete) == ([], False)
    assert windows_of(path, "a", [5, 1 << 30]).windows == []
    reader.stop()


def test_what_a_large_fleet_has_too_much_of_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest minutes of conversations, of labels with many values, and places of windows; sums of all stay."""
    monkeypatch.setattr(read_model, "MAX_MINUTES", 100)
    monkeypatch.setattr(read_model, "MAX_CELLS", 60)
    monkeypatch.setattr(read_model, "MAX_OFFSETS", 120)
    state = StateDir(tmp_path / "state")
    for minute in range(30):
        for number in range(10):
            state.window(60 * minute, f"c{number}", agent=f"agent-{number}", queue="one")
    reader = reader_of(state)
    model = reader.model
    with model.lock:
        for table in ("minutes", "cells"):
            (rows,) = model.db.execute(f"SELECT COUNT(*) FROM {table} WHERE minute < {BEGAN + 300}").fetchone()
            assert rows == (0 if table == "minutes" else 2 * 5)
        assert heat_map(model, HOUR, "queue", "breach", 0).cut_s == 0
        assert heat_map(model, HOUR, "agent", "breach", 0).cut_s > 300
        assert heat_map(model, HOUR, "conversation", "breach", 0).cut_s > 300
        assert queries.figures(model, HOUR)["windows"] == 300
    offsets, was_cut = model.windows_of("c3")
    assert was_cut
    assert len(offsets) < 30
    newest = windows_of(state.dir / "windows.jsonl", "c3", offsets).windows[-1]
    assert newest["start"] == BEGAN + 29 * 60
    reader.stop()


def test_a_story_is_found_without_reading_frames(tmp_path: Path) -> None:
    """Of a journal with many frames only the parts with watches and parties are read; the story is the same."""
    state = StateDir(tmp_path / "state")
    state.watch(0, "a", labels={"queue": "support"})
    pad = "x" * 1000
    for number in range(6000):  # 6 MB of frames
        state.record(1 + number / 100, frame={"event": "e", "entity": {"id": "b"}, "pad": pad})
    state.watch(62, "a", labels={"queue": "sales"})
    for number in range(100):
        state.record(63 + number / 100, frame={"event": "e", "entity": {"id": "a"}, "pad": pad})
    reader = reader_of(state)
    marks, journal = reader.model.marks, state.dir / "journal"
    found = story_of(journal, "a", BEGAN, BEGAN + 100, marks)
    assert found == story_of(journal, "a", BEGAN, BEGAN + 100)
    assert [part.state for part in found.lanes[0].parts] == ["support", "sales"]
    segment = journal / "00000001.jsonl"
    size = segment.stat().st_size
    assert marks.next(segment.name, 2 << 20) > 5 << 20
    assert marks.next(segment.name, size - 10) == size
    for number in range(1500):
        state.record(64 + number / 1000, frame={"event": "e", "entity": {"id": "b"}, "pad": pad})
    state.watch(70, "a", labels={"queue": "late"})
    assert story_of(journal, "a", BEGAN, BEGAN + 100, marks) == found  # about as far as the page has read
    reader.read_once()
    assert len(story_of(journal, "a", BEGAN, BEGAN + 100, marks).lanes[0].parts) == 3
    reader.stop()


def test_marks_forget_the_oldest_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do not know is read."""
    monkeypatch.setattr("flows.web.marks.MAX_SEGMENTS", 2)
    marks = JournalMarks()
    names = [f"0000000{number}.jsonl" for number in (1, 2, 3, 4)]
    assert not marks.is_unread(names[0], 0)
    for name in names[:3]:
        marks.take(name, 0, orjson.dumps({"frame": {}}) + b"\n")
    assert [marks.next(name, 1) for name in names] == [1, 13, 13, 1]
    assert [marks.is_unread(name, 13) for name in names] == [False, False, True, True]
