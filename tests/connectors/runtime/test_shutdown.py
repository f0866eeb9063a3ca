"""Signals as wishes to stop, in processes of their own that never grant them."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.callbacks import eventually
from tests.support.cli import Running, started

SCRIPT = """
import sys, time
from connectors.runtime.shutdown import Shutdown
from connectors.runtime.logs import configure_logs

configure_logs(as_json=False)
shutdown = Shutdown(grace_s=float(sys.argv[1]))
shutdown.on_signals()
print("ready")
shutdown.requested.wait()
print("asked to stop")
if sys.argv[2] == "obey":
    sys.exit(0)
while True:  # in C, as a worker of Bytewax that waits for its peers: no Python handler would ever run here
    time.sleep(3600)
"""


def process(directory: Path, grace_s: float, conduct: str) -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(grace_s), conduct]


def ready(process: Running) -> None:
    eventually(lambda: "ready" in process.output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_is_a_wish(tmp_path: Path, number: signal.Signals) -> None:
    """The first signal interrupts nothing and is only told: the program ends itself, with its own exit code."""
    with started(tmp_path, process(tmp_path, 60, "obey")) as running:
        ready(running)
        assert running.stop(number) == 0
        assert running.output.splitlines()[-1] == "asked to stop"
        assert f"signal={number.name}" in running.log


def test_a_wish_that_is_not_granted_in_time_ends_the_process(tmp_path: Path) -> None:
    """After the grace period the process is ended, however busy its main thread is, with code 143."""
    with started(tmp_path, process(tmp_path, 0.2, "ignore")) as running:
        ready(running)
        assert running.stop() == 143
        assert "stop_took_too_long" in running.log
        assert "nothing is lost" in running.log
        assert "(most recent call first)" in running.log


def test_a_wish_told_twice_at_once_is_one_wish(tmp_path: Path) -> None:
    """Signals within a second, as of a service manager and a parent, are one; a later one ends the process at once."""
    with started(tmp_path, process(tmp_path, 60, "ignore")) as running:
        ready(running)
        began = time.monotonic()
        while running.process.poll() is None:
            assert time.monotonic() - began < 30
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        assert running.process.returncode == 143
        assert time.monotonic() - began >= 1.0
        assert "stopped_at_once" in running.log
