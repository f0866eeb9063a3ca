"""Processes of voicewatch on hosts, each under a supervisor that starts it again, as systemd or Kubernetes would."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from connectors.callbacks.outbox import Outbox
from connectors.journal.segments import segments
from flows.commands.merge import merge
from flows.commands.replay import replay
from flows.settings.loading import load_settings
from flows.state import StateLayout
from tests.support.cli import configuration, environ

__all__ = ["Member", "check_followed", "check_outputs", "eventually", "python_on"]

RESTART_S = 0.5
COPY_S = 5.0
DEADLINE_S = 180.0


def eventually(happened: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> float:
    """Wait until something has happened; return the seconds that it took. Raises TimeoutError."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() > began + within_s:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began


def python_on(host: str, arguments: Sequence[str], log: Path, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start Python on a host."""
    with log.open("ab") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-P", *arguments],
            env=environ({**more}),
            cwd=log.parent,
            stdout=file,
            stderr=file,
        )


def last_start(windows: Path) -> float:
    """Return the start of the last window in a file, 0 without any."""
    try:
        with windows.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 16_384))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return 0.0
    whole = [line for line in lines[1:] if line.endswith(b"\n")]
    return float(json.loads(whole[-1])["start"]) if whole else 0.0


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that is being written, but for one that is not whole."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


class Member:
    """A process of a deployment on its host, with its own state directory; `results` are the windows that it writes."""

    def __init__(
        self,
        host: str,
        directory: Path,
        tables: dict[str, Any],
        arguments: Sequence[str],
        more: Mapping[str, str],
        results: Literal["windows", "groups"] = "windows",
    ) -> None:
        directory.mkdir()
        self.host = host
        self.directory = directory
        self.state = StateLayout(directory / "state")
        self.results = results
        self._written = self.state.windows if results == "windows" else self.state.groups
        self.config = configuration(directory / "voicewatch.toml", tables)
        self.log = directory / "log"
        self.starts = 0
        self._arguments = [argument.replace("CONFIG", str(self.config)) for argument in arguments]
        self._more = {**more, "VOICEWATCH_CONFIG": str(self.config)}
        self._wanted = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        """Start the process, again and again."""
        self._wanted.set()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def kill(self) -> float:
        """Kill the process, whose supervisor starts it again; return when it was dead, in epoch seconds."""
        return self._end_by(signal.SIGKILL)

    def restart(self) -> float:
        """Ask the process to stop, whose supervisor starts it again; return when it had ended, in epoch seconds."""
        return self._end_by(signal.SIGTERM)

    def _end_by(self, number: int) -> float:
        process = self._process
        assert process is not None
        process.send_signal(number)
        process.wait(DEADLINE_S)
        return time.time()

    def stop(self) -> int:
        """Ask the process to stop, and return its exit code. It is not started again."""
        assert self._process is not None
        self._wanted.clear()
        self._process.send_signal(signal.SIGTERM)
        self._supervisor.join(60)
        return self._process.wait(1)

    def end(self) -> None:
        """Kill the process for good."""
        self._wanted.clear()
        if self._process is not None:
            self._process.kill()
            self._supervisor.join(10)

    def wipe(self) -> float:
        """Kill the process, empty its disk, and start it again; return when it was dead, in epoch seconds."""
        self.end()
        dead_at = time.time()
        shutil.rmtree(self.state.dir)
        self.start()
        return dead_at

    def until_window(self, since: float) -> None:
        """Wait for a window of frames that arrived after `since`, epoch seconds. Raises TimeoutError."""
        eventually(
            lambda: last_start(self._written) >= since, f"a window on {self.host}: {self.log.read_text()[-3000:]}"
        )

    def _supervise(self) -> None:
        while self._wanted.is_set():
            self.state.recovery.mkdir(parents=True, exist_ok=True)
            self._process = python_on(self.host, self._arguments, self.log, self._more)
            self.starts += 1
            self._process.wait()
            if self._wanted.is_set():
                time.sleep(RESTART_S)


def check_outputs(member: Member, out: Path, received: set[str]) -> str:
    """Compare the outputs of a state directory with those of one replay by one process. Raises AssertionError."""
    paths = segments(member.state.journal)
    replay(paths, out, settings=None, environ={}, speed=None, deliver=False, stop=threading.Event())
    alerts = member.state.alerts.read_bytes()
    expected = (out / "alerts.jsonl").read_bytes()
    assert alerts == expected, f"{member.host}: alerts are not those of a replay"
    windows = member.state.windows.read_bytes().splitlines()
    replayed = (out / "windows.jsonl").read_bytes().splitlines()
    assert windows == replayed[: len(windows)], f"{member.host}: windows are not those of a replay"
    alerts_found = check_alerts(member, received)
    return f"{member.host}: {len(windows)} windows and {alerts_found}, as one process has them"


def check_followed(member: Member, instances: Sequence[Path], out: Path, received: set[str]) -> str:
    """Compare groups that were followed with those of copies of the instances' results. Raises AssertionError."""
    merge(instances, out, load_settings(member.config, {}))
    expected = (out / "groups.jsonl").read_bytes().splitlines()
    # The copies were made one after the other, while the instances went on.
    ends = [json.loads(line)["until"] for one in instances for line in whole_lines(one / "parts.jsonl")[-1:]]
    upto = min(ends) - COPY_S
    expected = [line for line in expected if json.loads(line)["end"] <= upto]
    lines = member.state.groups.read_bytes().splitlines()
    assert lines[: len(expected)] == expected, f"{member.host}: groups are not those of all instances"
    ends = [json.loads(line)["end"] for line in lines]
    assert ends == sorted(ends)
    assert len(expected) > 20
    alerts_found = check_alerts(member, received)
    return f"{member.host}: {len(lines)} windows of groups and {alerts_found}; {len(expected)} windows compared"


def check_alerts(member: Member, received: set[str]) -> str:
    """Look that no alert is doubled, and each has reached the receiver or waits. Raises AssertionError."""
    ids = [json.loads(line)["alertId"] for line in member.state.alerts.read_bytes().splitlines()]
    assert len(set(ids)) == len(ids), f"{member.host}: an alert is doubled"
    outbox = Outbox(member.state.outbox)
    counts = outbox.counts()
    outbox.close()
    assert counts["dead"] == 0
    missing = set(ids) - received
    assert len(missing) <= counts["pending"], f"{member.host}: {len(missing)} alerts were lost"
    return f"{len(ids)} alerts ({counts['pending']} pending)"
