"""The messages to a service manager, over a real datagram socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.runtime.systemd import Notifier, notify, watchdog_s


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        path = tmp_path / "notify"
        heard.bind(str(path))
        heard.settimeout(10)
        yield heard, {"NOTIFY_SOCKET": str(path)}


def test_a_message_arrives(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """A message is one datagram; without a socket, or with a dead one, nothing happens."""
    heard, environ = manager
    assert notify("READY=1", environ)
    assert heard.recv(100) == b"READY=1"
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": "/nowhere/at/all"})
    assert not notify("READY=1", {"NOTIFY_SOCKET": "relative"})


def test_an_abstract_socket_is_reached() -> None:
    """A name that begins with @ is in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"voicewatch-test-{os.getpid()}"
        heard.bind("\0" + name)
        assert notify("READY=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert heard.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_often_the_watchdog_wants_to_hear(environ: dict[str, str], expected: float | None) -> None:
    """Half of the time that systemd waits, if it waits for this process."""
    assert watchdog_s(environ, 7) == expected


def test_a_service_from_start_to_end(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """READY once, signs of life as long as it lives, STOPPING once."""
    heard, environ = manager
    ready, stopping, dead = threading.Event(), threading.Event(), threading.Event()
    notifier = Notifier(
        {**environ, "WATCHDOG_USEC": "20000"}, ready=ready, stopping=stopping, is_live=lambda: not dead.is_set()
    )
    notifier.start()
    assert heard.recv(100) == b"WATCHDOG=1"
    ready.set()
    while (message := heard.recv(100)) == b"WATCHDOG=1":
        pass
    assert message == b"READY=1"
    dead.set()
    stopping.set()
    while (message := heard.recv(100)) == b"WATCHDOG=1":
        pass
    assert message == b"STOPPING=1"
    notifier.stop()
    assert not notifier.is_alive()
