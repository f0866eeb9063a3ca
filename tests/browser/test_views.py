"""Every view in a real browser: its figures, links, keys, updates, and what hostile ids do (nothing)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from flows.settings.web import WebSettings
from flows.web.page import LivePage
from tests.browser.conftest import Visit
from tests.support.callbacks import eventually
from tests.support.demo import running_demo
from tests.support.state_dirs import HOSTILE, StateDir

pytestmark = pytest.mark.timeout(300)
WAIT_S = 60.0
RANGE = "from=1795941000&to=1795944600"
RECORDING = Path(__file__).parents[1] / "data" / "three-minutes.jsonl"


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    page = LivePage(WebSettings(listen="127.0.0.1:0", keep_hours=168), directory, os.environ, {})
    page.start()
    try:
        yield page.url
    finally:
        page.stop()


@contextlib.contextmanager
def visiting(browser: Any, base: str, **options: Any) -> Iterator[Visit]:
    visit = Visit(browser, base, **options)
    yield visit
    visit.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[tuple[str, Path]]:
    """A real demo: its address and its state directory."""
    directory = tmp_path_factory.mktemp("demo")
    with running_demo(directory, WAIT_S) as url:
        (state,) = directory.glob("voicewatch-demo-*/state")
        eventually(lambda: len(lines(state / "alerts.jsonl")) >= 4, WAIT_S)
        yield url, state


def lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    data = path.read_bytes()
    return [orjson.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


# An incident of a group has no conversation of its own to link to.
OF_A_CONVERSATION = 'tbody th a[href^="/conversation?"]'


def alerted(state: Path) -> str:
    """Wait for an alert of a conversation, and return its id."""

    def found() -> list[str]:
        alerts = lines(state / "alerts.jsonl") if (state / "alerts.jsonl").exists() else []
        return [alert["conversationId"] for alert in alerts if alert["conversationId"] is not None]

    eventually(lambda: bool(found()), WAIT_S)
    return found()[0]


def number(page: Any, selector: str) -> int:
    return int(re.sub(r"\D", "", page.locator(selector).first.inner_text().split(" of ")[-1]) or 0)


def test_the_figures_of_a_demo_are_those_of_its_files(demo: tuple[str, Path], chromium: Any) -> None:
    """Windows, incidents and callbacks, without a reload while the demo goes on."""
    base, state = demo
    with visiting(chromium, base) as visit:
        page = visit.go("/fleet?by=conversation")
        figure = ".figure:nth-child(2) .sub"
        before = number(page, figure)
        eventually(lambda: number(page, figure) == len(lines(state / "windows.jsonl")) > before, WAIT_S)
        heard = {one["conversation_id"] for one in lines(state / "windows.jsonl")}
        eventually(lambda: page.locator(".heat tbody tr").count() == len(heard), WAIT_S)
        page = visit.go("/incidents")
        ids = {one["incidentId"] for one in lines(state / "alerts.jsonl")}
        # Those that were not sent because of a group incident are folded under it.
        eventually(lambda: page.locator(".stack > tbody > tr, details.held li").count() >= len(ids), WAIT_S)
        page = visit.go("/feeds")
        delivered = re.compile(r"Delivered\s+(\d+) in this time")

        def shown() -> int:
            found = delivered.search(page.locator("#receivers").inner_text())
            return int(found[1]) if found else -1

        eventually(
            lambda: shown() == sum(one["action"] == "CALLBACK_DELIVERED" for one in lines(state / "audit.jsonl")),
            WAIT_S,
        )


def test_a_conversation_of_a_demo_is_reached_by_links_and_drawn(demo: tuple[str, Path], chromium: Any) -> None:
    """From the heat map by the keyboard, from an incident by its row; all charts are there."""
    base, state = demo
    with visiting(chromium, base) as visit:
        page = visit.go("/fleet?by=conversation")

        def moved() -> bool:
            """Whether the arrow key leads to another row; the map may be replaced by an update meanwhile."""
            page.locator("td.cell a").first.focus()
            page.keyboard.press("ArrowDown")
            return bool(page.evaluate("!!document.activeElement.closest('.heat tr:nth-child(2) td.cell')"))

        eventually(moved, WAIT_S)
        page.keyboard.press("Enter")
        page.wait_for_selector("[data-chart=lanes] canvas")
        # A call that names neither queue nor agent has no parties.
        has_parties = page.locator("[data-chart=parties]").is_visible()
        assert page.locator("#timeline .uplot canvas").count() == 4 + has_parties
        page = visit.go("/incidents")
        alerted(state)
        page.wait_for_selector(OF_A_CONVERSATION)
        page.locator(OF_A_CONVERSATION).first.click()
        page.wait_for_selector("#timeline .uplot canvas")
        id_ = page.locator("h1").inner_text()

        def own() -> set[str]:
            return {one["incidentId"] for one in lines(state / "alerts.jsonl") if one["conversationId"] == id_}

        eventually(lambda: page.locator("#own-incidents tbody tr").count() == len(own()) > 0, WAIT_S)
        page.locator("#timeline .u-over").first.hover()
        eventually(lambda: "p95" in page.locator("#readout").inner_text(), WAIT_S)
        # An update draws the charts again, and keeps what the pointer shows.
        page.evaluate("window.old = document.querySelector('#timeline .uplot')")
        page.evaluate("document.dispatchEvent(new Event('refreshed'))")
        eventually(lambda: not page.evaluate("window.old.isConnected"), WAIT_S)
        eventually(lambda: "p95" in page.locator("#readout").inner_text(), WAIT_S)


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1024, "dark"), (390, "light"), (390, "dark")])
def test_every_view_is_accessible_and_fits(demo: tuple[str, Path], chromium: Any, width: int, scheme: str) -> None:
    """Axe finds nothing serious, and no page is wider than its window."""
    base, state = demo
    id_ = alerted(state)
    views = ("/fleet", "/conversations", f"/conversation?id={id_}", "/incidents", "/failures", "/feeds", "/what-if")
    with visiting(chromium, base, width=width, scheme=scheme) as visit:
        for path in views:
            page = visit.go(path)
            assert visit.violations() == [], path
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


def test_hostile_ids_stay_text(tmp_path: Path, chromium: Any) -> None:
    """An id with markup, quotes and a template is shown as it is, in every view, and its links work."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up", HOSTILE)
    state.watch(0, HOSTILE, leg_id=HOSTILE)
    for start in range(0, 60, 10):
        state.window(start, HOSTILE, p95=300.0, queue=HOSTILE)
    state.attempt(6, state.alert(5, HOSTILE, "raised", 1, labels={"queue": HOSTILE}), "CALLBACK_FAILED", HOSTILE)
    state.outbox(pending=1, dead=1, delivered=1)
    with served(state.dir) as base, visiting(chromium, base) as visit:
        for path in ("/fleet?by=queue&", "/fleet?by=conversation&", "/conversations?", "/incidents?", "/feeds?"):
            page = visit.go(path + RANGE)
            assert page.locator("img[src='x']").count() == 0
            assert "49" not in page.locator("main").inner_text() or "{{7*7}}" in page.locator("main").inner_text()
        page = visit.go("/conversations?" + RANGE)
        page.locator("tbody th a").first.click()
        page.wait_for_selector("#timeline .uplot canvas")
        assert page.locator("h1").inner_text() == HOSTILE
        assert visit.violations() == []
        visit.go(f"/conversations?{RANGE}&l.queue={quote(HOSTILE)}")
        assert page.locator("tbody tr").count() == 1


