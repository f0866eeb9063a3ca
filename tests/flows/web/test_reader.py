"""The read model follows the files of a state directory while they are written."""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from backports import zstd
from structlog.testing import capture_logs

from connectors.runtime.shutdown import Shutdown
from flows.web import queries
from flows.web.heat import heat_map
from flows.web.history import windows_of
from flows.web.queries import Span
from flows.web.reader import StateReader, offset_at
from tests.support.callbacks import eventually
from tests.support.state_dirs import BEGAN, HOSTILE, StateDir

HOUR = Span("custom", BEGAN - 1800, BEGAN + 1800, 60)


WAIT_S = 30.0


def reader_of(state: StateDir, *, keep_s: float = 86_400.0) -> StateReader:
    reader = StateReader(state.dir, keep_s=keep_s)
    reader.read_once()
    return reader


def count(reader: StateReader, table: str) -> int:
    return int(reader.model.db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def test_an_empty_directory_shows_nothing_and_is_read_when_it_fills(tmp_path: Path) -> None:
    """No file needs to exist; what is written later is read, complete lines only."""
    state = StateDir(tmp_path / "state")
    reader = reader_of(state)
    assert queries.figures(reader.model, HOUR)["windows"] == 0
    state.window(0, "a")
    with (state.dir / "windows.jsonl").open("ab") as file:
        file.write(b'{"conversation_id":"b","start":')
    reader.read_once()
    assert queries.figures(reader.model, HOUR)["windows"] == 1
    with (state.dir / "windows.jsonl").open("ab") as file:
        file.write(b'1.0,"end":2.0,"frames":1}\n')
    reader.read_once()
    assert queries.figures(reader.model, HOUR)["conversations"] == 2
    assert reader.model.bad_lines == 0


def test_a_window_is_in_breach_by_the_limits_of_its_conversation(tmp_path: Path) -> None:
    """A frame above a limit of the conversation counts; another conversation has other limits."""
    state = StateDir(tmp_path / "state")
    state.record(0, settings={"windows": {}, "alerts": {"policy": "incident", "mos_below": 3.5}})
    state.watch(0, "strict", max_latency_ms=100.0)
    state.watch(0, "loose", max_latency_ms=500.0)
    for number, id_ in enumerate(("strict", "loose")):
        state.window(number, id_, p95=200.0)
        state.window(number + 10, id_, loss=0.02)
        state.window(number + 20, id_, loss=0.0201)
        state.window(number + 30, id_, mos=3.4)
    reader = reader_of(state)
    rows, total = queries.conversations(reader.model, HOUR, {"order": "breach"}, 0)
    assert total == 2
    assert {row["id"]: row["breaching"] for row in rows} == {"strict": 3, "loose": 2}


def test_the_heat_map_sums_by_label_and_minute(tmp_path: Path) -> None:
    """Each cell has its windows, breaches and conversations; the worst row is first; labels may change on the way."""
    state = StateDir(tmp_path / "state")
    for id_, queue in (("a", "support"), ("b", "support"), ("c", "sales")):
        state.window(0, id_, queue=queue, agent="x")
        state.window(60, id_, p95=300.0 if id_ == "a" else 50.0, queue=queue, agent="y")
    reader = reader_of(state)
    assert queries.dimensions(reader.model) == ["agent", "queue", "conversation", "all"]
    found = heat_map(reader.model, HOUR, "queue", "breach", 0)
    assert [(row.value, row.windows, row.breaching, row.minutes) for row in found.rows] == [
        ("support", 4, 1, 1),
        ("sales", 2, 0, 0),
    ]
    cells = [(int(cell.start - BEGAN), cell.conversations, cell.value) for cell in found.rows[0].cells if cell.windows]
    assert cells == [(0, 2, 0.0), (60, 2, 0.5)]
    by_agent = heat_map(reader.model, HOUR, "agent", "latency", 0)
    assert {row.value: row.p95 for row in by_agent.rows} == {"x": 50.0, "y": 300.0}


def test_a_gap_of_the_feed_is_no_zero(tmp_path: Path) -> None:
    """A minute in which the feed was down says for how long; a minute without a window has no value."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    state.window(0, "a")
    state.feed(70, "down")
    state.feed(100, "up")
    state.window(120, "a")
    row = heat_map(reader_of(state).model, HOUR, "conversation", "breach", 0).rows[0]
    cells = {int(cell.start - BEGAN): cell for cell in row.cells}
    assert (cells[60].gap_s, cells[60].value, cells[60].level) == (30.0, None, None)
    assert (cells[0].gap_s, cells[0].value) == (0.0, 0.0)


def test_a_segment_that_repeats_the_state_of_a_feed_adds_no_gap(tmp_path: Path) -> None:
    """Every segment begins with the settings that apply; these are not changes."""
    state = StateDir(tmp_path / "state")
    for at in (0, 10, 20):
        state.feed(at, "down")
    state.feed(30, "up")
    gaps = queries.gaps_of(reader_of(state).model)
    assert [(gap.start - BEGAN, (gap.end or 0) - BEGAN) for gap in gaps] == [(0.0, 30.0)]


def test_incidents_have_their_peak_and_their_callbacks(tmp_path: Path) -> None:
    """The peak is the worst window that the incident overlaps; attempts are in their order."""
    state = StateDir(tmp_path / "state")
    raised = state.alert(5, "a", "raised", 1)
    state.window(0, "a", p95=400.0)
    state.window(10, "a", p95=350.0)
    state.alert(30, "a", "resolved", 1)
    state.window(30, "a", p95=900.0)
    state.attempt(6, raised, "CALLBACK_FAILED", "503 Service Unavailable")
    state.attempt(9, raised, "CALLBACK_DELIVERED", "200 OK", 2)
    state.alert(40, "b", "raised", 2)
    rows, total = queries.incidents(reader_of(state).model, HOUR, {}, 0)
    assert total == 2
    assert [row["id"] for row in rows] == ["incident-2", "incident-1"]
    assert rows[1]["peak"] == 400.0
    assert [(one["outcome"], one["attempt"]) for one in rows[1]["delivery"]] == [
        ("503 Service Unavailable", 1),
        ("200 OK", 2),
    ]


def test_alerts_that_last_no_time_are_never_open(tmp_path: Path) -> None:
    """With the policy `frame`, and for rules without a resolve, an alert stands for itself."""
    state = StateDir(tmp_path / "state")
    state.record(0, settings={"alerts": {"policy": "frame"}})
    state.alert(5, "a", "raised", 1)
    state.alert(6, None, "raised", 2, alertType="PLATFORM_EVENT")
    reader = reader_of(state)
    assert queries.figures(reader.model, HOUR)["open"] == 0
    assert queries.incidents(reader.model, HOUR, {"state": "open"}, 0)[1] == 0
    assert queries.incidents(reader.model, HOUR, {}, 0)[1] == 2


def test_states_are_open_under_each_policy(tmp_path: Path) -> None:
    """An edge that is offline is open until it is online, with the policy `frame`, too."""
    state = StateDir(tmp_path / "state")
    state.record(0, settings={"alerts": {"policy": "frame"}})
    state.alert(6, None, "raised", 2, alertType="PLATFORM_EVENT", evidence={"event": "edge.onlineStatus"})
    reader = reader_of(state)
    assert queries.figures(reader.model, HOUR)["open"] == 1
    assert queries.incidents(reader.model, HOUR, {"state": "open"}, 0)[1] == 1


def test_a_group_incident_names_its_group(tmp_path: Path) -> None:
    """It has no conversation, but a group and numbers."""
    state = StateDir(tmp_path / "state")
    more = {"alertType": "GROUP_DEGRADED", "group": {"queue": "support"}, "conversations": 14, "breaching": 7}
    state.alert(5, None, "raised", 1, **more)
    (row,), _ = queries.incidents(reader_of(state).model, HOUR, {}, 0)
    assert (row["grouped"], row["conversations"], row["breaching"]) == ({"queue": "support"}, 14, 7)


def test_incidents_that_were_not_sent_are_folded_under_their_cause(tmp_path: Path) -> None:
    """Under a group incident, or under the storm of their minute; a filter shows them for themselves."""
    state = StateDir(tmp_path / "state")
    group = {"alertType": "GROUP_DEGRADED", "group": {"queue": "support"}, "conversations": 14, "breaching": 7}
    state.alert(5, None, "raised", 1, **group)
    for number in (2, 3):
        state.alert(6, f"c{number}", "raised", number, inhibitedBy="incident-1", labels={"queue": "support"})
    state.alert(-70, "early", "raised", 4, inhibitedBy="rate")
    state.alert(10, "capped", "raised", 5, inhibitedBy="rate")
    state.alert(40, None, "raised", 6, alertType="ALERT_STORM", metricValue=1.0)
    model = reader_of(state).model
    rows, total = queries.incidents(model, HOUR, {}, 0)
    assert total == 3
    assert {row["id"]: row["held"] for row in rows} == {"incident-1": 2, "incident-4": 0, "incident-6": 1}
    assert [row["conversation"] for row in queries.held_by(model, "incident-1")] == ["c2", "c3"]
    assert queries.incidents(model, HOUR, {"under": "incident-1"}, 0)[1] == 2
    assert queries.incidents(model, HOUR, {"rule": "LATENCY_THRESHOLD_EXCEEDED"}, 0)[1] == 4
    assert queries.incidents(model, HOUR, {"l.queue": "support"}, 0)[1] == 2


def test_groups_are_shown_by_their_newest_window(tmp_path: Path) -> None:
    """Those with an open incident come first, with their share; one that is silent for long goes."""
    state = StateDir(tmp_path / "state")
    state.window(0, "a")
    for end, value, breaching in ((-60.0, "gone", 4), (5.0, "sales", 3), (5.0, "support", 0), (10.0, "support", 1)):
        state.group(end, {"queue": value}, conversations=4, breaching=breaching)
    state.alert(10, None, "raised", 1, alertType="GROUP_DEGRADED", group={"queue": "support"})
    found = queries.groups(reader_of(state).model)
    assert [(one["value"], one["share"], one["incident"]) for one in found] == [
        ("support", 0.25, "incident-1"),
        ("sales", 0.75, None),
    ]


def test_the_heat_map_compares_with_the_time_before(tmp_path: Path) -> None:
    """A row has the share of the same length of time before, and pages are ranked by minutes in breach."""
    state = StateDir(tmp_path / "state")
    for start, p95 in ((-3000.0, 300.0), (-2990.0, 50.0), (0.0, 50.0)):
        state.window(start, "a", p95=p95, queue="sales")
    state.window(0, "b", p95=300.0, queue="support")
    map_ = heat_map(reader_of(state).model, HOUR, "queue", "breach", 0)
    assert [(row.value, row.minutes, row.before) for row in map_.rows] == [("support", 1, None), ("sales", 0, 0.5)]


def test_a_file_that_a_resumed_run_cut_is_read_again(tmp_path: Path) -> None:
    """What was written twice is counted once."""
    state = StateDir(tmp_path / "state")
    for number in range(5):
        state.window(number * 10, "a")
    reader = reader_of(state)
    path = state.dir / "windows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    reader.read_once()
    assert queries.figures(reader.model, HOUR)["windows"] == 2
    path.write_bytes(b"".join(lines[:3]))
    reader.read_once()
    assert queries.figures(reader.model, HOUR)["windows"] == 3


def test_a_rotated_file_is_read_to_its_end_first(tmp_path: Path) -> None:
    """No line between two looks is lost when a file is renamed and a new one begun."""
    state = StateDir(tmp_path / "state")
    state.window(0, "a")
    reader = reader_of(state)
    state.window(10, "a")
    (state.dir / "windows.jsonl").rename(state.dir / "windows-old.jsonl")
    state.window(20, "a")
    reader.read_once()
    assert queries.figures(reader.model, HOUR)["windows"] == 3


def test_files_of_days_are_one_story(tmp_path: Path) -> None:
    """Windows, alerts and groups of past days are read, also when a day ends meanwhile or an old one is removed."""
    state = StateDir(tmp_path / "state")
    state.watch(0, "a")
    day = 86_400
    names = [f"windows-{datetime.fromtimestamp(BEGAN + n * day, UTC):%Y-%m-%d}.jsonl" for n in range(3)]
    current = state.dir / "windows.jsonl"
    state.window(0, "a")
    state.window(10, "a")
    current.rename(state.dir / names[0])
    state.window(day, "a")
    state.window(day, "b")
    state.record(day + 10, tick=True)
    reader = reader_of(state, keep_s=30 * day)

    def starts() -> list[float]:
        found = queries.conversation(reader.model, "a")
        assert found is not None
        return [one["start"] - BEGAN for one in windows_of(current, "a", reader.model.windows_of("a")[0]).windows]

    assert starts() == [0, 10, day]
    current.rename(state.dir / names[1])
    state.window(2 * day, "a")
    state.record(2 * day + 10, tick=True)
    reader.read_once()
    assert starts() == [0, 10, day, 2 * day]
    (state.dir / names[0]).unlink()
    assert starts() == [day, 2 * day]
    reader.read_once()
    assert starts() == [day, 2 * day]
    assert queries.figures(reader.model, Span("custom", BEGAN - 60, BEGAN + 3 * day, 3600))["windows"] == 3


def test_days_before_the_page_looks_back_are_left_alone(tmp_path: Path) -> None:
    """Only the files that can hold what the page shows are opened."""
    state = StateDir(tmp_path / "state")
    state.watch(0, "a")
    state.window(0, "a")
    (state.dir / "windows.jsonl").rename(state.dir / f"windows-{datetime.fromtimestamp(BEGAN, UTC):%Y-%m-%d}.jsonl")
    state.window(5 * 86_400, "a")
    state.record(5 * 86_400 + 10, tick=True)
    span = Span("custom", BEGAN - 60, BEGAN + 6 * 86_400, 3600)
    assert queries.figures(reader_of(state, keep_s=86_400).model, span)["windows"] == 1


def test_compressed_segments_are_read_like_plain_ones(tmp_path: Path) -> None:
    """The journal's older segments may be compressed."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    state.watch(0, "a", max_latency_ms=77.0)
    plain = state.dir / "journal" / "00000001.jsonl"
    plain.with_name("00000001.jsonl.zst").write_bytes(zstd.compress(plain.read_bytes()))
    plain.write_bytes(b"")
    plain.rename(plain.with_name("00000002.jsonl"))
    reader = reader_of(state)
    assert count(reader, "feeds") == 1
    assert reader.model.limits("a").max_latency_ms == 77.0


def test_a_frame_that_looks_like_a_watch_changes_nothing(tmp_path: Path) -> None:
    """Only the top level of a record says what it is."""
    state = StateDir(tmp_path / "state")
    state.watch(0, "a")
    state.record(1, frame={"event": "x", "watch": {"conversation_id": "a", "max_latency_ms": 1.0}})
    state.record(2, invalid='"watch":{', reason="x")
    reader = reader_of(state)
    assert reader.model.limits("a").max_latency_ms == 150.0
    assert reader.model.journal_at == BEGAN + 2


def test_what_is_old_is_forgotten(tmp_path: Path) -> None:
    """Memory is bounded by the time that the page looks back."""
    state = StateDir(tmp_path / "state")
    for number in range(0, 7200, 10):
        state.window(number, f"c{number // 600}")
    reader = reader_of(state, keep_s=3600.0)
    assert count(reader, "minutes") <= 62
    assert count(reader, "conversations") <= 8
    (oldest,) = reader.model.db.execute("SELECT MIN(minute) FROM cells").fetchone()
    assert oldest >= BEGAN + 3600 - 120


def test_reading_begins_where_the_page_looks_back_to(tmp_path: Path) -> None:
    """A search in a file of lines by time finds an offset at or just before the first line that is wanted."""
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"".join(orjson.dumps({"end": float(n), "pad": "x" * 200}) + b"\n" for n in range(5000)))
    offset = offset_at(path, "end", 3000.0)
    first = orjson.loads(path.read_bytes()[offset:].partition(b"\n")[0])
    assert 2000.0 < first["end"] <= 3000.0
    assert offset_at(path, "end", -1.0) == 0


