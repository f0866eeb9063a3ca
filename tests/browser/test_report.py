"""The report in a real browser: opened from its file, without a network, in print, with hostile ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Visit
from tests.browser.test_views import lines
from tests.support.callbacks import eventually
from tests.support.cli import ROOT, voicewatch
from tests.support.state_dirs import HOSTILE, StateDir

pytestmark = pytest.mark.timeout(300)
RECORDING = ROOT / "tests" / "data" / "three-minutes.jsonl"


def opened(browser: Any, file: Path, **options: Any) -> Visit:
    """Open a report from its file; any request but that of the file itself is a fault."""
    visit = Visit(browser, f"file://{file.parent}", **options)
    visit.page.goto(f"file://{file}")
    visit.page.wait_for_selector(".uplot canvas")
    return visit


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The results of a replay, and their report."""
    directory = tmp_path_factory.mktemp("report")
    voicewatch("replay", RECORDING, "--out", directory / "out")
    done = voicewatch("report", directory / "out", "--journal", RECORDING, "--out", directory / "r.html")
    assert done.returncode == 0, done
    return directory / "out", directory / "r.html"


def number(text: str) -> int:
    return int(re.sub(r"\D", "", text))


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (900, "dark"), (390, "light"), (390, "dark")])
def test_a_report_is_accessible_and_fits(replayed: tuple[Path, Path], chromium: Any, width: int, scheme: str) -> None:
    """Its figures are those of the files; axe finds nothing serious; it fits its window."""
    out, file = replayed
    visit = opened(chromium, file, width=width, scheme=scheme)
    page, windows = visit.page, lines(out / "windows.jsonl")
    figures = page.locator(".figure .value").all_inner_texts()
    assert number(figures[0]) == len({one["conversation_id"] for one in windows})
    assert number(figures[2]) == len({one["incidentId"] for one in lines(out / "alerts.jsonl")})
    assert number(page.locator(".figure .sub").nth(1).inner_text().split(" of ")[1]) == len(windows)
    worst = number(page.locator(".figure .sub").first.inner_text())
    assert page.locator("article.conversation").count() == worst > 4
    assert page.locator("article canvas").count() == 3 * worst
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.violations() == []
    visit.close()


def test_a_report_prints_on_paper(replayed: tuple[Path, Path], chromium: Any) -> None:
    """On A4 the charts are as wide as the paper and light, and no table is cut off."""
    visit = opened(chromium, replayed[1], scheme="dark")
    page = visit.page
    pdf = page.pdf(prefer_css_page_size=True)
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    page.set_viewport_size({"width": 700, "height": 1000})
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = "[...document.querySelectorAll('canvas')].map((one) => one.clientWidth)"
    eventually(lambda: set(page.evaluate(widths)) == {650}, 60.0)  # the policy forbids to wait within the page
    assert page.evaluate("document.documentElement.scrollWidth <= 700")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    visit.close()


def test_hostile_ids_stay_text(tmp_path: Path, chromium: Any) -> None:
    """An id with markup is shown as it is, in the heading of its conversation too."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up", HOSTILE)
    state.watch(0, HOSTILE)
    for start in range(0, 60, 10):
        state.window(start, HOSTILE, p95=300.0, queue=HOSTILE)
    state.alert(5, HOSTILE, "raised", 1, labels={"queue": HOSTILE})
    assert voicewatch("report", state.dir, "--out", tmp_path / "r.html").returncode == 0
    visit = opened(chromium, tmp_path / "r.html")
    assert visit.page.locator("h3.id-head").inner_text() == HOSTILE
    assert visit.page.locator("img").count() == 0
    assert visit.violations() == []
    visit.close()


def test_a_report_without_scripts_has_every_figure(replayed: tuple[Path, Path], chromium: Any) -> None:
    """Where scripts are not allowed, only the charts are missing: the tables are there."""
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{replayed[1]}")
    assert page.locator("table").count() >= 6
    assert page.locator(".figure").count() == 6
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_of_a_backtest_is_accessible(tmp_path: Path, chromium: Any, width: int, scheme: str) -> None:
    """Its tables have names and can be scrolled by the keyboard; its own style is all that its policy allows."""
    page = tmp_path / "backtest.html"
    done = voicewatch("backtest", RECORDING, "--sweep", "alerts.max_latency_ms=100:300:100", "--page", page)
    assert done.returncode == 0, done
    visit = Visit(chromium, f"file://{tmp_path}", width=width, scheme=scheme)
    visit.page.goto(f"file://{page}")
    assert visit.page.locator("table").count() >= 2
    assert visit.page.locator("h2").count() == 3
    assert visit.page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.violations() == []
    visit.close()