def test_failed_calls_are_a_heat_map_of_codes_by_agent(tmp_path: Path, chromium: Any) -> None:
    """Counts by code and agent, or another label; a column leads to its incidents; hostile text stays text."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    state.window(0, "call-0", agent="ann")
    ice = {"code": "error.iceIdleDetection", "disconnectType": "transport.failure"}
    failed = [("ann", ice)] * 4 + [("bob", ice), (HOSTILE, {"code": HOSTILE, "disconnectType": None})]
    failed += [("ann", {"code": None, "disconnectType": "transport.failure"})]
    for number, (agent, evidence) in enumerate(failed):
        more = {"alertType": "CALL_FAILED", "metricValue": None, "threshold": None, "evidence": evidence}
        state.alert(5 + number, f"call-{number}", "raised", number, labels={"agent": agent, "edge": "e"}, **more)
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go(f"/failures?{RANGE}")
        assert page.locator("h1").inner_text() == "Failed calls 7, codes by agent"
        assert page.locator("thead th").all_inner_texts()[3:] == ["ann", HOSTILE, "bob"]
        found = [[part.strip() for part in row.split("\t")] for row in page.locator("tbody tr").all_inner_texts()]
        assert found == [
            ["error.iceIdleDetection", "5", "5", "4", "0", "1"],
            [HOSTILE, "1", "1", "0", "1", "0"],
            ["transport.failure", "1", "1", "1", "0", "0"],
        ]
        assert page.locator("td.l3").all_inner_texts() == ["4"]
        assert page.locator("img[src='x']").count() == 0
        assert visit.violations() == []
        page.locator("select[name=by]").select_option("edge")
        page.wait_for_url("**by=edge**")
        assert page.locator("thead th").all_inner_texts()[3:] == ["e"]
        page.locator("thead a").click()
        page.wait_for_selector("#list tbody tr")
        assert page.locator("#list tbody tr").count() == 7
        assert page.locator("#list .code").all_inner_texts().count("error.iceIdleDetection") == 5
        assert page.locator("img[src='x']").count() == 0
    with served(state.dir) as base, visiting(chromium, base, width=390) as visit:
        page = visit.go(f"/failures?{RANGE}")
        tab = page.locator("nav [aria-current=page]").bounding_box()
        assert 0 <= tab["x"] < tab["x"] + tab["width"] <= 390
        count = page.locator("tbody td").first.bounding_box()
        assert count["x"] + count["width"] <= 390


def test_a_gap_is_hatched_and_named(tmp_path: Path, chromium: Any) -> None:
    """A column in which the feed was down has a pattern and says so; times are in the viewer's zone, or in UTC."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    state.window(0, "a")
    state.feed(60, "down")
    state.feed(170, "up")
    state.window(180, "a")
    state.record(200, tick=True)
    with served(state.dir) as base, visiting(chromium, base, zone="Asia/Tokyo") as visit:
        page = visit.go("/fleet?by=conversation&" + RANGE)
        gaps = page.locator("td.cell.gap")
        assert gaps.count() == 2
        assert "feed down" in gaps.first.inner_text()
        assert "repeating-linear-gradient" in gaps.first.evaluate("e => getComputedStyle(e).backgroundImage")
        first = page.locator("#foot time").first
        assert first.inner_text() == "2026-11-29 17:30:00"
        page.locator("#zone").click()
        assert first.inner_text() == "2026-11-29 08:30:00"


