"""The segments of a journal: their names and order, and a reader that follows them while they are written."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from backports import zstd

from connectors.errors import StateError
from connectors.runtime.platform import memory_file
from connectors.state.files import replace_durably, state_errors

__all__ = [
    "COMPRESSED",
    "SUFFIX",
    "JournalTail",
    "Position",
    "RetentionWatermark",
    "begin_of",
    "bytes_behind",
    "compress",
    "number_of",
    "segments",
    "size_of",
    "tidy",
]

SUFFIX: Final = ".jsonl"
COMPRESSED: Final = ".zst"


class Position(NamedTuple):
    """A place between two lines: the segment's name, the offset in it in bytes, the number of lines before it."""

    segment: str
    offset: int = 0
    lines: int = 0


def number_of(segment: str) -> int:
    """Return the number of a segment, from its name."""
    return int(segment.partition(".")[0])


def segments(directory: Path) -> list[Path]:
    """Return the segments of a journal, oldest first; one that is both plain and compressed is listed plain."""
    found = {
        path.name.removesuffix(COMPRESSED): path
        for pattern in (f"*{SUFFIX}{COMPRESSED}", f"*{SUFFIX}")
        for path in directory.glob(pattern)
        if path.name.partition(".")[0].isdigit()
    }
    return [found[name] for name in sorted(found)]


def begin_of(directory: Path) -> float | None:
    """Return the time of the first record of a journal, epoch seconds; None without one. Raise StateError."""
    from connectors.format.lines import line_time  # NumPy, which `status` does without

    for segment in segments(directory):
        opened = zstd.open if segment.suffix == COMPRESSED else open
        with state_errors(f"reading {segment}"), opened(segment, "rb") as lines:
            begin = next((time for line in lines if (time := line_time(line)) is not None), None)
        if begin is not None:
            return begin
    return None


def bytes_behind(directory: Path, position: Position) -> int:
    """Return the bytes of a journal that follow a place, by the sizes of its segments. Raise OSError.

    What is left of a compressed segment is not known: it counts as read.
    """
    behind = -position.offset
    for segment in segments(directory):
        if position.segment and number_of(segment.name) >= number_of(position.segment):
            packed = segment.suffix == COMPRESSED
            behind += position.offset if packed and segment.name.startswith(position.segment) else size_of(segment)
    return max(behind, 0)


def size_of(file: Path) -> int:
    """Return the size of a file in bytes; 0 if it was removed meanwhile."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


class JournalTail:
    """Reads a journal while it is written, complete lines only. Raises StateError where its place is gone."""

    def __init__(self, directory: Path, position: Position | None) -> None:
        self._directory = directory
        self._fd = -1
        self.position = position or Position(segments(directory)[0].name.removesuffix(COMPRESSED))
        self._open()

    def read(self, max_bytes: int) -> tuple[Position, bytes]:
        """Return the next complete lines, about `max_bytes` at most, with the place of the first; b"" for none yet."""
        while True:
            begin = self.position
            with state_errors(f"reading the journal segment {begin.segment}"):
                data = os.pread(self._fd, max_bytes, begin.offset)
            end = data.rfind(b"\n") + 1
            if end:
                data = data[:end]
                self.position = Position(begin.segment, begin.offset + end, begin.lines + data.count(b"\n"))
                return begin, data
            if len(data) == max_bytes:
                max_bytes *= 2  # a line that is longer than that
            elif not self._next_segment(seen=begin.offset + len(data)):
                return begin, b""

    def close(self) -> None:
        """Close the segment being read."""
        os.close(self._fd)

    def _next_segment(self, *, seen: int) -> bool:
        """Leave a segment that was read up to `seen`, if another follows; False if there is nothing to read yet."""
        if not (os.path.exists(self._following) or os.path.exists(self._following + COMPRESSED)):  # noqa: PTH110
            return False  # asked after every block, so without the cost of a Path
        if os.fstat(self._fd).st_size > seen:
            return True  # it grew before it was left
        os.close(self._fd)
        self.position = Position(os.path.basename(self._following))  # noqa: PTH119
        self._open()
        return True

    def _open(self) -> None:
        path = self._directory / self.position.segment
        self._following = str(path.with_name(f"{number_of(path.name) + 1:08d}{SUFFIX}"))
        packed = path.with_name(path.name + COMPRESSED)
        if not path.exists() and not packed.exists():
            raise StateError(
                f"the journal segment {path} is gone, and the recovery state goes on from it; put it back, "
                "or move the recovery directory away to go through the journal that is left from its beginning"
            )
        with state_errors(f"opening the journal segment {path}"):
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path.exists() else _unpacked(packed)
            if os.fstat(self._fd).st_size < self.position.offset:
                raise StateError(
                    f"the journal segment {path} is shorter than what has been read of it; it was cut after a power "
                    "loss or by hand. Move the recovery directory away to go through the journal from its beginning"
                )


def _unpacked(path: Path) -> int:
    """Return a descriptor of a compressed segment's text, in memory."""
    fd = memory_file(path.name)
    with zstd.open(path) as packed, os.fdopen(os.dup(fd), "wb") as text:
        try:
            shutil.copyfileobj(packed, text, CHUNK_BYTES)
        except (EOFError, zstd.ZstdError) as error:
            os.close(fd)
            raise StateError(f"the journal segment {path} is damaged ({error}); restore it from a backup") from error
    return fd


LEVEL: Final = 3
CHUNK_BYTES: Final = 1 << 20
SNAPSHOTS_BACK: Final = 10


class RetentionWatermark:
    """The oldest segment that a restart may still need.

    Bytewax resumes from the last epoch that every worker has written down, which is behind the latest snapshot, and a
    power loss may set it back a little more. So a segment counts as left behind only some snapshots later.
    """

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=SNAPSHOTS_BACK)

    def note(self, segment: str) -> None:
        """Note that a snapshot was taken in this segment."""
        self._recent.append(number_of(segment))

    @property
    def number(self) -> int:
        """Return the number below which segments are not needed; 0 while that is not known."""
        return self._recent[0] if len(self._recent) == SNAPSHOTS_BACK else 0


def tidy(directory: Path, below: int, expired: Collection[int]) -> None:
    """Compress the segments numbered below `below`, and remove those of them that are `expired`. Raises OSError."""
    for segment in segments(directory):
        if number_of(segment.name) >= below:
            return
        if number_of(segment.name) in expired:
            segment.unlink()
        elif segment.suffix != COMPRESSED:
            compress(segment)


def compress(segment: Path) -> Path:
    """Replace a segment by its Zstandard form, with the same time of last change, and return its path.

    The plain file is removed only when the compressed one is on the disk under its name. Raises OSError.
    """
    target = segment.with_name(segment.name + COMPRESSED)
    status = segment.stat()

    def write(descriptor: int) -> None:
        with (
            segment.open("rb") as plain,
            os.fdopen(os.dup(descriptor), "wb") as file,
            zstd.open(file, "wb", level=LEVEL) as packed,
        ):
            shutil.copyfileobj(plain, packed, CHUNK_BYTES)
        os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))

    os.close(replace_durably(target, write))
    segment.unlink()
    return target
