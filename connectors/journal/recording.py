"""Recordings: journals, or files of bare frames, plain or compressed, read as one journal in order of time."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, cast

from backports import zstd

from connectors.errors import RecordingError
from connectors.format.captures import as_lines, description_of
from connectors.format.lines import line_time
from connectors.journal.segments import number_of

__all__ = ["UTF8_MARK", "Progress", "Recording", "no_progress", "read_again"]

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
UTF8_MARK: Final = b"\xef\xbb\xbf"
# Takes how many bytes of how many are done.
Progress = Callable[[int, int], None]
HEAD_BYTES: Final = 1 << 20
SNIFF_BYTES: Final = 1 << 12
_EXPORTS: Final = (b'"conversationStart"', b'"conversations"')
_QUEUE: Final = re.compile(rb'\{\s*"(Messages|Records)"\s*:\s*\[')
SEGMENT_NAME: Final = re.compile(r"[0-9]{8,}\.jsonl(\.zst)?")
LINES_BYTES: Final = 1 << 16


def no_progress(done: int, total: int) -> None:
    """Take that bytes are done, and show nothing."""


class Recording:
    """Files as segments of one journal, ordered by their first record.

    Raises RecordingError, naming the file, for one that cannot be read, is empty or is not UTF-8, and for two that
    overlap in time.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        # A crash or a power loss may leave a journal with an empty segment, which says nothing.
        spans = [_Span(path) for path in paths if len(paths) == 1 or not _is_empty(path)]
        if paths and not spans:
            raise RecordingError(f"{paths[0]}: the file is empty, and so are the others; there is nothing to replay")
        # In a journal whose clock was set back, the numbers of the segments tell their order, and their times do not.
        ordered = sorted(spans, key=_number)
        if not all(map(_number, spans)) or _overlap(ordered):
            ordered = sorted(spans, key=lambda span: (span.begin, str(span.path)))
            if (overlap := _overlap(ordered)) is not None:
                earlier, later = overlap
                raise RecordingError(
                    f"{earlier} and {later} overlap in time; replay them one at a time, or join captures of several "
                    "feeds in order of time: jq -cs 'sort_by(.received_at // .receivedAt // .timestamp)[]' FILE..."
                )
        self.paths = [span.path for span in ordered]
        self._sizes = [path.stat().st_size for path in self.paths]
        self._done = 0

    @property
    def progress(self) -> tuple[int, int]:
        """Return how many bytes of the files, as they lie on the disk, `chunks` has read, and how many they have."""
        return self._done, sum(self._sizes)

    def chunks(self, index: int, offset: int, size: int) -> Iterator[bytes]:
        """Yield file `index` from a byte offset of its text on, as chunks of complete lines of about `size` bytes."""
        path = self.paths[index]
        try:
            with _open(path) as stream:
                _skip(stream, offset)
                before = sum(self._sizes[:index])
                while data := stream.read(_to_line_end(stream, size)):
                    self._done = before + _place(stream, self._sizes[index])
                    yield data if data.endswith(b"\n") else data + stream.readline()
        except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
            raise _unreadable(path, error) from error

    def lines(self, index: int) -> Iterator[bytes]:
        """Yield the lines of file `index`, without a byte order mark. Raises RecordingError where it cannot be read."""
        is_first = True
        for chunk in self.chunks(index, 0, LINES_BYTES):
            # BytesIO ends lines at \n only, as the decoder does.
            yield from io.BytesIO(chunk.removeprefix(UTF8_MARK) if is_first else chunk)
            is_first = False

    def refusal(self) -> str | None:
        """Return why no line of the recording can be read, and what its first file looks like; None if one can."""
        heads = [_head(path) for path in self.paths]
        if any(line_time(line) is not None for head in heads for line in head.split(b"\n")):
            return None
        return f"{self.paths[0]}: every line was rejected; {description_of(heads[0])}"

    def is_plain(self, index: int) -> bool:
        """Return whether offsets in the text of file `index` are offsets in the file. Raises RecordingError."""
        path = self.paths[index]
        try:
            with _open(path) as stream:
                return _is_plain(stream)
        except OSError as error:
            raise _unreadable(path, error) from error


def read_again(path: Path, offset: int, size: int) -> bytes:
    """Return bytes of a plain file that were read before. Raises RecordingError if they are not all there."""
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) < size:
        raise RecordingError(f"{path}: cannot be read: it has become shorter while it was replayed")
    return data


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0 and path.is_file()
    except OSError as error:
        raise _unreadable(path, error) from error


def _open(path: Path) -> BinaryIO:
    """Open the text of a file as lines; an array or a details export is converted to lines."""
    with _unpacked(path) as stream:
        head = stream.read(SNIFF_BYTES)
        if _may_need_conversion(head):
            lines = as_lines((head + stream.read()).removeprefix(UTF8_MARK))
            if lines is not None:
                return io.BytesIO(lines)
    return _unpacked(path)


