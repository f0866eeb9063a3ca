"""Follow files of JSON lines while they are written: complete lines only, a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from backports import zstd

from connectors.journal.segments import COMPRESSED, number_of, segments

__all__ = ["CHUNK_BYTES", "JournalFollower", "LinesFollower", "compressed_lines"]

# A piece takes about a millisecond to decode, after which other threads may run.
CHUNK_BYTES: Final = 64 * 1024


class LinesFollower:
    """Read a growing file of lines; it need not exist yet, and a renamed one is read to its end first.

    `start` is the offset of the first line that is wanted.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path = path
        self._fd = -1
        self.offset = start

    def read(self) -> tuple[int, bytes]:
        """Return the offset and the bytes of the next complete lines, b"" for none. Raises OSError.

        Raises EOFError if the file became shorter than what was read, as a resumed run makes it.
        """
        if self._fd < 0 and not self._open():
            return self.offset, b""
        size = CHUNK_BYTES
        while True:
            begin = self.offset
            data = os.pread(self._fd, size, begin)
            end = data.rfind(b"\n") + 1
            if end:
                self.offset = begin + end
                return begin, data[:end]
            if len(data) == size:
                size *= 2
                continue
            if os.fstat(self._fd).st_size < begin:
                raise EOFError(str(self._path))
            if not self._replaced():
                return begin, b""
            self.close()
            self.offset = 0
            self._open()

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _replaced(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False


class JournalFollower:
    """Read a journal from one of its segments on, plain or compressed, and the segments that follow.

    `place` is the plain segment and the offset in it of what was read last; None for a compressed one.
    """

    def __init__(self, directory: Path, first: str = "") -> None:
        self._directory = directory
        self._name = first
        self._lines: LinesFollower | None = None
        self.place: tuple[str, int] | None = None
        self._unpacked: Iterator[bytes] | None = None

    def read(self) -> bytes:
        """Return the next complete lines, b"" for none yet. Raises OSError, zstd.ZstdError and EOFError."""
        while True:
            if self._lines is None and self._unpacked is None and not self._next():
                return b""
            if self._unpacked is not None:
                data = next(self._unpacked, b"")
                if data:
                    self.place = None
                    return data
                self._unpacked = None
                continue
            assert self._lines is not None
            try:
                data = self._next_lines(self._lines)
            except EOFError:
                self.close()
                raise
            if data:
                return data
            if not self._following():
                return b""
            if data := self._next_lines(self._lines):  # what was written before the next segment began
                return data
            self._lines.close()
            self._lines = None

    def close(self) -> None:
        """Close the segment that is being read."""
        if self._lines is not None:
            self._lines.close()
        self._lines = self._unpacked = None

    def _next_lines(self, lines: LinesFollower) -> bytes:
        begin, data = lines.read()
        self.place = self._name, begin
        return data

    def _following(self) -> list[Path]:
        return [path for path in segments(self._directory) if self._is_after(path)]

    def _is_after(self, path: Path) -> bool:
        return not self._name or number_of(path.name) > number_of(self._name)

    def _next(self) -> bool:
        if not self._directory.is_dir():
            return False
        following = self._following()
        if not following:
            return False
        path = following[0]
        self._name = path.name
        if path.suffix == COMPRESSED:
            self._unpacked = compressed_lines(path)
        else:
            self._lines = LinesFollower(path)
        return True


def compressed_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a compressed segment, in pieces."""
    rest = b""
    with zstd.open(path) as stream:
        while piece := stream.read(CHUNK_BYTES):
            data = rest + piece
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if end:
                yield data[:end]
