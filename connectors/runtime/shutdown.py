"""Stop on SIGTERM, SIGINT and SIGHUP with a final snapshot, which Bytewax' own handling does not take."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from connectors.runtime.logs import get_logger
from connectors.runtime.platform import wakeup_pipe

__all__ = ["STOP_WITH_STDIN", "Interrupted", "Shutdown", "stop_with_stdin"]

STOP_WITH_STDIN: Final = "VOICEWATCH_STOP_WITH_STDIN"

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EXIT_CODE: Final = 143
COSTS: Final = (
    "the last snapshot may be missing: the next start then reads the journal again from the one before; "
    "nothing is lost, and a callback may be sent a second time"
)
SAME_REQUEST_S: Final = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal came while the main thread was `interruptible`."""


class Shutdown:
    """A stop request that sources poll. `requested` may also be set by the program itself.

    With a `shared` path, the processes of a cluster that see the same file system pass a request on: a process that
    receives a signal creates that file, and the process that runs the source, which alone can stop the flow, polls it.
    """

    def __init__(self, shared: Path | None = None, *, grace_s: float = 30.0) -> None:
        self.requested = threading.Event()
        self.signal: signal.Signals | None = None
        """The first signal that was received."""
        self._shared = shared
        self._grace_s = grace_s
        self._interruptible = False
        self.started: Callable[[], bool] | None = None
        """If given, returns whether there is work that a stop must end in order; if not, a signal ends the process."""
        self.relay: Callable[[], None] | None = None
        """If given, called with the first signal: passes the request on."""

    def reset(self) -> None:
        """Remove a request that is left from an earlier run. Call it in the process that runs the source."""
        if self._shared is not None:
            self._shared.unlink(missing_ok=True)

    def listen(self) -> None:
        """Check whether another process has requested a stop. Call it in the process that runs the source."""
        if self._shared is not None and self._shared.exists():
            self.requested.set()

    def on_signals(self) -> None:
        """Install handlers of SIGTERM, SIGINT and SIGHUP that request a stop. Call it in the main thread.

        SIGHUP stays ignored under nohup. If the process still runs `grace_s` seconds after a signal, or receives
        another one more than a second later, it ends at once with code 143. A stop that takes too long writes the
        stack of every thread to standard error.
        """
        # Python's own handlers run in the main thread, which Bytewax occupies; while it waits for peers it never
        # lets them. And a blocked signal would reach the threads that libraries start on import. The number that
        # the interpreter writes into the wakeup descriptor gets through from any thread, at once.
        readable, writable = wakeup_pipe()
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        threading.Thread(target=self._wait, args=(readable,), name="voicewatch-signals", daemon=True).start()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal interrupt the main thread in the block: raises Interrupted, also for a signal before it."""
        if self.signal is not None or self.requested.is_set():
            raise Interrupted
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Finish a part of an interruptible block first: a signal in the part raises Interrupted at its end."""
        before, self._interruptible = self._interruptible, False
        yield
        self._interruptible = before
        if before and self.signal is not None:
            raise Interrupted

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._note(signal.Signals(number))
        if self._interruptible:
            self._interruptible = False
            raise Interrupted

    def _note(self, number: signal.Signals) -> None:
        if self.signal is None:
            self.signal = number

    def _wait(self, readable: int) -> None:
        number = _next_signal(readable, None)
        assert number is not None
        self._note(number)
        log = get_logger(__name__)
        log.info("stopping", signal=number.name)
        self.requested.set()
        if self.started is not None and not self.started():
            os._exit(0)  # it waits for its peers, and holds nothing yet
        if self.relay is not None:
            self.relay()
        if self._shared is not None:
            with contextlib.suppress(OSError):  # not there, or full: the others stop when this process ends
                self._shared.touch(mode=0o600)
        # A service manager signals every process of a group, and a parent among them signals its children again.
        received_at = time.monotonic()
        while (again := _next_signal(readable, self._grace_s)) and time.monotonic() - received_at < SAME_REQUEST_S:
            pass
        if again is None:
            log.error("stop_took_too_long", grace_s=self._grace_s, costs=COSTS)
            faulthandler.dump_traceback(all_threads=True)  # what it still waited for
        else:
            log.error("stopped_at_once", why="a second signal came", costs=COSTS)
        os._exit(EXIT_CODE)


def stop_with_stdin(environ: Mapping[str, str]) -> None:
    """Stop this process as SIGTERM does when standard input ends, if STOP_WITH_STDIN is set in `environ`.

    A process that starts others keeps the other end, which the kernel closes however it ends.
    """
    if STOP_WITH_STDIN in environ:
        fd = sys.stdin.fileno()
        threading.Thread(target=_stop_at_end, args=(fd,), name="voicewatch-launcher", daemon=True).start()


def _stop_at_end(fd: int) -> None:
    while os.read(fd, 1024):
        pass
    get_logger(__name__).warning("launcher_ended")
    os.kill(os.getpid(), signal.SIGTERM)


def _next_signal(readable: int, timeout_s: float | None) -> signal.Signals | None:
    """Return the next of our signals, or None if none comes in time."""
    while select.select([readable], [], [], timeout_s)[0]:
        number = os.read(readable, 1)[0]
        if number in SIGNALS:
            return signal.Signals(number)
    return None
