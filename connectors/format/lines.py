r"""Lines of the journal: how each is written, how one is read by itself, and when it is.

A line is a JSON object with `received_at`, the name of its feed as `via` if that has one, and one key more, which is
the kind of the record. A message has `arrived_at`, too, while the wall clock differs from the journal's time::

    {"received_at":1700000000.25,"via":"hook","frame":{"event":"conversation.updated",...}}\n
    {"received_at":1700000000.25,"via":"hook","invalid":"what was received","reason":"not JSON: ..."}\n
    {"received_at":1700000001.0,"tick":true}\n

What a record means is the business of `records`, and reading many lines at once that of `decode`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from connectors.format.limits import MAX_TEXT_CHARACTERS
from connectors.format.privacy import can_be_private, fingerprint
from connectors.format.records import (
    CLOCK,
    SIGNAL,
    BareFrame,
    Control,
    FrameLine,
    InvalidFrameError,
    Signalled,
    decode_frame_line,
    decode_watch_line,
    parse_line,
)

__all__ = [
    "LINE_BEGIN",
    "MESSAGE_BEGIN",
    "TICK_END",
    "TIMES",
    "beginning_of",
    "frame_lines",
    "invalid_line",
    "line_time",
    "lines_via",
    "message_head",
    "message_lines",
    "names_feed",
    "private_invalid_line",
    "read_line",
    "record_line",
    "split_at_clocks",
    "time_of",
]

LINE_BEGIN: Final = b'{"received_at":'
TICK_END: Final = b'"tick":true}\n'
# What `message_head` writes before `via`.
TIMES: Final = re.compile(rb'\{"received_at":[0-9.e+-]+,(?:"arrived_at":[0-9.e+-]+,)?')
MESSAGE_BEGIN: Final = re.compile(rb"(?:^|\n)" + TIMES.pattern + rb'(?:"via":("(?:[^"\\]|\\.)*"),)?"(frame|invalid)":')
"""The beginning of a message's line, behind a line end: its feed's name in JSON, or nothing, and its kind."""


def record_line(received_at: float, record: Mapping[str, Any]) -> bytes:
    r"""Write a record that is not a message: a tick, a feed's state, a watch, settings.

    >>> record_line(5.5, {"tick": True})
    b'{"received_at":5.5,"tick":true}\n'
    """
    return b'{"received_at":%b,%b\n' % (repr(received_at).encode(), orjson.dumps(record)[1:])


def message_head(received_at: float, via: str | None, arrived_at: float | None = None) -> bytes:
    """Return the beginning of a message's line: `via` names its feed, `arrived_at` is the wall clock if it differs."""
    head = b'{"received_at":%b,' % repr(received_at).encode()
    if arrived_at is not None:
        head += b'"arrived_at":%b,' % repr(arrived_at).encode()
    return head if via is None else b'%b"via":%b,' % (head, orjson.dumps(via))


def lines_via(lines: bytes, via: str) -> Iterator[bytes]:
    r"""Yield what follows `message_head` in the lines that begin with it for this `via`; skip other lines unread.

    >>> list(lines_via(b'{"received_at":1.5,"frame":{}}\n{"received_at":2.5,"via":"bus","frame":{}}\n', "bus"))
    [b'"frame":{}}\n']
    """
    mark = b'"via":%b,' % orjson.dumps(via)
    at = lines.find(mark)
    while at >= 0:
        end = lines.find(b"\n", at) + 1 or len(lines)
        if TIMES.fullmatch(lines, lines.rfind(b"\n", 0, at) + 1, at):
            yield lines[at + len(mark) : end]
        at = lines.find(mark, end)


def names_feed(lines: bytes, feed: str) -> bool:
    """Return whether a line is a record of the state of this feed. It may be wrong only by being true."""
    return b'"feed":{"name":%b,' % orjson.dumps(feed) in lines


def frame_lines(head: bytes, messages: Sequence[bytes]) -> bytes:
    """Return the lines of frames, at least one, behind the same `head`."""
    text = b"".join(messages)
    if b"\n" in text or b"\r" in text:
        # Between tokens only: inside a string they are not JSON.
        messages = [message.replace(b"\n", b" ").replace(b"\r", b" ") for message in messages]
    del text  # or there would be two large pieces of memory at a time, which the allocator returns to the system
    begin = head + b'"frame":'
    if len(messages) == 1:  # which most are while little happens, and what follows takes a tenth more of the time
        return b"%b%b}\n" % (begin, messages[0])
    ends = [*messages]
    ends[0] = begin + ends[0]
    ends[-1] += b"}\n"
    return (b"}\n" + begin).join(ends)