def test_a_call_is_drawn_with_its_parties_and_the_mos_of_genesys(tmp_path: Path, chromium: Any) -> None:
    """Five charts; the scale is named; a zoom is kept in the address; a click leads to the lines of the journal."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    state.watch(0, "call", labels={"agent": "ann"})
    for start in range(0, 100, 10):
        state.window(start, "call", p95=300.0 if 30 <= start < 60 else 50.0)
    state.attempt(36, state.alert(35, "call", "raised", 1), "CALLBACK_DELIVERED", "200 OK")
    state.alert(65, "call", "resolved", 1)
    stats = {"minMos": 2.82, "receivedPackets": 900}
    for at in (120, 121):  # the same figures may come twice
        state.record(at, frame={"conversationId": "call", "participantId": "leg", "mediaEndpointStats": stats})
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go(f"/conversation?id=call&{RANGE}")
        page.wait_for_selector("[data-chart=parties] canvas")
        assert page.locator("#timeline .uplot canvas").count() == 5
        text = page.locator("main").inner_text()
        assert "Genesys, lowest of a leg, scale genesys-5 (best 4.89)" in text
        assert text.count("Leg leg: lowest MOS 2.82 on the scale genesys-5") == 1
        over = page.locator("[data-chart=latency] .u-over")
        box = over.bounding_box()
        over.click(position={"x": box["width"] / 2, "y": 20})
        raw = page.locator("#raw").get_attribute("href")
        assert '"watch"' in page.request.get(base.rstrip("/") + f"/journal?id=call&{RANGE}").text()
        assert page.request.get(base.rstrip("/") + raw).ok
        y = box["y"] + 20
        page.mouse.move(box["x"] + box["width"] * 0.25, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.75, y, steps=4)
        page.mouse.up()
        eventually(lambda: "1795941000" not in page.url, WAIT_S)
        assert re.search(r"from=17959420\d\d\.\d&to=17959420\d\d\.\d", page.url)
        zoomed = page.url
        page.locator("#timeline").focus()
        page.keyboard.press("+")
        eventually(lambda: page.url != zoomed and "from=" in page.url, WAIT_S)
        page.keyboard.press("0")
        eventually(lambda: "from=" not in page.url, WAIT_S)
        page.locator("#windows-table summary").press("Enter")
        assert page.request.get(base.rstrip("/") + page.locator("#windows-table a").last.get_attribute("href")).ok
        assert visit.violations() == []


def test_the_way_back_shows_what_was_there(tmp_path: Path, chromium: Any) -> None:
    """From the fleet to a row's incidents, a filter, a conversation, and back by the browser's button."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    for start in range(0, 60, 10):
        state.window(start, "call", p95=300.0, queue="support")
    state.alert(5, "call", "raised", 1, labels={"queue": "support"})
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go("/fleet?by=queue&range=6h")
        page.locator("tbody th.key a").click()
        page.wait_for_selector(".chips")
        assert "l.queue=support" in page.url
        assert "range=6h" in page.url
        page.locator("select[name=state]").select_option("open")
        page.wait_for_url("**state=open**")
        page.locator(OF_A_CONVERSATION).click()
        page.wait_for_selector("[data-chart=lanes] canvas")
        page.go_back()
        page.wait_for_url("**state=open**")
        assert page.locator("select[name=state]").input_value() == "open"
        page.go_back()
        page.wait_for_selector(".chips")
        assert "state=" not in page.url
        assert page.locator("select:disabled").count() == 0
        page.go_back()
        page.wait_for_selector(".heat")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"


