"""Calls of Linux are in one module, which does the same by other means where they are missing."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from pathlib import Path

import pytest

from connectors.runtime.platform import dead_peer_options, memory_file, open_files, sync_data, wakeup_pipe, widen_pipe
from tests.support.cli import ROOT

LINUX_ONLY = re.compile(
    r"fdatasync|memfd_create|pipe2|SOCK_CLOEXEC|SOCK_NONBLOCK|TCP_KEEPIDLE|TCP_USER_TIMEOUT|F_SETPIPE_SZ|/proc\b"
    r"|O_TMPFILE\b.*\(|posix_fadvise|eventfd|pidfd_open|sched_setaffinity|sched_getaffinity|copy_file_range|epoll"
    r"|timerfd|CLOCK_BOOTTIME|CLOCK_MONOTONIC_COARSE|O_DIRECT\b|getxattr|sendfile|splice"
)
OWNER = ROOT / "connectors/runtime/platform.py"


def test_no_other_module_names_a_call_of_linux() -> None:
    """What macOS does not have is used through `connectors.runtime.platform` only."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for top in ("connectors", "flows")
        for path in sorted((ROOT / top).rglob("*.py"))
        if path != OWNER
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LINUX_ONLY.search(line.partition("#")[0])
    ]
    assert found == []


@pytest.fixture(params=["linux", "elsewhere"])
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system as it is, and without the calls that only Linux has."""
    if request.param == "elsewhere":
        for module, name in (
            (os, "fdatasync"),
            (os, "memfd_create"),
            (os, "pipe2"),
            (socket, "TCP_USER_TIMEOUT"),
            (fcntl, "F_SETPIPE_SZ"),
        ):
            monkeypatch.delattr(module, name, raising=False)


@pytest.mark.usefixtures("_system")
def test_a_memory_file_has_no_path() -> None:
    """It holds what is written, and nothing of it is left in a directory."""
    fd = memory_file("segment")
    os.write(fd, b"text")
    sync_data(fd)
    assert os.pread(fd, 10, 0) == b"text"
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


@pytest.mark.usefixtures("_system")
def test_a_wakeup_pipe_does_not_block() -> None:
    """Reading from it before a write fails at once; child processes do not get it."""
    readable, writable = wakeup_pipe()
    with pytest.raises(BlockingIOError):
        os.read(readable, 1)
    assert not os.get_inheritable(readable)
    assert not os.get_inheritable(writable)
    widen_pipe(writable, 1 << 16)
    os.write(writable, b"x")
    assert os.read(readable, 10) == b"x"
    os.close(readable)
    os.close(writable)


@pytest.mark.usefixtures("_system")
def test_a_socket_takes_the_options() -> None:
    """A connection can be given every option that is returned."""
    with socket.socket() as connection:
        for option in dead_peer_options(10):
            connection.setsockopt(*option)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_open_files_are_listed(tmp_path: Path) -> None:
    """A process sees its own descriptors; a process that has ended gives an empty list."""
    with (tmp_path / "file").open("wb") as file:
        assert str(file.fileno()) in {path.name for path in open_files()}
    assert open_files(2**22 + 1) == []
