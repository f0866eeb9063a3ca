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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.outbox import Callback, Outbox
from connectors.errors import VoicewatchError
from connectors.journal.progress import SourceProgress
from connectors.journal.segments import Position
from connectors.runtime import probe
from flows.monitoring.health import Health, HealthServer, Limits
from tests.support.callbacks import eventually

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


def test_a_process_without_the_source_is_judged_by_its_disk(tmp_path: Path) -> None:
    """The other processes of a cluster have neither feed nor outbox."""
    run = Run(tmp_path, has_source=False)
    run.clock = 1e6
    assert run.health.live().ok
    assert list(run.health.ready().parts) == ["disk"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Run, str]]:
    run = Run(tmp_path)
    server = HealthServer("127.0.0.1", 0, lambda: b"metric 1\n", run.health, monotonic=lambda: run.clock)
    server.start()
    yield run, f"127.0.0.1:{server.port}"
    server.stop()


def ask(address: str, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def test_the_server_tells_health_and_metrics(served: tuple[Run, str]) -> None:
    """200 or 503 with the reasons as JSON; metrics as text; nothing else, and nothing of the Python behind it."""
    run, address = served
    assert ask(address, "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", b"metric 1\n")
    status, kind, body = ask(address, "/readyz")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body)["ok"] is False
    run.begin()
    run.clock += 1.0
    assert ask(address, "/readyz?verbose")[0] == 200
    assert ask(address, "/livez", "HEAD")[2] == b""
    assert ask(address, "/")[0] == 404
    assert ask(address, "/livez", "POST")[0] == 501


def test_a_check_that_breaks_is_an_error_and_no_silence(tmp_path: Path) -> None:
    """A mistake in the metrics answers 500 and leaves the server standing."""
    server = HealthServer("127.0.0.1", 0, lambda: bytes(1 // 0), Run(tmp_path).health)
    server.start()
    assert ask(f"127.0.0.1:{server.port}", "/metrics")[0] == 500
    assert ask(f"127.0.0.1:{server.port}", "/livez")[0] == 200
    server.stop()


def test_an_answer_that_costs_something_is_kept_for_a_second(tmp_path: Path) -> None:
    """However often a stranger asks, the outbox is counted once a second; a failure is not kept."""
    run = Run(tmp_path)
    made = itertools.count(1)

    def metrics() -> bytes:
        if (number := next(made)) == 2:
            raise OSError("for once")
        return f"metric {number}\n".encode()

    server = HealthServer("127.0.0.1", 0, metrics, run.health, monotonic=lambda: run.clock)
    server.start()
    address = f"127.0.0.1:{server.port}"
    assert [ask(address, "/metrics")[2] for _ in range(3)] == [b"metric 1\n"] * 3
    run.clock += 1.0
    assert ask(address, "/metrics")[0] == 500
    assert [ask(address, "/metrics")[2] for _ in range(2)] == [b"metric 3\n"] * 2
    assert ask(address, "/livez")[0] == 200
    run.progress.begin(Position(SEGMENT))
    run.clock += 11.0
    assert ask(address, "/livez")[0] == 503
    server.stop()


def has_hung_up(client: socket.socket) -> bool:
    """Whether the other side closes a connection in time, while more is sent to it every now and then."""
    client.settimeout(0.05)
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            client.sendall(b"G")
            if client.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_a_request_has_a_deadline(tmp_path: Path) -> None:
    """A client that sends a byte now and then, or reads no answer, keeps its thread no longer than one that is mute."""
    server = HealthServer("127.0.0.1", 0, lambda: b"x" * 50_000_000, Run(tmp_path).health, deadline_s=0.4)
    server.start()
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as trickling,
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as deaf,
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as mute,
    ):
        deaf.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert has_hung_up(trickling)
        assert mute.recv(1) == b""
        eventually(lambda: not any("process_request_thread" in thread.name for thread in threading.enumerate()), WAIT_S)
    server.stop()


def test_slow_clients_do_not_starve_others(tmp_path: Path) -> None:
    """Of 40 silent connections the last 16 stay open; a health check is answered at once, in place of the oldest."""
    server = HealthServer("127.0.0.1", 0, lambda: b"", Run(tmp_path).health, deadline_s=WAIT_S * 10)
    server.start()
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)) for _ in range(40)
        ]
        assert [client.recv(1) for client in idle[:24]] == [b""] * 24
        began = time.monotonic()
        assert ask(f"127.0.0.1:{server.port}", "/livez")[0] == 200
        assert time.monotonic() - began < 1
        assert idle[24].recv(1) == b""
        idle[-1].sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert idle[-1].recv(12) == b"HTTP/1.0 200"

    def is_served() -> bool:
        try:
            return ask(f"127.0.0.1:{server.port}", "/livez")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    eventually(is_served, WAIT_S)
    server.stop()


OUT_OF_DESCRIPTORS = """
import os, resource, socket, sys, time
from flows.monitoring.health import HealthServer

server = HealthServer("127.0.0.1", 0, lambda: b"well", None)
server.start()
client = socket.socket()
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
client.connect(("127.0.0.1", server.port))
client.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
began = time.process_time()
client.settimeout(1.0)
try:
    client.recv(1)
except TimeoutError:
    print("waits", time.process_time() - began < 0.5)
for number in taken:
    os.close(number)
client.settimeout(20.0)
print(client.recv(12).decode())
server.stop()
"""


def test_without_descriptors_it_waits(tmp_path: Path) -> None:
    """A connection that cannot be accepted does not make the server spin, and is answered once it can be."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS],
        env=environ,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["waits True", "HTTP/1.0 200"], done.stderr


def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    """The error names the key and the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(VoicewatchError, match=f"metrics.listen: 127.0.0.1:{port} cannot be listened on"):
            HealthServer("127.0.0.1", port, bytes, Run(tmp_path).health)


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


def test_the_probe_imports_next_to_nothing() -> None:
    """It runs every few seconds, so it must not load what the program needs."""
    script = "import sys, connectors.runtime.probe; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    for heavy in ("numpy", "bytewax", "prometheus_client", "structlog", "orjson"):
        assert f"'{heavy}'" not in done.stdout