def message_lines(head: bytes, messages: Sequence[bytes], invalid: Mapping[int, str]) -> bytes:
    """Write the lines of messages; `invalid` has the index of each that is not a frame, in order, with the reason.

    The text of one that may hold personal data is left out.
    """
    if not invalid:
        return frame_lines(head, messages)
    lines: list[bytes] = []
    done = 0
    for at, reason in invalid.items():
        if done < at:
            lines.append(frame_lines(head, messages[done:at]))
        if can_be_private(messages[at]):
            lines.append(private_invalid_line(head, messages[at], reason))
        else:
            lines.append(invalid_line(head, messages[at].decode("utf-8", "replace"), reason))
        done = at + 1
    if done < len(messages):
        lines.append(frame_lines(head, messages[done:]))
    return b"".join(lines)


def invalid_line(head: bytes, text: str, reason: str) -> bytes:
    """Write the line of a message that is not a frame; its text is cut at 4096 characters."""
    record = {"invalid": _encodable(text[:MAX_TEXT_CHARACTERS]), "reason": _encodable(reason)}
    return b"%b%b\n" % (head, orjson.dumps(record)[1:])


def private_invalid_line(head: bytes, message: bytes, reason: str) -> bytes:
    """Write the line of a message that is not a frame and may hold personal data: its length and SHA-256, no text."""
    length, sha256 = fingerprint(message)
    record = {"invalid": "", "reason": _encodable(reason), "length": length, "sha256": sha256}
    return b"%b%b\n" % (head, orjson.dumps(record)[1:])


def beginning_of(message: str | bytes) -> str:
    """Return the beginning of a message as text, whatever its bytes are."""
    if isinstance(message, str):
        return message[:MAX_TEXT_CHARACTERS]
    return message[: 4 * MAX_TEXT_CHARACTERS].decode("utf-8", "backslashreplace")[:MAX_TEXT_CHARACTERS]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def read_line(line: bytes) -> FrameLine | BareFrame | Control:
    """Read one line as `decode_block` does. Raises InvalidFrameError with the reason if it is not a record."""
    try:
        if not line.isascii():
            line.decode()  # msgspec does not look into strings that it skips
    except UnicodeDecodeError:
        return _without_signals(parse_line(line))
    with suppress(msgspec.DecodeError, RecursionError):
        return decode_frame_line(line)
    with suppress(msgspec.DecodeError, RecursionError):
        watch = decode_watch_line(line)
        return Control(0, watch.received_at, "watch", watch.watch)
    return _without_signals(parse_line(line))


def _without_signals(record: FrameLine | BareFrame | Control | Signalled) -> FrameLine | BareFrame | Control:
    if not isinstance(record, Signalled):
        return record
    return record.record or Control(0, record.time, SIGNAL, record.signals)


def time_of(record: FrameLine | BareFrame | Control) -> float | None:
    """Return the place of a record in time, epoch seconds; None for a captured notification that names no time."""
    if isinstance(record, FrameLine):
        return record.received_at
    if isinstance(record, BareFrame):
        return record.timestamp if record.receivedAt is None else record.receivedAt
    return None if record.time == -np.inf else record.time


def split_at_clocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut lines before and behind each `clock` record, so that time only grows in a piece; with the lines before it."""
    begin = end = lines_before = 0
    for lines, line in enumerate(io.BytesIO(data)):  # which ends lines at \n only, as the decoder does
        if _is_clock(line):
            if begin < end:
                yield lines_before, data[begin:end]
            yield lines, line
            begin, lines_before = end + len(line), lines + 1
        end += len(line)
    if begin < end:
        yield lines_before, data[begin:end]


def _is_clock(line: bytes) -> bool:
    if b"clock" not in line and b"\\u" not in line:
        return False
    try:
        record = read_line(line)
    except InvalidFrameError:
        return False
    return isinstance(record, Control) and record.kind == CLOCK


def line_time(line: bytes) -> float | None:
    """Return the place of a line in time, epoch seconds; None if it is not a record, which moves no other line.

    >>> line_time(b'{"event":"x","entity":{"id":"c"},"timestamp":3.5,"receivedAt":4}'), line_time(b"{}")
    (4.0, None)
    """
    try:
        return time_of(read_line(line))
    except InvalidFrameError:
        return None