def test_hostile_ids_are_found_again(tmp_path: Path) -> None:
    """An id is any text; the windows of its conversation are its own only."""
    state = StateDir(tmp_path / "state")
    state.window(0, HOSTILE)
    state.window(0, HOSTILE + "x")
    state.window(10, HOSTILE)
    reader = reader_of(state)
    read = windows_of(state.dir / "windows.jsonl", HOSTILE, reader.model.windows_of(HOSTILE)[0])
    assert read.complete
    assert [window["start"] - BEGAN for window in read.windows] == [0.0, 10.0]


@pytest.mark.timeout(60)
def test_a_replay_is_shown_as_its_files_say(tmp_path: Path) -> None:
    """Windows, conversations and incidents are those of the files."""
    from flows.commands.replay import replay

    replay(
        [Path(__file__).parents[2] / "data" / "three-minutes.jsonl"],
        tmp_path / "out",
        settings=None,
        environ={},
        speed=None,
        deliver=False,
        stop=Shutdown().requested,
    )
    reader = StateReader(tmp_path / "out", keep_s=86_400.0)
    reader.read_once()
    windows = [orjson.loads(line) for line in (tmp_path / "out" / "windows.jsonl").read_bytes().splitlines()]
    alerts = [orjson.loads(line) for line in (tmp_path / "out" / "alerts.jsonl").read_bytes().splitlines()]
    span = Span("custom", windows[0]["start"] - 60, windows[-1]["end"] + 60, 60)
    figures = queries.figures(reader.model, span)
    assert figures["windows"] == len(windows)
    assert figures["conversations"] == len({window["conversation_id"] for window in windows})
    assert queries.incidents(reader.model, span, {}, 0)[1] == len({alert["incidentId"] for alert in alerts})


