"""Stopping on SIGTERM and SIGINT with a last snapshot, which Bytewax' own handling does not take."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from pathlib import Path
from typing import Final

from connectors.runtime.logs import get_logger

__all__ = ["Shutdown"]

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
EXIT_CODE: Final = 143
SAME_WISH_S: Final = 1.0


class Shutdown:
    """A wish to stop, which sources look at. `requested` may also be set by the program itself.

    With a `shared` path, the processes of a cluster that see the same file system pass a signal on: whoever gets one
    leaves a file there, and the process that holds the source, which alone can stop the flow, finds it.
    """

    def __init__(self, shared: Path | None = None, *, grace_s: float = 30.0) -> None:
        self.requested = threading.Event()
        self._shared = shared
        self._grace_s = grace_s

    def reset(self) -> None:
        """Forget a wish that was left for an earlier run. To be called by the process that holds the source."""
        if self._shared is not None:
            self._shared.unlink(missing_ok=True)

    def listen(self) -> None:
        """Look whether another process has left the wish. To be called by the process that holds the source."""
        if self._shared is not None and self._shared.exists():
            self.requested.set()

    def on_signals(self) -> None:
        """Let SIGTERM and SIGINT express the wish, in this process. To be called in the main thread.

        If the process is still there `grace_s` seconds after a signal, or gets another one that is not merely the same
        wish told twice, within a second, it ends at once with code 143.
        """
        # Python's own handlers run in the main thread, which Bytewax occupies; while it waits for peers it never
        # lets them. And a blocked signal would reach the threads that libraries start on import. The number that
        # the interpreter writes into the wakeup descriptor gets through from any thread, at once.
        heard, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda _number, _frame: None)
        threading.Thread(target=self._wait, args=(heard,), name="voicewatch-signals", daemon=True).start()

    def _wait(self, heard: int) -> None:
        signal_name = _next_signal(heard, None)
        log = get_logger(__name__)
        log.info("stopping", signal=signal_name)
        self.requested.set()
        if self._shared is not None:
            with contextlib.suppress(OSError):  # not there, or full: the others stop when this process ends
                self._shared.touch(mode=0o600)
        # A service manager tells every process of a group, and a parent among them tells its children again.
        told_at = time.monotonic()
        while (again := _next_signal(heard, self._grace_s)) and time.monotonic() - told_at < SAME_WISH_S:
            pass
        if again is None:
            log.error("stop_took_too_long", grace_s=self._grace_s)
        else:
            log.error("stopped_at_once", why="a second signal came")
        os._exit(EXIT_CODE)


def _next_signal(heard: int, timeout_s: float | None) -> str | None:
    """The name of the next of our signals, or None if there is none for so long."""
    while select.select([heard], [], [], timeout_s)[0]:
        number = os.read(heard, 1)[0]
        if number in SIGNALS:
            return signal.Signals(number).name
    return None
