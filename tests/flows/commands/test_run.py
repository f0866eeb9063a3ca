"""A run before it watches: stopping it, and what it refuses, in processes of their own."""

from __future__ import annotations

import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.callbacks import eventually
from tests.support.cli import Running, configuration, environ, running, voicewatch
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


@pytest.fixture
def hangups() -> Iterator[None]:
    """Do not ignore SIGHUP, as `nohup` does for tests that run under it and for the processes that they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
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


def empty(recovery: Path) -> None:
    """Cut the part to no bytes, as after a crash of the disk."""
    (recovery / "part-0.sqlite3").write_bytes(b"")


def damage(recovery: Path) -> None:
    """Overwrite the part's second page."""
    part = recovery / "part-0.sqlite3"
    data = bytearray(part.read_bytes())
    data[16384 : 2 * 16384] = b"x" * 16384
    part.write_bytes(data)


def lose(recovery: Path) -> None:
    """Keep one of two parts."""
    with sqlite3.connect(recovery / "part-0.sqlite3") as store:
        store.execute("UPDATE parts SET part_count = 2")
    store.close()


def age(recovery: Path) -> None:
    """Leave a snapshot of a program whose shards had other names."""
    with sqlite3.connect(recovery / "part-0.sqlite3") as store:
        store.execute("INSERT INTO snaps VALUES ('', 'voice_qa.shards', '00', 1, ?)", (pickle.dumps((0, None)),))
    store.close()


@pytest.mark.parametrize("harm", [empty, damage, lose, age])
def test_a_recovery_store_that_cannot_be_used_is_one_line(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Damaged or of another version, it is exit 2 and the remedy, by every way to start; and the remedy works."""
    recovery = tmp_path / "state/recovery"
    with RestServer() as server:
        config = config_of(tmp_path, server)
        assert voicewatch("recovery", "init", recovery).returncode == 0
        harm(recovery)
        for wal in recovery.glob("*-*l"):
            wal.unlink()
        runner = [sys.executable, "-m", "bytewax.run", "flows.voice_qa", "-r", str(recovery), "-s", "5", "-b", "0"]
        told = [voicewatch(command, config, "--no-bootstrap") for command in ("run", "cluster")]
        if harm is not lose:  # in a cluster of hosts each has only some parts
            variables = environ({"VOICEWATCH_CONFIG": str(config)})
            told.append(subprocess.run(runner, env=variables, capture_output=True, text=True, timeout=60, cwd=tmp_path))
        for done in told:
            assert (done.returncode, done.stdout) == (2, ""), done.stderr
            *warnings, line = done.stderr.splitlines()
            assert all(warning.startswith("warning: ") for warning in warnings)
            assert line.startswith(f"voicewatch: the recovery store {recovery} cannot be used: ")
            assert "move the directory away" in line
        shutil.move(recovery, tmp_path / "away")
        with running(tmp_path, "run", config, "--no-bootstrap") as process:
            eventually(lambda: bool(list((tmp_path / "state/journal").glob("*"))), 60)
            assert process.stop() == 0, process.log


def test_the_runner_needs_a_recovery_directory(tmp_path: Path) -> None:
    """Bytewax' runner without one, or with one that holds no store, is exit 2 and one line with the remedy."""
    with RestServer() as server:
        variables = environ({"VOICEWATCH_CONFIG": str(config_of(tmp_path, server))})
        runner = [sys.executable, "-m", "bytewax.run", "flows.voice_qa"]
        for more, remedy in (
            ([], "give -r state/recovery"),
            (["-r", "none", "-s", "5", "-b", "0"], "`voicewatch recovery init none`"),
        ):
            done = subprocess.run(
                [*runner, *more], env=variables, capture_output=True, text=True, cwd=tmp_path, timeout=60
            )
            assert (done.returncode, done.stdout) == (2, "")
            [line] = done.stderr.splitlines()
            assert remedy in line


def test_a_package_of_another_project_is_not_imported(tmp_path: Path) -> None:
    """In a directory with packages called flows and connectors, the flow and the probe start all the same."""
    for name in ("flows", "connectors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a package of another project')")
    variables = environ({"VOICEWATCH_CONFIG": None})
    for module, code, told in (
        (["flows.voice_qa", "-i", "0", "-a", "127.0.0.1:1"], 2, "VOICEWATCH_CONFIG"),
        (["flows", "probe", "/livez"], 2, "VOICEWATCH_METRICS__LISTEN is not set"),
    ):
        command = [sys.executable, "-P", "-m", *module]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert done.returncode == code, done.stderr
        assert told in done.stderr
