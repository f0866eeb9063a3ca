"""Type the commands of a documentation page as a new user would: in one directory, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from connectors.genesys.simulator.voice_events import running_simulator
from tests.support.pages import FILES, ROOT, Command

__all__ = ["Result", "Session", "environment", "make_plan", "try_commands"]

DEADLINE_S = 90.0
LONG_RUNNING = (
    "voicewatch demo ",
    "voicewatch run ",
    "voicewatch cluster ",
    "voicewatch simulate ",
    "python -m bytewax.run ",
)


@dataclass(frozen=True)
class Result:
    """The exit code and the output of a command."""

    code: int
    stdout: str
    stderr: str


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def environment(scratch: Path) -> dict[str, str]:
    """Return the environment of a new user with `voicewatch` and `python` on the path."""
    commands = scratch / "bin"
    commands.mkdir()
    voicewatch = commands / "voicewatch"
    voicewatch.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from flows.cli import main; main()" "$@"\n')
    voicewatch.chmod(0o700)
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG") if name in os.environ}
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT)}


class Process:
    """A command that runs until it is stopped; its output is in files."""

    def __init__(self, command: str, exports: list[str], scratch: Path, environ: dict[str, str]) -> None:
        self._out, self._err = (scratch / f".{time.monotonic_ns()}.{kind}" for kind in ("out", "err"))
        script = "\n".join([*exports, f"exec {command}"])
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(["bash", "-c", script], cwd=scratch, env=environ, stdout=out, stderr=err)

    def stdout(self) -> str:
        return self._out.read_text()

    def stderr(self) -> str:
        return self._err.read_text()

    def result(self) -> Result:
        return Result(self.popen.wait(DEADLINE_S), self.stdout(), self.stderr())


def eventually(happened: Callable[[], bool], what: str, running: Iterable[Process]) -> None:
    """Wait until something has happened; fail immediately if a process that is needed for it ends first."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        for process in running:
            assert process.popen.poll() is None, f"ended before {what}: {process.result()}"
        time.sleep(0.02)


class Session:
    """A user in one directory who types commands one after the other."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.directory = directory
        self.results: dict[Command, Result] = {}
        self._environ = environ
        self._exports: list[str] = []
        self._audited_before = ""
        self._ports: dict[str, str] = {}
        (directory / "tests").mkdir()
        (directory / "tests" / "data").symlink_to(ROOT / "tests" / "data")
        for name, text in FILES.items():
            (directory / name).write_text(self._with_free_ports(text))

    def type(self, commands: list[Command]) -> None:
        """Run the commands of one block. Stop long-running ones with SIGTERM: before the next command, or at the end of
        the block if the page runs them in the background.
        """
        running: dict[Command, Process] = {}
        try:
            for command in commands:
                text = self._with_free_ports(command.text)
                if not text.startswith(LONG_RUNNING):
                    self.results[command] = self._run(text)
                    continue
                self._audited_before = self._audit_log()
                running[command] = Process(text.removesuffix("&"), self._exports, self.directory, self._environ)
                self._await_ready(text, list(running.values()))
                if not text.endswith("&") and command is not commands[-1]:
                    self._stop({command: running.pop(command)})
        finally:
            self._stop(running)

    def _with_free_ports(self, text: str) -> str:
        # Choose a port when it is first needed: the longer it is unused, the likelier another process takes it.
        return re.sub(
            r"\b(8080|9090|9464|2101|2102)\b", lambda port: self._ports.setdefault(port[0], free_port()), text
        )

    def _run(self, text: str) -> Result:
        if text.startswith("make "):
            return make_plan(*shlex.split(text)[1:])
        script = "\n".join([*self._exports, text])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        if text.startswith("export "):
            self._exports.append(text)
        return Result(done.returncode, done.stdout, done.stderr)

    def _await_ready(self, text: str, running: list[Process]) -> None:
        def audited(action: str) -> bool:
            return self._audit_log().count(action) > self._audited_before.count(action)

        def incident_is_over() -> bool:
            log = running[-1].stderr()
            return "rule=PACKET_LOSS_DETECTED" in log and bool(re.search(r"alert_resolved .*rule=GROUP_DEGRADED", log))

        if "demo" in text:  # however long that takes: on a busy machine all calls are late
            eventually(incident_is_over, "the incident of the edge is over", running)
        elif "simulate" in text:
            eventually(lambda: running[-1].stdout().endswith("}\n"), "the simulator is ready", running)
        elif "local.toml" in text:  # the page continues with the content of the outbox
            eventually(lambda: audited("CALLBACK_FAILED"), "a callback is refused", running)
        elif not text.endswith("&"):  # a process of a cluster in the background waits for the others
            eventually(lambda: audited("FEED_UP"), "the feed is up", running)

    def _audit_log(self) -> str:
        path = self.directory / "state" / "audit.jsonl"
        return path.read_text() if path.exists() else ""

    def _stop(self, processes: dict[Command, Process]) -> None:
        for process in processes.values():
            process.popen.send_signal(signal.SIGTERM)
        for command, process in processes.items():
            try:
                self.results[command] = process.result()
            finally:
                process.popen.kill()


def make_plan(*targets: str) -> Result:
    """Return what `make` would do, without doing it; it fails for a target that does not exist."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-n", *targets], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=DEADLINE_S
    )
    return Result(done.returncode, done.stdout, done.stderr)


def try_commands(commands: list[Command], scratch: Path, *, simulated: bool = False) -> Session:
    """Type commands block by block; with `simulated`, a simulator takes the place of Genesys itself."""
    environ = environment(scratch)
    with ExitStack() as stack:
        if simulated:
            environ["VOICEWATCH_GENESYS__BASE_URL"] = stack.enter_context(running_simulator()).base_url
        session = Session(scratch, environ)
        for block in dict.fromkeys(command.block for command in commands):
            session.type([command for command in commands if command.block == block])
        return session
