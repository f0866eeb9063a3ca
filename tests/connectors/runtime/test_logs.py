"""Loggers that import structlog with the first event, in processes of their own that have not imported it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.cli import configuration, environ

THREADS = """
import sys, threading
from connectors.runtime.logs import get_logger
from connectors.runtime.logs import configure_logs

configure_logs(as_json=False)
configure_logs(as_json=True, run_id="this-run")
assert "structlog" not in sys.modules
ready = threading.Barrier(16)

def work(number):
    ready.wait()
    get_logger(__name__).info("begun", number=number)

threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
for each in threads:
    each.start()
for each in threads:
    each.join()
"""
OWN = """
import sys, structlog
from connectors.runtime.logs import get_logger

structlog.configure(
    processors=[lambda logger, method, event: f"{logger.name} {method}: {event['event']}"],
    logger_factory=lambda name: Named(name),
)

class Named(structlog.PrintLogger):
    def __init__(self, name):
        super().__init__(sys.stdout)
        self.name = name

get_logger("a.module").warning("heard")
"""
NO_FILES = """
import os, resource, sys
from pathlib import Path
from connectors.runtime.logs import get_logger
from connectors.runtime.shutdown import Shutdown
from flows.live import live_flow
from connectors.runtime.logs import configure_logs
from flows.settings.loading import load_settings

configure_logs(as_json=True)
live_flow(load_settings(Path(sys.argv[1]), os.environ), os.environ, Shutdown())
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    open("/dev/null")
except OSError:
    get_logger(__name__).exception("it_failed")
"""


def ran(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script to its good end."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environ({}), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def test_the_first_events_of_many_threads_are_logged_as_configured() -> None:
    """Whichever thread is the first, no event is logged before the last configuration that was asked for is there."""
    events = [json.loads(line) for line in ran(THREADS).stderr.splitlines()]
    assert sorted(event["number"] for event in events) == list(range(16))
    assert {(event["event"], event["level"], event["run_id"]) for event in events} == {("begun", "info", "this-run")}


def test_a_program_of_somebody_else_keeps_its_configuration() -> None:
    """Without a configuration of ours, events go through the program's own structlog, under the name of the module."""
    assert ran(OWN).stdout == "a.module warning: heard\n"


def test_a_live_flow_can_log_when_no_file_can_be_opened(tmp_path: Path) -> None:
    """What logging needs is imported while that can still be done."""
    config = configuration(tmp_path / "voicewatch.toml", {"state": {"dir": str(tmp_path / "state")}})
    [event] = [json.loads(line) for line in ran(NO_FILES, config).stderr.splitlines()]
    assert event["event"] == "it_failed"
    assert "Too many open files" in event["exception"]
