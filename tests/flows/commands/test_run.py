"""Stopping a run before it watches, in processes of their own."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.support.callbacks import eventually
from tests.support.cli import Running, configuration, running
from tests.support.genesys_server import CREATE, HANG, LOAD, TOKEN, RestServer

INTERCEPTOR = {
    "conversation_id": "c1",
    "leg_id": "l1",
    "interceptor_address": "sip:qa@monitoring.internal",
    "qa_callback_url": "https://qa.example.com/alerts",
}


def config_of(directory: Path, server: RestServer) -> Path:
    tables = {
        "genesys": {"base_url": server.url, "events_url": "ws://127.0.0.1:9/"},
        "state": {"dir": directory / "state"},
        "interceptor": [INTERCEPTOR],
    }
    return configuration(directory / "voicewatch.toml", tables)


def stopped_in_s(process: Running, number: int) -> float:
    began = time.monotonic()
    assert process.stop(number) == 0, process.log
    return time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("route", [TOKEN, LOAD])
def test_a_signal_ends_a_request_that_is_not_answered(tmp_path: Path, number: signal.Signals, route: str) -> None:
    """While the bootstrap waits for Genesys, a signal stops the run within a second or two, with exit 0."""
    with RestServer() as server:
        server.script(route, HANG)
        with running(tmp_path, "run", config_of(tmp_path, server)) as process:
            eventually(lambda: any(request.route == route for request in server.requests), 60)
            assert stopped_in_s(process, number) < 3
            assert "Traceback" not in process.log


def test_a_signal_does_not_interrupt_a_create(tmp_path: Path) -> None:
    """A create that is under way is finished and remembered before the run stops; the next one is not begun."""
    with RestServer() as server:
        config = config_of(tmp_path, server)
        config.write_text(config.read_text() + config.read_text()[config.read_text().index("[[") :].replace("c1", "c2"))
        server.delay_s = 1.5
        with running(tmp_path, "run", config) as process:
            eventually(lambda: any(request.route == CREATE for request in server.requests), 60)
            assert process.stop(signal.SIGTERM) == 0, process.log
        assert [request.route for request in server.requests].count(CREATE) == 1
        assert '"created"' in (tmp_path / "state/interceptors.json").read_text()


def test_a_signal_in_the_first_moments_stops_cleanly(tmp_path: Path) -> None:
    """A run that is stopped while it still imports what it needs ends with exit 0."""
    with RestServer() as server, running(tmp_path, "run", config_of(tmp_path, server)) as process:
        status = Path(f"/proc/{process.process.pid}/status")
        handled = 1 << (signal.SIGTERM - 1)
        eventually(lambda: bool(int(status.read_text().split("SigCgt:")[1].split()[0], 16) & handled), 60)
        assert process.stop(signal.SIGTERM) == 0, process.log