def _may_need_conversion(head: bytes) -> bool:
    text = head.removeprefix(UTF8_MARK).lstrip()
    line = text.partition(b"\n")[0]
    if text[:1] != b"{":
        return text[:1] == b"["
    return line.strip() == b"{" or _QUEUE.match(text) is not None or any(mark in line for mark in _EXPORTS)


def _unpacked(path: Path) -> BinaryIO:
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        raise RecordingError(f"{path}: is {kind}, which can be read once only; write its content to a file first")
    stream = path.open("rb")
    magic = stream.read(4)
    if magic.startswith(GZIP_MAGIC):
        stream.close()
        return cast("BinaryIO", gzip.open(path))
    if magic == ZSTD_MAGIC:
        stream.close()
        return cast("BinaryIO", zstd.open(path))
    stream.seek(0)
    return stream


class _Span:
    """A file, and the times of its first and its last record; -inf where its beginning or its end holds none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begin = _begin(path)
        self._end: float | None = None

    def __str__(self) -> str:
        return f"{self.path} ({self.begin!r} to {self.end!r})"

    @property
    def end(self) -> float:
        """Return the time of the last record, which takes a whole read of a compressed file."""
        if self._end is None:
            self._end = _end(self.path)
        return self._end


def _number(span: _Span) -> tuple[str, int] | tuple[()]:
    """Return the place of a segment among those of its journal; nothing for a file that is not named like one."""
    return (str(span.path.parent), number_of(span.path.name)) if SEGMENT_NAME.fullmatch(span.path.name) else ()


def _overlap(spans: Sequence[_Span]) -> tuple[_Span, _Span] | None:
    """Return the first two neighbours of which the second begins before the first ends."""
    pairs = itertools.pairwise(spans)
    return next(((earlier, later) for earlier, later in pairs if earlier.end > later.begin), None)


def _place(stream: BinaryIO, size: int) -> int:
    """Return how far a file was read, in bytes on the disk; `size` for one that was converted as a whole."""
    if isinstance(stream, gzip.GzipFile | zstd.ZstdFile):
        return os.lseek(stream.fileno(), 0, os.SEEK_CUR)
    return stream.tell() if isinstance(stream, io.BufferedReader) else size


def _is_plain(stream: BinaryIO) -> bool:
    return isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO)


def _to_line_end(stream: BinaryIO, size: int) -> int:
    """Return the bytes to the end of the line in which `size` bytes end; one piece need not be copied."""
    if not _is_plain(stream):
        return size
    begin = stream.tell()
    stream.seek(begin + size)
    size += len(stream.readline())
    stream.seek(begin)
    return size


def _skip(stream: BinaryIO, offset: int) -> None:
    if stream.seekable():
        stream.seek(offset)
        return
    while offset > 0 and (skipped := len(stream.read(min(offset, 1 << 20)))):
        offset -= skipped


def _head(path: Path) -> bytes:
    """Return the beginning of a file's text. Raises RecordingError."""
    try:
        with _open(path) as stream:
            return stream.read(HEAD_BYTES).removeprefix(UTF8_MARK)
    except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
        raise _unreadable(path, error) from error


def _begin(path: Path) -> float:
    """Return the time of a file's first record, -inf if its beginning holds none. Raises RecordingError."""
    head = _head(path)
    lines = head.split(b"\n")
    if not any(line.strip() for line in lines):
        raise RecordingError(f"{path}: the file is empty; a recording has a JSON object on each line")
    try:
        next(line for line in lines if line.strip()).decode()
    except UnicodeDecodeError:
        if len(head) < HEAD_BYTES or len(lines) > 1:
            raise RecordingError(
                f"{path}: not UTF-8 text; a recording is JSON Lines, plain, gzip (.gz) or Zstandard (.zst)"
            ) from None
    times = (line_time(line) for line in lines)
    return next((time for time in times if time is not None), float("-inf"))


def _end(path: Path) -> float:
    """Return the time of a file's last record; -inf if its end holds none."""
    try:
        with _open(path) as stream:
            tail = _tail(stream)
    except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
        raise _unreadable(path, error) from error
    times = (line_time(line) for line in reversed(tail.split(b"\n")))
    return next((time for time in times if time is not None), float("-inf"))


def _tail(stream: BinaryIO) -> bytes:
    if _is_plain(stream):
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - HEAD_BYTES))
        return stream.read()
    tail = b""
    while data := stream.read(HEAD_BYTES):
        tail = tail[-HEAD_BYTES:] + data
    return tail


def _unreadable(path: Path, error: Exception) -> RecordingError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RecordingError(f"{path}: cannot be read: {reason}")
