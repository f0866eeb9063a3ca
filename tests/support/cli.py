"""The `voicewatch` command in processes of their own, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.callbacks import eventually

__all__ = ["DEADLINE_S", "ROOT", "SECRET", "Running", "configuration", "running", "several", "voicewatch"]

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 60.0
SECRET = "the-client-secret-that-must-stay-secret"
_COMMAND = "import sys; sys.argv[0] = 'voicewatch'; from flows.cli import main; main()"
_SEVERAL = """
import contextlib, io, json, sys
from flows.cli import main

results = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["voicewatch", *arguments]
    code = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as exit:
            code = exit.code
    results.append([arguments, code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
_BASE = {
    "GENESYS_CLIENT_ID": "client",
    "GENESYS_CLIENT_SECRET": SECRET,
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
}


def environ(more: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of a command: credentials and nothing of ours that the tests' own environment holds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VOICEWATCH_", "GENESYS_"))}
    return {name: value for name, value in {**kept, **_BASE, **more}.items() if value is not None}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", _COMMAND, *map(str, arguments)]


def voicewatch(*arguments: object, cwd: Path | None = None, **more: str | None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; keywords are variables of its environment, None for one that is not set."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environ(more), capture_output=True, text=True, timeout=DEADLINE_S
    )


def several(commands: Sequence[Sequence[object]], **more: str | None) -> list[subprocess.CompletedProcess[str]]:
    """Run commands one after the other in one process, which saves the imports; as if each had its own."""
    arguments = json.dumps([[str(argument) for argument in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL, arguments],
        env=environ(more),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stderr == ""
    return [subprocess.CompletedProcess(*each) for each in json.loads(done.stdout)]


@dataclass
class Running:
    """A command that runs; what it prints goes into files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.out.read_text()

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.err.read_text()

    def wait_for_log(self, text: str) -> None:
        """Wait until it has logged something, or fail with what it did log."""
        eventually(lambda: text in self.log or self.process.poll() is not None, DEADLINE_S)
        assert text in self.log, self.log

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def running(directory: Path, *arguments: object, **more: str | None) -> Iterator[Running]:
    """A command while it runs; it is killed at the end if it is still there."""
    with started(directory, command(*arguments), **more) as process:
        yield process


@contextlib.contextmanager
def started(directory: Path, arguments: Sequence[str], **more: str | None) -> Iterator[Running]:
    """Any process while it runs; it is killed at the end if it is still there."""
    number = len(list(directory.glob("process-*.out")))
    out, err = (directory / f"process-{number}.{stream}" for stream in ("out", "err"))
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(arguments, cwd=directory, env=environ(more), stdout=stdout, stderr=stderr)
    try:
        yield Running(process, out, err)
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def configuration(path: Path, tables: Mapping[str, Any]) -> Path:
    """Write a configuration: tables of keys, and lists of tables under `interceptor`."""
    lines: list[str] = []
    for name, table in tables.items():
        rows = table if isinstance(table, list) else [table]
        for row in rows:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in row.items()]
    path.write_text("\n".join([*lines, ""]))
    return path


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\") + '"'
