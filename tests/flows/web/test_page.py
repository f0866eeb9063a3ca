"""The process of the live page: what it is given, what it asks the run for, and that it ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flows.settings.web import WebSettings
from flows.web.page import LivePage
from tests.support.callbacks import eventually
from tests.support.state_dirs import StateDir

WAIT_S = 30.0
ROOT = Path(__file__).parents[3]
TOKEN = "a-long-secret-of-the-test"


def get(url: str, token: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_page_that_is_killed_is_started_again(tmp_path: Path) -> None:
    """Requests wait meanwhile; metrics come from the run, whose figures go on."""
    state = StateDir(tmp_path / "state")
    state.window(0, "a")
    asked: list[int] = []

    def metrics() -> tuple[int, str, bytes]:
        asked.append(1)
        return 200, "text/plain", b"metric %d\n" % len(asked)

    page = LivePage(WebSettings(listen="127.0.0.1:0"), state.dir, os.environ, {"/metrics": metrics})
    page.start()
    try:
        assert get(page.url + "metrics") == (200, b"metric 1\n")
        assert get(page.url + "fleet")[0] == 200
        first = page.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        eventually(lambda: page.pid != first, WAIT_S)
        assert get(page.url + "metrics") == (200, b"metric 2\n")
    finally:
        page.stop()
    assert page.pid is not None
    assert not is_running(page.pid)


def test_the_process_holds_no_credentials(tmp_path: Path) -> None:
    """Neither in its environment nor in its arguments; the token of the page reaches it another way."""
    environ = {**os.environ, "GENESYS_CLIENT_SECRET": "hush", "VOICEWATCH_WEB_TOKEN": TOKEN}
    page = LivePage(WebSettings(listen="127.0.0.1:0"), StateDir(tmp_path / "state").dir, environ, {})
    page.start()
    try:
        assert get(page.url + "fleet")[0] == 401
        assert get(page.url + "fleet", TOKEN)[0] == 200
        for name in ("environ", "cmdline"):
            told = Path(f"/proc/{page.pid}/{name}").read_bytes()
            assert b"hush" not in told
            assert TOKEN.encode() not in told
    finally:
        page.stop()


def test_a_run_that_does_not_answer_is_unwell(tmp_path: Path) -> None:
    """The page says 503 for a check that fails in the run, and when the run does not answer at all."""
    from flows.web.process import answer_of

    def broken() -> tuple[int, str, bytes]:
        raise OSError("no disk")

    page = LivePage(WebSettings(listen="127.0.0.1:0"), StateDir(tmp_path / "state").dir, os.environ, {"/livez": broken})
    page.start()
    try:
        assert get(page.url + "livez") == (500, b"OSError\n")
    finally:
        page.stop()
    status, _, body = answer_of(1, "/livez", "")()
    assert status == 503
    assert body.startswith(b"the run does not answer")


def test_files_that_cannot_be_read_do_not_end_the_page(tmp_path: Path) -> None:
    """Not even at the start: the process stays, tells the run, naming no directory, and goes on when it can."""
    state = StateDir(tmp_path / "state")
    windows = state.dir / "windows.jsonl"
    windows.symlink_to(windows)
    page = LivePage(WebSettings(listen="127.0.0.1:0"), state.dir, os.environ, {})
    page.start()
    try:
        eventually(lambda: page.failure == "windows.jsonl: Too many levels of symbolic links", WAIT_S)
        first = page.pid
        status, body = get(page.url + "fleet")
        assert status == 200
        assert b"windows.jsonl: Too many levels of symbolic links" in body
        windows.unlink()
        state.window(0, "a")
        eventually(lambda: page.failure == "", WAIT_S)
        assert page.pid == first
    finally:
        page.stop()


FAKE = """
import sys, time
with open("starts", "a") as file:
    print(time.monotonic(), file=file)
sys.exit(3)
"""


def test_a_page_that_keeps_ending_is_started_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One log line tells of it, and the run knows why it is not ready."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)  # where the process looks for its modules first
    page = LivePage(WebSettings(listen="127.0.0.1:0"), StateDir(tmp_path / "state").dir, os.environ, {})
    starts = tmp_path / "starts"
    with capture_logs() as logs:
        page.start()
        try:
            eventually(lambda: starts.exists() and len(starts.read_text().splitlines()) >= 3, WAIT_S)
            assert page.failure == "its process ended with code 3"
        finally:
            page.stop()
    first, second, third = (float(line) for line in starts.read_text().splitlines()[:3])
    assert third - second > 1.5 > second - first - 0.5
    assert [log["code"] for log in logs if log["event"] == "live_page_ended"] == [3]


RUN = """
import os, sys, time
from pathlib import Path
from connectors.runtime.logs import configure_logs
from flows.settings.web import WebSettings
from flows.web.page import LivePage
configure_logs(as_json=False)
page = LivePage(WebSettings(listen="127.0.0.1:0"), Path(sys.argv[1]), os.environ, {})
page.start()
print(page.pid, flush=True)
time.sleep(600)
"""


def test_the_page_does_not_outlive_a_run_that_is_killed(tmp_path: Path) -> None:
    """Not even kill -9 leaves it behind; signals to its group do not end it before the run."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(StateDir(tmp_path / "state").dir)],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert is_running(pid)
        run.kill()
    eventually(lambda: not is_running(pid), WAIT_S)
