"""Telling systemd how a service of `Type=notify` is: sd_notify(3), which is a datagram to the socket it names."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Final

from connectors.runtime.logs import get_logger

__all__ = ["Notifier", "notify", "watchdog_s"]

LOOK_EVERY_S: Final = 1.0


def notify(message: str, environ: Mapping[str, str]) -> bool:
    """Send a message such as `READY=1` to NOTIFY_SOCKET; return False if the socket is unset or unreachable."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path  # @ stands for the abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, contextlib.suppress(OSError):
        told.settimeout(0)  # a manager that does not listen must not hold up anything
        told.sendto(message.encode(), address)
        return True
    get_logger(__name__).warning("systemd_not_told", message=message)
    return False


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds between signs of life of process `pid`, half of WATCHDOG_USEC; None if systemd wants none."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isdigit() or int(usec) == 0 or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 2e6


class Notifier(threading.Thread):
    """Tells systemd READY=1 once `ready` is set, WATCHDOG=1 as long as `is_live()`, STOPPING=1 once `stopping` is set.

    Does nothing where NOTIFY_SOCKET is not set.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        ready: threading.Event,
        stopping: threading.Event,
        is_live: Callable[[], bool],
    ) -> None:
        super().__init__(name="voicewatch-systemd", daemon=True)
        self._environ = environ
        self._ready = ready
        self._stopping = stopping
        self._is_live = is_live
        self._stopped = threading.Event()

    def run(self) -> None:
        """Tell until stopped."""
        interval_s = watchdog_s(self._environ, os.getpid())
        pause_s = LOOK_EVERY_S if interval_s is None else min(LOOK_EVERY_S, interval_s)
        told_ready = told_stopping = False
        while True:
            if not told_ready and self._ready.is_set():
                told_ready = notify("READY=1", self._environ)
            if not told_stopping and self._stopping.is_set():
                told_stopping = notify("STOPPING=1", self._environ)
            if interval_s is not None and self._is_live():
                notify("WATCHDOG=1", self._environ)
            if self._stopped.wait(pause_s):
                return

    def stop(self) -> None:
        """Stop telling."""
        self._stopped.set()
        self.join()
