"""Keep a line at the bottom of the terminal that shows the state of a run; log lines go above it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO, cast

from connectors.callbacks.outbox import outbox_state
from connectors.runtime.threads import Periodic
from flows.dataflow import CountsSink

__all__ = ["Backlog", "StatusLine", "status_line"]

EVERY_S: Final = 1.0
# A run that keeps up has less than this of its journal to read, in bytes.
BACKLOG: Final = 4 << 20
CLEAR: Final = "\r\x1b[K"


class StatusLine:
    """Write to standard error, and keep one line at its end. Any thread may write and show."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._text = ""
        self._is_at_start = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write above the line. It is drawn again behind each newline."""
        with self._lock:
            if self._text and self._is_at_start:
                self._stream.write(CLEAR)
            written = self._stream.write(text)
            self._is_at_start = text.endswith("\n") if text else self._is_at_start
            if self._text and self._is_at_start:
                self._stream.write(self._text)
            self._stream.flush()
            return written

    def show(self, text: str) -> None:
        """Replace the line; an empty text removes it. It is cut at the width of the terminal."""
        with self._lock:
            columns = shutil.get_terminal_size().columns
            self._text = text[: columns - 1]
            if self._is_at_start:
                self._stream.write(CLEAR + self._text)
                self._stream.flush()


@contextmanager
def status_line(outbox: Path, now: Callable[[], float] = time.monotonic) -> Iterator[CountsSink]:
    """Show each second what a run has counted, if standard error is a terminal; provide where it counts."""
    totals = CountsSink()
    stream = sys.stderr
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield totals
        return
    line = StatusLine(stream)
    began, backlog = now(), Backlog(now)
    ticker = Periodic("voicewatch-line", EVERY_S, lambda: line.show(_text(totals, outbox, now() - began, backlog)))
    sys.stderr = cast("TextIO", line)
    ticker.start()
    try:
        yield totals
    finally:
        ticker.stop()
        line.show("")
        sys.stderr = stream


class Backlog:
    """Say how much of the journal is still to be read, as after a long stop: at which rate, and for how long."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began: tuple[float, int] | None = None

    def text(self, left: int) -> str:
        """Return the text for `left` bytes; "" if the run keeps up."""
        if left < BACKLOG:
            self._began = None
            return ""
        now = self._now()
        if self._began is None or left > self._began[1]:
            self._began = now, left
        began, first = self._began
        text = f"reading the journal: {left / 1e6:,.0f} MB left"
        if first == left:
            return text
        rate = (first - left) / max(now - began, 1e-3)
        return f"{text}, {rate / 1e6:,.1f} MB/s, {left / rate:,.0f} s"


def _text(totals: CountsSink, outbox: Path, up_s: float, backlog: Backlog) -> str:
    """Return the line: the time since the start, what is still to be read, counts, and callbacks."""
    counts = totals.total
    minutes, seconds = divmod(int(up_s), 60)
    up = f"up {minutes // 60}:{minutes % 60:02}:{seconds:02}"
    progress = totals.progress
    if progress is not None and progress.began.is_set():
        with suppress(OSError):  # a segment is being compressed or removed; the next second tells
            if reading := backlog.text(progress.lag().bytes):
                up = f"{up} | {reading}"
    if not any(counts):
        return f"{up} | starting: nothing was received yet"
    try:
        state = outbox_state(outbox, time.time())
    except sqlite3.Error:  # it is logged each minute, by the status of the run
        callbacks = "outbox unreadable"
    else:
        callbacks = f"callbacks {state.pending} pending, {state.dead} dead"
    return (
        f"{up} | {counts.frames:,} frames of {counts.conversations:,} conversations | {counts.windows:,} windows | "
        f"alerts {counts.raised:,} raised, {counts.resolved:,} resolved | {callbacks}"
    )
