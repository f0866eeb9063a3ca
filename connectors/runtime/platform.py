"""Calls that only Linux has, each with what other systems offer instead. No other module names one of them.

| function | Linux | elsewhere |
|---|---|---|
| `sync_data` | `fdatasync` | macOS: `F_FULLFSYNC`; otherwise `fsync` |
| `memory_file` | `memfd_create` | an unlinked temporary file |
| `wakeup_pipe` | `pipe2` | `pipe`, then non-blocking |
| `dead_peer_options` | keepalive and `TCP_USER_TIMEOUT` | keepalive; a write to a dead host fails late |
| `open_files` | `/proc` | `/dev/fd` for this process, nothing for others |
| `widen_pipe` | `F_SETPIPE_SZ` | the pipe keeps its size |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path
from typing import Final

__all__ = ["dead_peer_options", "memory_file", "open_files", "sync_data", "wakeup_pipe", "widen_pipe"]

_PROC: Final = Path("/proc")


def sync_data(fd: int) -> None:
    """Bring the data of a file to the disk, and what of its metadata is needed to read them. Raise OSError."""
    sync = getattr(os, "fdatasync", None)
    if sync is not None:
        sync(fd)
    elif (full := getattr(fcntl, "F_FULLFSYNC", None)) is not None:
        fcntl.fcntl(fd, full)  # fsync of macOS leaves data in the cache of the disk
    else:
        os.fsync(fd)


def memory_file(name: str) -> int:
    """Return the descriptor of a new file without a path, in memory where the system can. Raise OSError."""
    create = getattr(os, "memfd_create", None)
    if create is not None:
        return int(create(name))
    import tempfile

    fd, path = tempfile.mkstemp(prefix=f"{name}-")
    os.unlink(path)  # noqa: PTH108 - a text, not a Path
    return fd


def wakeup_pipe() -> tuple[int, int]:
    """Return the ends of a non-blocking pipe that child processes do not inherit."""
    pipe = getattr(os, "pipe2", None)
    if pipe is not None:
        readable, writable = pipe(os.O_NONBLOCK | os.O_CLOEXEC)
        return readable, writable
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    return readable, writable


def dead_peer_options(after_s: int) -> list[tuple[int, int, int]]:
    """Return the socket options, each with its level and value, by which a connection to a dead host fails.

    Where the system has all of them, within `after_s` seconds.
    """
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    wanted = {idle: 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": after_s * 1000}
    known = {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
    keepalive = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return [keepalive, *((socket.IPPROTO_TCP, option, value) for option, value in known.items())]


def open_files(process: int | None = None) -> list[Path]:
    """Return a path for each descriptor of a process, by default this one; none where that cannot be seen."""
    directory = _PROC / ("self" if process is None else str(process)) / "fd"
    if process is None and not directory.exists():
        directory = Path("/dev/fd")
    try:
        return list(directory.iterdir())
    except OSError:  # the process has ended
        return []


def widen_pipe(fd: int, size: int) -> None:
    """Let a pipe hold `size` bytes, if the system allows it."""
    command = getattr(fcntl, "F_SETPIPE_SZ", None)
    if command is not None:
        with contextlib.suppress(OSError):  # above the limit of this user: the pipe works as it is
            fcntl.fcntl(fd, command, size)