def test_a_chart_without_values_says_why(tmp_path: Path, chromium: Any) -> None:
    """Latency alone leaves two charts empty, each with its reason; a peak is explained beside the worst p95."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    state.window(0, "call", p95=300.0)
    state.alert(5, "call", "raised", 1)
    file = state.dir / "windows.jsonl"
    file.write_bytes(orjson.dumps(orjson.loads(file.read_bytes()) | {"packet_loss": None, "mos": None}) + b"\n")
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go(f"/conversation?id=call&{RANGE}")
        page.wait_for_selector("[data-chart=lanes] canvas")
        shown = [one.get_attribute("data-empty") for one in page.locator("[data-empty]:visible").all()]
        assert shown == ["loss", "mos"]
        assert "Peak: for latency and loss" in page.locator("#own-incidents").inner_text()
        assert visit.violations() == []


@pytest.mark.parametrize("width", [1440, 1390, 1280, 1024, 390])
def test_no_field_of_a_row_is_cut_off(tmp_path: Path, chromium: Any, width: int) -> None:
    """Incidents and conversations with many labels need no sideways scrolling."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    labels: dict[str, Any] = {
        "agent": "Ada Abel",
        "direction": "inbound",
        "edge": "edge-frankfurt-2",
        "provider": "Edge",
        "queue": "Support",
    }
    id_ = "44854dc9-1097-41c1-bc82-b5879e59aaa2"
    state.window(0, id_, p95=300.0, **labels)
    state.window(10, id_, p95=300.0, **labels)
    alert = state.alert(5, id_, "raised", 1, labels=labels)
    state.attempt(6, alert, "CALLBACK_FAILED", "503 Service Unavailable")
    state.attempt(9, alert, "CALLBACK_FAILED", "timeout: no answer within 10 s")
    with served(state.dir) as base, visiting(chromium, base, width=width) as visit:
        for view in ("incidents", "conversations"):
            page = visit.go(f"/{view}?{RANGE}")
            assert page.locator("#list tbody tr").count() == 1
            assert page.evaluate("(b => b.scrollWidth <= b.clientWidth)(document.querySelector('#list .scroll'))"), view


