"""Explain in one line why standard output cannot be written: a full disk, a closed pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from connectors.errors import VoicewatchError

__all__ = ["OutputError", "explained_output"]

CLOSED_PIPE_EXIT = 141  # as of a process that SIGPIPE ended


class OutputError(VoicewatchError):
    """Report that standard output cannot be written."""


class _Output:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _explained(self._stream):
            return self._stream.write(text)

    def flush(self) -> None:
        with _explained(self._stream):
            self._stream.flush()


@contextmanager
def _explained(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _discard(stream)
        sys.exit(CLOSED_PIPE_EXIT)
    except OSError as error:
        _discard(stream)
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from error


def _discard(stream: TextIO) -> None:
    """Send what is still buffered to /dev/null, where it cannot fail again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


@contextmanager
def explained_output() -> Iterator[None]:
    """Raise OutputError for errors of standard output in the block, including those of its last flush."""
    stream = sys.stdout
    sys.stdout = cast(TextIO, _Output(stream))
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        finally:
            sys.stdout = stream