def warnings_of(logs: list[MutableMapping[str, Any]]) -> list[bool]:
    return ["exc_info" in one and one["exc_info"] is not None for one in logs if one["event"] == "web_reader_failed"]


def test_an_unexpected_error_is_shown_and_all_is_read_again(tmp_path: Path) -> None:
    """The thread goes on with a new model; the error is logged once, with its trace."""
    state = StateDir(tmp_path / "state")
    state.window(0, "a")
    reader = StateReader(state.dir, keep_s=86_400.0)
    with capture_logs() as logs:
        reader.start()
        eventually(lambda: queries.figures(reader.model, HOUR)["windows"] == 1, WAIT_S)
        broken = reader.model
        with broken.lock:
            broken.db.execute("DROP TABLE conversations")
        state.window(10, "b")
        eventually(lambda: "no such table" in reader.failure, WAIT_S)
        eventually(lambda: reader.model is not broken, WAIT_S)
        eventually(lambda: reader.failure == "", WAIT_S)
        assert queries.figures(reader.model, HOUR)["windows"] == 2
        assert reader.model.version > broken.version
        reader.stop()
    assert warnings_of(logs) == [True]


def test_files_that_cannot_be_read_are_reported_once(tmp_path: Path) -> None:
    """Each attempt is a new one: when the file can be read again, the failure is gone."""
    state = StateDir(tmp_path / "state")
    windows = state.dir / "windows.jsonl"
    reader = StateReader(state.dir, keep_s=86_400.0)
    with capture_logs() as logs:
        reader.start()
        assert reader.caught_up.wait(WAIT_S)
        windows.symlink_to(windows)
        eventually(lambda: "symbolic links" in reader.failure, WAIT_S)
        windows.unlink()
        state.window(0, "a")
        eventually(lambda: reader.failure == "" and queries.figures(reader.model, HOUR)["windows"] == 1, WAIT_S)
        reader.stop()
    assert warnings_of(logs) == [False]