def test_what_was_not_sent_is_folded_under_its_group(tmp_path: Path, chromium: Any) -> None:
    """One row for the group, which unfolds; the course of an incident is drawn; groups are listed by their share."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    group = {"alertType": "GROUP_DEGRADED", "group": {"queue": "support"}, "conversations": 30, "breaching": 25}
    state.alert(9, None, "raised", 1, **group)
    state.group(10, {"queue": "support"}, conversations=30, breaching=25)
    for number in range(25):
        state.window(0, f"call-{number}", p95=300.0, queue="support")
        state.alert(10, f"call-{number}", "raised", 2 + number, inhibitedBy="incident-1")
        state.window(10, f"call-{number}", p95=300.0, queue="support")
    state.alert(10, "other", "raised", 40)
    state.window(0, "other")
    state.window(10, "other", p95=300.0)
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go("/incidents?" + RANGE)
        assert page.locator(".stack > tbody > tr").count() == 2
        assert page.locator("td .spark canvas").count() == 1
        page.get_by_text("25 incidents not sent because of it").click()
        assert page.locator("details.held li").count() == 20
        assert visit.violations() == []
        page.get_by_role("link", name="All 25").click()
        page.wait_for_selector("text=not sent because of one incident")
        assert page.locator(".stack > tbody > tr").count() == 25
        page = visit.go("/fleet?by=queue&" + RANGE)
        assert "83 %" in page.locator("#groups").inner_text()
        page.locator("#groups a.state").click()
        page.wait_for_selector("#i-incident-1")


def test_a_proposed_limit_moves_in_the_histograms(tmp_path: Path, chromium: Any) -> None:
    """The share of minutes beyond the limit is there at once, and follows what is typed into the form."""
    state = StateDir(tmp_path / "state")
    state.watch(0, "a")
    for minute in range(10):
        state.window(60 * minute, "a", p95=300.0 if minute < 3 else 40.0)
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go(f"/what-if?{RANGE}")
        page.wait_for_selector(".histogram canvas")
        first = page.locator("#histograms figure").first
        assert "30 % of the minutes are above 150 ms" in first.inner_text()
        page.get_by_label("Latency limit").fill("350")
        eventually(lambda: "proposed: 0.0 % of the minutes" in first.inner_text(), WAIT_S)
        page.get_by_label("Latency limit").fill("100")
        eventually(lambda: "proposed: 30.0 % of the minutes" in first.inner_text(), WAIT_S)
        assert visit.violations() == []


def test_other_limits_are_tried_out(tmp_path: Path, chromium: Any) -> None:
    """The form runs a backtest, shows that it is under way, and then its figures without a reload."""
    (tmp_path / "journal").mkdir()
    shutil.copy(RECORDING, tmp_path / "journal" / "00000001.jsonl")
    with served(tmp_path) as base, visiting(chromium, base) as visit:
        page = visit.go("/what-if")
        page.get_by_label("Latency limit").fill("100")
        page.get_by_role("button", name="Try it out").click()
        page.wait_for_selector("text=Now against proposed", timeout=WAIT_S * 1000)
        row = page.locator("#result table").first.locator("tbody tr").first
        assert [cell.inner_text() for cell in row.locator("td").all()] == ["13", "17", "+4"]
        page.wait_for_selector(".steps canvas")
        page.locator("#hours summary").click()
        hours = [
            [cell.inner_text() for cell in row.locator("td").all()] for row in page.locator("#hours tbody tr").all()
        ]
        assert [sum(int(row[column]) for row in hours) for column in (0, 1)] == [13, 17]
        page.wait_for_selector("#frames .histogram canvas")
        assert page.locator("#frames figure").count() == 2
        page.locator("#toml summary").click()
        lines_of_toml = page.locator("#toml .plus").all_inner_texts()
        assert [line.split() for line in lines_of_toml] == [["+", "max_latency_ms", "=", "100.0"]]
        page.locator('#result a.id[href*="from="]').first.click()
        page.wait_for_selector("[data-chart=lanes] canvas")
        assert visit.violations() == []


def test_answers_of_a_receiver_are_stacked_by_hour(tmp_path: Path, chromium: Any) -> None:
    """A pattern for each class that there was; the same numbers are in a table, and in the name of the chart."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    outcomes = ("200 OK", "200 OK", "503 Service Unavailable", "timeout: no answer")
    for number, outcome in enumerate(outcomes):
        alert = state.alert(number * 3600, f"call-{number}", "raised", number)
        action = "CALLBACK_DELIVERED" if outcome.startswith("2") else "CALLBACK_FAILED"
        state.attempt(number * 3600 + 1, alert, action, outcome)
        state.window(number * 3600, f"call-{number}", p95=300.0)
    state.outbox(pending=0, dead=1, delivered=2)
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go("/feeds")
        page.wait_for_selector(".stacked canvas")
        assert page.locator(".answers .key-of").all_inner_texts() == ["2xx", "5xx", "no answer"]
        name = page.locator(".stacked").get_attribute("aria-label")
        assert name == "Answers of the last 24 hours: 2 2xx, 1 5xx, 1 without an answer"
        page.get_by_text("Answers in this time, and by hour").click()
        rows = page.locator("#answers-1 table").nth(1).locator("tbody tr").all()
        assert [[cell.inner_text() for cell in row.locator("td").all()] for row in rows] == [
            ["1", "0", "0"],
            ["1", "0", "0"],
            ["0", "1", "0"],
            ["0", "0", "1"],
        ]
        assert "2 in this time, 2 failed attempts" in page.locator("#receivers").inner_text()
        assert visit.violations() == []


