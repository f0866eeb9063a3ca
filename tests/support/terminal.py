"""Commands on a terminal: a pseudo-terminal of a given width, and what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.callbacks import eventually
from tests.support.cli import DEADLINE_S, command, environ

__all__ = ["Terminal", "on_terminal"]


class Terminal:
    """A command whose standard output and error are a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def shown(self) -> str:
        """Everything that was written so far."""
        return self._data.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, text: str) -> None:
        """Wait until a text was written."""
        eventually(lambda: text in self.shown, DEADLINE_S)

    def interrupt(self) -> int:
        """Send SIGINT, and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end, and return the exit status."""
        code = self.process.wait(DEADLINE_S)
        self._thread.join(DEADLINE_S)
        return code

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # as a terminal answers when its last process has ended
            while data := os.read(self._master, 65536):
                self._data += data


@contextlib.contextmanager
def on_terminal(
    *arguments: object,
    columns: int,
    lines: int = 40,
    cwd: Path | None = None,
    script: str | None = None,
    stdout: int | None = None,
    **more: str,
) -> Iterator[Terminal]:
    """Run a command, or a script in Python, on a terminal of a size; it is killed at the end if it goes on.

    Standard output is the terminal, or the given file. Keywords are variables of its environment.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    kept = {name: value for name, value in environ({}).items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command(*arguments) if script is None else [sys.executable, "-c", script],
        stdin=slave,
        stdout=slave if stdout is None else stdout,
        stderr=slave,
        cwd=cwd,
        env={**kept, "TERM": "xterm-256color", **more},
    )
    os.close(slave)
    terminal = Terminal(process, master)
    try:
        yield terminal
    finally:
        if process.poll() is None:
            process.kill()
        terminal.ended()
        os.close(master)
