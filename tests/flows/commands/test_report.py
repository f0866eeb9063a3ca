"""The `report` command: what it refuses, and that its figures are those of the files."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.errors import UsageError
from flows.commands.report import Reported, report
from tests.support.cli import ROOT, voicewatch
from tests.support.state_dirs import BEGAN, HOSTILE, StateDir

RECORDING = ROOT / "tests" / "data" / "three-minutes.jsonl"
MAX_BYTES = 5 << 20


def write(source: Path, out: Path, **options: Any) -> Reported:
    usual = {"journal": [], "begin": float("-inf"), "end": float("inf"), "names_agents": False, "now": BEGAN}
    return report(source, out, **{**usual, **options})


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def made(directory: Path) -> StateDir:
    """A state directory with ten minutes: two calls, a gap of the feed, an incident, a delivered callback."""
    state = StateDir(directory)
    state.record(0, settings={"windows": {"length_s": 10.0}, "alerts": {"qa_callback_url": "https://a.example/?key=k"}})
    state.feed(0, "up", "connected")
    state.watch(0, "one")
    for second in range(600):
        if second == 200:
            state.feed(200, "down", "no heartbeat")
        if second == 290:
            state.feed(290, "up", "connected")
        state.record(second, tick=True)
    for start in range(0, 200, 5):
        state.window(start, "one", p95=300.0 if 100 <= start < 150 else 40.0, queue="Support", agent="Ann Other")
    for start in range(300, 590, 5):
        state.window(start, "two", queue="Sales", agent="Bo Peep")
    state.attempt(103, state.alert(102, "one", "raised", 1), "CALLBACK_DELIVERED", "200")
    state.alert(152, "one", "resolved", 1)
    return state


def test_the_command_writes_one_file_that_stands_alone(tmp_path: Path) -> None:
    """Of a replay with its recording: counts are those of the files, no address is asked, and its policy is strict."""
    voicewatch("replay", RECORDING, "--out", tmp_path / "out")
    done = voicewatch("report", tmp_path / "out", "--journal", RECORDING, "--out", tmp_path / "r.html")
    windows, alerts = lines(tmp_path / "out" / "windows.jsonl"), lines(tmp_path / "out" / "alerts.jsonl")
    raised = {alert["incidentId"] for alert in alerts}
    assert (done.returncode, done.stderr) == (0, "")
    conversations = len({one["conversation_id"] for one in windows})
    expected = f"r.html: {conversations} conversations, {len(windows)} windows, {len(raised)} incidents, 95.8 % of"
    assert expected in done.stdout
    page = (tmp_path / "r.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    assert not re.search(r"(?:src|href)=", page)
    assert len(page) < MAX_BYTES


@pytest.mark.parametrize(("end", "expected"), [(300, "2026-11-29 08:47:15"), (3000, "2026-11-29 08:47")])
def test_columns_shorter_than_a_minute_are_named_with_seconds(tmp_path: Path, end: float, expected: str) -> None:
    """Each column of the table has a name of its own."""
    out = tmp_path / "r.html"
    write(made(tmp_path / "state").dir, out, begin=BEGAN, end=BEGAN + end)
    table = out.read_text().split("<summary>As a table</summary>")[1].partition("</table>")[0]
    names = re.findall(r'<th scope="row" class="nowrap">([^<]*)<', table)
    assert expected in names
    assert len(names) == len(set(names)) > 5


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """But for the time when it is made, a report is a function of its files."""
    made(tmp_path / "state")
    first, second = tmp_path / "1.html", tmp_path / "2.html"
    write(tmp_path / "state", first)
    write(tmp_path / "state", second)
    assert first.read_bytes() == second.read_bytes()


def test_a_period_is_compared_with_the_one_before(tmp_path: Path) -> None:
    """From the middle on: another call, no incident, less of the time covered before."""
    made(tmp_path / "state")
    reported = write(tmp_path / "state", tmp_path / "r.html", begin=BEGAN + 300, end=BEGAN + 600)
    assert (reported.conversations, reported.windows, reported.incidents) == (1, 58, 0)
    page = " ".join((tmp_path / "r.html").read_text().split())
    assert "Against the period before" in page
    assert "0 of 1 conversations (0 %) had a value beyond a limit" in page
    assert "in the period before it was 100 % of 1 conversations" in page


def test_a_period_of_days_has_a_line_for_each(tmp_path: Path) -> None:
    """Conversations, incidents and minutes in alert by day; a day in which nothing was recorded is not covered."""
    state = made(tmp_path / "state")
    day = 86_400 - BEGAN % 86_400
    for second in (2 * 86_400, 2 * 86_400 + 1):
        state.record(second, tick=True)
    state.window(2 * 86_400, "late", p95=300.0)
    write(tmp_path / "state", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    table = re.search(r'id="days">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert table is not None
    rows = [re.sub(r"<[^>]+>", "|", row) for row in table[1].split("</tr>")[:-1]]
    cells = [[cell.strip() for cell in row.split("|") if cell.strip()] for row in rows]
    assert [row[0][:3] for row in cells] == ["Sun", "Mon", "Tue"]
    assert [row[2:4] for row in cells] == [["2", "50 %"], ["0", "–"], ["1", "100 %"]]
    assert [row[5:7] for row in cells] == [["1", "0.8"], ["0", "0.0"], ["0", "0.0"]]
    assert cells[1][1] == "0 %"
    write(tmp_path / "state", tmp_path / "one.html", end=BEGAN + min(day, 600))
    assert 'id="days"' not in (tmp_path / "one.html").read_text()


def test_a_report_says_how_to_repeat_it(tmp_path: Path) -> None:
    """The command in the file gives the same figures; the end of the audit log is named."""
    state = made(tmp_path / "state")
    out = tmp_path / "r.html"
    for begin in (float("-inf"), BEGAN + 30.25):
        write(tmp_path / "state", out, begin=begin)
        found = re.search(r"To repeat it: <code[^>]*><bdi>([^<]+)</bdi>", out.read_text())
        assert found is not None
        command = shlex.split(html.unescape(found[1]))
        again = tmp_path / "again.html"
        assert voicewatch(*command[1:-1], again).returncode == 0
        differing = re.compile(r"Made at .*?by")
        assert differing.sub("", again.read_text()) == differing.sub("", out.read_text())
    head = orjson.loads((state.dir / "audit.jsonl.head").read_bytes())["sha256"]
    assert head in out.read_text()


def test_agents_are_named_only_by_request(tmp_path: Path) -> None:
    """Without --agents they are numbered, everywhere in the file; receivers are shown without their keys."""
    failed = {"alertType": "CALL_FAILED", "labels": {"agent": "Cy Sole"}, "evidence": {"code": "iceIdleDetection"}}
    made(tmp_path / "state").alert(110, "one", "raised", 2, **failed)
    out = tmp_path / "r.html"
    write(tmp_path / "state", out)
    assert "Ann Other" not in out.read_text()
    assert "Cy Sole" not in out.read_text()
    assert "no. 1" in out.read_text()
    assert "agent <bdi>no. 3</bdi> (1)" in out.read_text()
    assert "key=k" not in out.read_text()
    write(tmp_path / "state", out, names_agents=True)
    assert "Ann Other" in out.read_text()
    assert "Cy Sole" in out.read_text()


def test_agents_of_groups_and_settings_are_numbered_too(tmp_path: Path) -> None:
    """Groups by agent, limits and labels of agents: without --agents no name is in the file, known or not."""
    state = made(tmp_path / "state")
    for at, name in ((1, "Dee Parts"), (2, "Eve Ning")):
        match = {"queue": "Support", "agent": name}
        state.record(at, settings={"limits": [{"match": match}], "defaults": {"labels": {"agent": "Flo Werr"}}})
    more = {"group": {"agent": "Gus Tav"}, "alertType": "GROUP_DEGRADED", "metricValue": 0.5}
    state.alert(120, None, "raised", 3, **more)
    names = ("Dee Parts", "Eve Ning", "Flo Werr", "Gus Tav", "Ann Other")
    out = tmp_path / "r.html"
    write(tmp_path / "state", out)
    assert [name for name in names if name in out.read_text()] == []
    assert "agent <b><bdi>no. 3</bdi></b>" in out.read_text()
    assert "<code>limits[1].match.agent</code> from <bdi>other</bdi> to <bdi>other</bdi>" in out.read_text()
    assert "<code>limits[1].match.queue</code> <bdi>Support</bdi>" in out.read_text()
    write(tmp_path / "state", out, names_agents=True)
    assert [name for name in names if name not in out.read_text()] == []


def test_agents_are_hidden_where_no_window_names_one(tmp_path: Path) -> None:
    """Settings alone name an agent, whom nothing else does."""
    state = StateDir(tmp_path / "state")
    state.record(0, settings={"defaults": {"labels": {"agent": "Flo Werr"}}})
    state.watch(0, "one")
    state.window(0, "one")
    write(tmp_path / "state", tmp_path / "r.html")
    assert "Flo Werr" not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("name", ["alerts.jsonl", "windows.jsonl", "audit.jsonl", "journal/00000001.jsonl"])
def test_a_file_of_a_run_is_not_written_over(tmp_path: Path, name: str) -> None:
    """The file stays as it is, by whatever path it is named; a report of before may be written over."""
    state = made(tmp_path / "state").dir
    (tmp_path / "link").symlink_to(state)
    before = (state / name).read_bytes()
    for out in (state / name, tmp_path / "link" / name):
        with pytest.raises(UsageError, match="is one of the files that a run wrote"):
            write(state, out)
    assert (state / name).read_bytes() == before
    for _ in range(2):
        write(state, state / "report.html")


def test_a_recording_is_not_written_over(tmp_path: Path) -> None:
    """The recording that a replay was of stays as it is."""
    recording = made(tmp_path / "state").dir / "journal" / "00000001.jsonl"
    kept = recording.rename(tmp_path / "recording.jsonl")
    before = kept.read_bytes()
    with pytest.raises(UsageError, match="is one of the files that a run wrote"):
        write(tmp_path / "state", kept, journal=[kept])
    assert kept.read_bytes() == before


def test_a_gap_comes_before_any_figure(tmp_path: Path) -> None:
    """What was not received, how long and why, stands above the first figure."""
    made(tmp_path / "state")
    out = tmp_path / "r.html"
    reported = write(tmp_path / "state", out)
    page = out.read_text().partition("</style>\n</head>")[2]
    assert reported.covered is not None
    assert 0.84 < reported.covered < 0.86
    assert 0 < page.index("1 min 30 s of 9 min") < page.index("no heartbeat") < page.index("Windows in breach")


def test_hostile_ids_are_escaped(tmp_path: Path) -> None:
    """Markup in ids, labels, reasons and settings cannot begin an element, nor end the script with the data."""
    state = StateDir(tmp_path / "state")
    hostile = HOSTILE + "</script><script>alert(1)</script><!--"
    state.record(0, settings={"alerts": {hostile: hostile}})
    state.feed(0, "down", hostile)
    state.feed(5, "up", hostile)
    state.watch(0, hostile)
    for start in range(0, 60, 10):
        state.window(start, hostile, p95=300.0, queue=hostile)
    state.alert(5, hostile, "raised", 1, labels={"queue": hostile})
    write(tmp_path / "state", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<img" not in page
    assert page.count("<script") == 3
    assert "<!--" not in page.partition("<main>")[2]


def test_what_cannot_be_reported_is_refused_in_one_line(tmp_path: Path) -> None:
    """No results, a directory as the file, a period that is empty, a time that is not one."""
    (tmp_path / "empty").mkdir()
    made(tmp_path / "state")
    for arguments, message in (
        (("report", tmp_path / "empty"), "holds no results"),
        (("report", tmp_path / "state", "--out", tmp_path), "is a directory; name the file"),
        (("report", tmp_path / "state", "--from", "2026-01-02", "--to", "2026-01-01"), "the period is empty"),
        (("report", tmp_path / "state", "--from", "yesterday"), "--from yesterday"),
    ):
        done = voicewatch(*arguments, cwd=tmp_path)
        assert done.returncode == 2, done
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
