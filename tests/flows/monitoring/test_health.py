"""Liveness and readiness with their reasons, over HTTP, and the probe that containers use."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.outbox import Callback, Outbox
from connectors.journal.progress import SourceProgress
from connectors.journal.segments import Position
from connectors.runtime import probe
from flows.monitoring.health import Health, Limits, answers_of
from flows.web.page import HealthPage

ROOT = Path(__file__).parents[3]
SEGMENT = "00000001.jsonl"
WAIT_S = 15.0


class Run:
    """A run as its health checks see it, with a clock that the test sets."""

    def __init__(self, directory: Path, *, has_source: bool = True, floor: int = 0) -> None:
        self.clock = 0.0
        self.directory = directory
        self.journal = directory / "journal"
        self.journal.mkdir()
        self.progress = SourceProgress(self.journal, default_feed="voice-events", monotonic=lambda: self.clock)
        self.health = Health(
            Limits(stalled_s=10.0, outbox_pending=2, disk_free_bytes=floor),
            self.progress,
            directory=directory,
            outbox=directory / "outbox.sqlite3",
            has_source=has_source,
            now=lambda: 1000.0,
        )

    def begin(self) -> None:
        self.write(b"")
        self.progress.begin(Position(SEGMENT))
        self.health.feed_changed("voice-events", "up")

    def write(self, data: bytes) -> None:
        (self.journal / SEGMENT).write_bytes(data)


def reasons(run: Run) -> list[str]:
    return [str(reason) for reason in json.loads(run.health.ready().body())["reasons"]]


def test_a_run_is_alive_while_it_starts_and_while_its_source_is_polled(tmp_path: Path) -> None:
    """A run that waits for peers is live; a source that was not polled for long is not."""
    run = Run(tmp_path)
    run.clock = 500.0
    assert run.health.live().ok
    run.begin()
    run.clock += 10.0
    assert run.health.live().ok
    run.clock += 0.5
    verdict = run.health.live()
    assert not verdict.ok
    assert json.loads(verdict.body())["reasons"] == ["the source was not polled for 10 s; 10 s are allowed"]
    run.progress.polled(Position(SEGMENT), b"")
    assert run.health.live().ok


def test_a_run_is_ready_when_it_hears_or_works_off_what_it_heard(tmp_path: Path) -> None:
    """Not before its source is there; with a feed; without one as long as the journal is not read to its end."""
    run = Run(tmp_path)
    assert "the source is not built yet" in reasons(run)
    run.begin()
    assert reasons(run) == []
    run.health.feed_changed("voice-events", "down")
    assert reasons(run) == ["no feed is connected, and the journal is read to its end"]
    run.write(b"x" * 10_000)
    assert reasons(run) == []
    run.health.feed_changed("hook", "up")
    run.write(b"")
    assert reasons(run) == []
    assert run.health.ready().parts["feed"]["down"] == ["voice-events"]


def test_a_full_outbox_makes_a_run_unready(tmp_path: Path) -> None:
    """More callbacks than the limit wait: the operator should look."""
    run = Run(tmp_path)
    run.begin()
    outbox = Outbox(tmp_path / "outbox.sqlite3")
    for number in range(3):
        assert reasons(run) == []
        outbox.insert([Callback(f"a{number}", f"c{number}", "http://127.0.0.1:1/", b"{}")], 990.0)
    assert reasons(run) == ["3 callbacks wait in the outbox; 2 are allowed"]
    assert run.health.ready().parts["outbox"]["age_s"] == 10.0
    outbox.close()


def test_a_full_disk_and_a_damaged_outbox_make_a_run_unready(tmp_path: Path) -> None:
    """Every reason is reported, not only the first."""
    free = shutil.disk_usage(tmp_path).free
    run = Run(tmp_path, floor=free * 2)
    run.begin()
    (tmp_path / "outbox.sqlite3").write_bytes(b"no database, but long enough to be taken for one" * 40)
    told = reasons(run)
    assert len(told) == 2
    assert " MiB are free; " in told[0]
    assert told[1].startswith("the outbox cannot be read: ")


def test_a_page_that_does_not_work_makes_a_run_unready(tmp_path: Path) -> None:
    """With the reason, until it works again; a run without a page has no such check."""
    run = Run(tmp_path)
    run.begin()
    assert "page" not in run.health.ready().parts
    failures = ["", "windows.jsonl: Permission denied"]
    run.health.watch_page(lambda: failures[-1])
    verdict = run.health.ready()
    assert (verdict.ok, run.health.live().ok) == (False, True)
    assert json.loads(verdict.body())["reasons"] == ["the live page: windows.jsonl: Permission denied"]
    failures.pop()
    assert run.health.ready().ok


def test_a_process_without_the_source_is_judged_by_its_disk(tmp_path: Path) -> None:
    """The other processes of a cluster have neither feed nor outbox."""
    run = Run(tmp_path, has_source=False)
    run.clock = 1e6
    assert run.health.live().ok
    assert list(run.health.ready().parts) == ["disk"]


@contextlib.contextmanager
def serving(run: Run, metrics: Callable[[], bytes]) -> Iterator[str]:
    """Serve metrics and health of a run; yields the address."""
    page = HealthPage("127.0.0.1", 0, answers_of(metrics, run.health, monotonic=lambda: run.clock))
    page.start()
    try:
        yield f"127.0.0.1:{page.port}"
    finally:
        page.stop()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Run, str]]:
    run = Run(tmp_path)
    with serving(run, lambda: b"metric 1\n") as address:
        yield run, address


def ask(address: str, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def test_the_server_tells_health_and_metrics(served: tuple[Run, str]) -> None:
    """200 or 503 with the reasons as JSON; metrics as text; nothing else is served there."""
    run, address = served
    assert ask(address, "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", b"metric 1\n")
    status, kind, body = ask(address, "/readyz")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body)["ok"] is False
    run.begin()
    run.clock += 1.0
    assert ask(address, "/readyz?verbose")[0] == 200
    assert ask(address, "/livez", "HEAD")[2] == b""
    assert ask(address, "/")[::2] == (404, b"there are /metrics, /livez and /readyz\n")
    assert ask(address, "/fleet")[0] == 404
    assert ask(address, "/livez", "POST")[0] == 405


def test_a_check_that_breaks_is_an_error_and_no_silence(tmp_path: Path) -> None:
    """A mistake in the metrics answers 500 and leaves the server standing."""
    with serving(Run(tmp_path), lambda: bytes(1 // 0)) as address:
        assert ask(address, "/metrics")[::2] == (500, b"ZeroDivisionError\n")
        assert ask(address, "/livez")[0] == 200


def test_an_answer_that_costs_something_is_kept_for_a_second(tmp_path: Path) -> None:
    """However often a stranger asks, the outbox is counted once a second; a failure is not kept."""
    run = Run(tmp_path)
    made = itertools.count(1)

    def metrics() -> bytes:
        if (number := next(made)) == 2:
            raise OSError("for once")
        return f"metric {number}\n".encode()

    with serving(run, metrics) as address:
        assert [ask(address, "/metrics")[2] for _ in range(3)] == [b"metric 1\n"] * 3
        run.clock += 1.0
        assert ask(address, "/metrics")[0] == 500
        assert [ask(address, "/metrics")[2] for _ in range(2)] == [b"metric 3\n"] * 2
        assert ask(address, "/livez")[0] == 200
        run.progress.begin(Position(SEGMENT))
        run.clock += 11.0
        assert ask(address, "/livez")[0] == 503


def test_a_check_that_hangs_delays_no_other(tmp_path: Path) -> None:
    """While many requests wait for the metrics, /livez is answered."""
    entered, release = threading.Event(), threading.Event()

    def metrics() -> bytes:
        entered.set()
        assert release.wait(WAIT_S)
        return b"metric 1\n"

    with serving(Run(tmp_path), metrics) as address, ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(ask, address, "/metrics") for _ in range(20)]
        assert entered.wait(WAIT_S)
        assert ask(address, "/livez")[0] == 200
        release.set()
        assert {future.result()[2] for future in waiting} == {b"metric 1\n"}


def test_the_probe_says_with_its_exit_code_what_the_server_said(
    served: tuple[Run, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """0 for 200, 1 for 503 and for no answer, 2 for a wrong call; it finds a server that listens everywhere."""
    run, address = served
    port = address.rpartition(":")[2]
    environ: dict[str, Any] = {probe.LISTEN: f"0.0.0.0:{port}"}
    assert probe.main(["/readyz"], environ) == 1
    assert "the source is not built yet" in capsys.readouterr().out
    run.begin()
    run.clock += 1.0
    assert probe.main(["/readyz"], environ) == 0
    assert probe.main([], environ) == 2
    assert probe.main(["/readyz"], {}) == 2
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert probe.main(["/livez"], {probe.LISTEN: f"127.0.0.1:{port}"}) == 1


def test_the_probe_asks_the_live_page_if_nothing_else_is_served(served: tuple[Run, str]) -> None:
    """`[web] listen` serves the same checks; `[metrics] listen` takes precedence."""
    address = served[1]
    assert probe.main(["/livez"], {probe.WEB_LISTEN: address}) == 0
    assert probe.main(["/livez"], {probe.LISTEN: address, probe.WEB_LISTEN: "127.0.0.1:1"}) == 0


def test_the_probe_imports_next_to_nothing() -> None:
    """It runs every few seconds, so it must not load what the program needs."""
    script = "import sys, connectors.runtime.probe; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    for heavy in ("numpy", "bytewax", "prometheus_client", "structlog", "orjson", "starlette", "uvicorn"):
        assert f"'{heavy}'" not in done.stdout
