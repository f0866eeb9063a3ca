"""The lines of `parts.jsonl` that one of several instances writes, read while it writes them; for who adds them up."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from pathlib import Path
from typing import Final

import msgspec

from connectors.errors import StateError
from connectors.state.files import last_line, state_errors
from connectors.state.results import daily_files
from flows.state import StateLayout

__all__ = ["PartsFile", "ServedParts", "time_of_part"]

READ_BYTES: Final = 1 << 20
READERS: Final = 8


class PartsFile:
    """The parts in a state directory, of all days.

    A run that is started again cuts the file back to its last snapshot and writes the same lines once more. So lines
    are known by their time: those up to the time that was reached before are skipped.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = StateLayout(directory).parts
        self._read: dict[int, int] = {}

    def copy(self) -> PartsFile:
        """Return another reader, which goes on where this one is."""
        other = PartsFile(self._directory)
        other._read = dict(self._read)
        return other

    def after(self, until: float) -> list[bytes]:
        """Return the next lines, of a time after `until`; some of them if they are many, none if there are no more.

        The time never goes back from one call to the next. Raises StateError for files that cannot be read, or have
        other contents.
        """
        try:
            return self._after(until)
        except StateError:  # perhaps other lines are in the place of those that were cut off
            self._read = {}
            return self._after(until)

    def _after(self, until: float) -> list[bytes]:
        with state_errors(f"reading {self._path}"), contextlib.suppress(FileNotFoundError):  # renamed, or not there yet
            files = self._files()
            if files != self._files():  # the day turns just now
                return []
            self._read = {number: self._read.get(number, -1) for number, _ in files}
            for number, path in files:
                while lines := self._next_lines(number, path, until):
                    if found := [line for line in lines if time_of_part(line, path) > until]:
                        return found
        return []

    def _files(self) -> list[tuple[int, Path]]:
        """Return the files by their numbers in the file system, which they keep when they are renamed; oldest first."""
        past = [path for path in daily_files(self._path).values() if path.suffix != ".gz"]
        paths = [*past, *([self._path] if self._path.exists() else [])]
        return [(path.stat().st_ino, path) for path in paths]

    def _next_lines(self, number: int, path: Path, until: float) -> list[bytes]:
        """Return whole lines from where the last call ended; from the beginning if the file was cut before that."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != number:
                raise FileNotFoundError(path)
            begin = self._read[number]
            if begin < 0 and path != self._path:  # of a past day, perhaps long over
                begin = (
                    status.st_size if time_of_part(last_line(file.fileno(), status.st_size)[1], path) <= until else 0
                )
            if not 0 <= begin <= status.st_size or (begin and os.pread(file.fileno(), 1, begin - 1) != b"\n"):
                begin = 0  # other lines are in the place of those that were cut off
            file.seek(begin)
            data = file.read(READ_BYTES)
            while b"\n" not in data and (more := file.read(READ_BYTES)):
                data += more
        whole = data[: data.rfind(b"\n") + 1]
        self._read[number] = begin + len(whole)
        return whole.splitlines(keepends=True)


class ServedParts:
    """Answers who asks again and again for the lines after the last one that it got; usable from any thread.

    For each of the last few times that it was asked for it remembers how far the files were read: also for another who
    asks for the same a moment later.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._readers: dict[float, PartsFile] = {}

    def after(self, until: float) -> bytes:
        """Return the next lines, of a time after `until`, as `PartsFile.after` does. Raises StateError."""
        with self._lock:
            known = self._readers.pop(until, None) or PartsFile(self._directory)
            reader = known.copy()
            lines = reader.after(until)
            reached = time_of_part(lines[-1], self._directory) if lines else until
            self._readers.pop(reached, None)  # so that both are the last to be forgotten
            self._readers |= {until: known, reached: reader}
            while len(self._readers) > READERS:
                del self._readers[next(iter(self._readers))]
        return b"".join(lines)


class _Until(msgspec.Struct, gc=False):
    """The time of a line, without the rest of it, which may be long."""

    until: float


_decode = msgspec.json.Decoder(_Until).decode


def time_of_part(line: bytes, source: object) -> float:
    """Return the time up to which a line tells; -inf for an empty one. Raises StateError, which names the `source`."""
    if not line:
        return -math.inf
    try:
        return _decode(line).until
    except msgspec.MsgspecError as error:
        raise StateError(f"{source}: is not a file of parts ({error}); is the directory right?") from error