def test_the_cards_of_a_demo_show_what_only_the_run_knows(demo: tuple[str, Path], chromium: Any) -> None:
    """Messages a second and how far the dataflow is behind the journal, while both change."""
    with visiting(chromium, demo[0]) as visit:
        page = visit.go("/feeds")

        def rate() -> float:
            found = re.search(r"([\d.]+)/s in the last minute", page.locator("#feeds").inner_text())
            return float(found[1]) if found else 0.0

        eventually(lambda: rate() > 1.0, WAIT_S)
        assert "The dataflow is behind the journal" in page.locator("#files").inner_text()
        assert re.search(r"chain intact up to \d{4}", page.locator("#files").inner_text())


def test_a_slider_sets_its_field(tmp_path: Path, chromium: Any) -> None:
    """A limit is chosen with the mouse, or typed; both show the same value."""
    state = StateDir(tmp_path / "state")
    state.window(0, "a")
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go(f"/what-if?{RANGE}")
        slider, field = page.locator("input[data-for=f-max_latency_ms]"), page.get_by_label("Latency limit")
        box = slider.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert 250 <= float(field.input_value()) <= 300
        field.fill("400")
        assert slider.input_value() == "400"


@pytest.mark.parametrize("width", [390, 1024])
def test_the_fleet_names_its_rows_in_a_narrow_window(tmp_path: Path, chromium: Any, width: int) -> None:
    """The newest minutes are in view, beside the name of each row and its figures."""
    state = StateDir(tmp_path / "state")
    for minute in range(50):
        state.window(60 * minute, "a", p95=300.0 if minute < 12 else 40.0, queue="support")
    with served(state.dir) as base, visiting(chromium, base, width=width) as visit:
        page = visit.go("/fleet?by=queue")
        name = page.locator("tbody th.key")
        assert name.inner_text().split() == ["support", "12", "min,", "24", "%"]
        box, newest = name.bounding_box(), page.locator("tbody td.cell a").last.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] < newest["x"] < newest["x"] + newest["width"] <= width
        assert visit.violations() == []
        page = visit.go("/fleet?by=queue&range=15m")
        cells = page.locator("tbody td.cell")
        assert cells.count() == 15
        assert box["x"] + box["width"] - 1 <= cells.nth(1).bounding_box()["x"]


def test_the_worst_of_an_hour_are_beside_those_of_a_week_ago(tmp_path: Path, chromium: Any) -> None:
    """Shares and their difference, in words; a value leads to its conversations of the hour."""
    state = StateDir(tmp_path / "state")
    week = 7 * 86_400
    for at, bad in ((0, 1), (week, 4)):
        for minute in range(8):
            state.window(at + 60 * minute, f"call-{at}", p95=300.0 if minute < bad else 40.0, queue="support")
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go("/fleet?by=queue")
        row = page.locator("#ranking tbody tr")
        expected = "1 support 50 % of 8 12 % of 8 ▲ 38 points worse"
        eventually(lambda: " ".join(row.inner_text().split()) == expected, WAIT_S)
        assert visit.violations() == []
        row.locator("a").click()
        page.wait_for_selector(".chips")
        assert page.locator("#list tbody tr").count() == 1


def test_incidents_are_grouped_by_a_label(tmp_path: Path, chromium: Any) -> None:
    """A heading for each value with its numbers, those with open incidents first; a heading leads to its incidents."""
    state = StateDir(tmp_path / "state")
    for number, queue in enumerate(("sales", "sales", "support", "sales", HOSTILE)):
        state.window(0, f"call-{number}", queue=queue)
        state.alert(5, f"call-{number}", "raised", number, labels={"queue": queue})
        if queue == "sales":
            state.alert(9, f"call-{number}", "resolved", number)
    state.alert(5, "none", "raised", 9)
    state.window(0, "none")
    with served(state.dir) as base, visiting(chromium, base) as visit:
        page = visit.go(f"/incidents?{RANGE}")
        assert page.locator(".group-row").count() == 0
        page.get_by_label("Group by").select_option("queue")
        page.wait_for_selector(".group-row")
        found = [" ".join(text.split()) for text in page.locator(".group-row").all_inner_texts()]
        assert found == [
            f"queue {HOSTILE} 1 incident, 1 open",
            "queue support 1 incident, 1 open",
            "queue sales 3 incidents, 0 open",
            "without the label queue 1 incident, 1 open",
        ]
        assert page.locator("#list tbody tr").count() == 10
        assert visit.violations() == []
        page.locator(".group-row a").nth(2).click()
        page.wait_for_selector(".chips")
        assert page.locator("#list tbody tr").count() == 3
