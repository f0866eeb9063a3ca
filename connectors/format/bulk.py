"""The fast decoder: lines that share one layout, proved to, are split and read in bulk, without an object a frame.

Recorders write all frames alike: the same keys in the same order, so that only some numbers and strings differ from
line to line. `infer_layout` takes that layout from a sample line: constant runs of bytes with a field between each two.
`read` then follows it through all lines of a block at once, eight bytes at a time: a run is compared, a number is
looked at digit by digit, a string is searched for anything but plain ASCII. So a line that agrees is proved to be what
the decoder that goes line by line would read. What is not proved is not read: such lines are given back.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import MAX_ID_BYTES, Ids
from connectors.format.notifications import ENDED
from connectors.format.records import BareFrame, FrameLine, InvalidFrameError, parse_line
from connectors.format.words import (
    FIRST_BYTES,
    LETTER,
    Words,
    all_json_text,
    byte_index,
    decimal,
    find,
    json_text,
    keep_first,
    long_decimal,
    repeat,
    short_digits,
    short_value,
)

__all__ = ["Layout", "Lines", "Rows", "concat", "infer_layout", "read"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NEWLINE: Final = ord("\n")
NUMBER_BYTES: Final = 24
MAX_STRING_BYTES: Final = MAX_ID_BYTES
# So few lines are read one by one sooner than together.
FEW_LINES: Final = 64

_PATHS: Final = {
    ("received_at",): "received_at",
    ("frame", "event"): "event",
    ("frame", "entity", "id"): "id",
    ("frame", "timestamp"): "timestamp",
    ("frame", "metrics", "packetLoss"): "packet_loss",
}
_BARE_PATHS: Final = {
    ("receivedAt",): "received_at",
    ("event",): "event",
    ("entity", "id"): "id",
    ("timestamp",): "timestamp",
    ("metrics", "packetLoss"): "packet_loss",
}
_NUMBERS: Final = frozenset({"received_at", "timestamp", "packet_loss"})
# Numbers as `decimal` reads them: other forms are left to msgspec.
_TOKEN: Final = re.compile(
    rb'"(?P<string>[ !#-\[\]-~]*)"(?P<colon> *:)?'
    rb"|(?P<number>[0-9]{1,10}(?:\.[0-9]{1,8})?(?![0-9.]))"
    rb"|(?P<mark>[{}, ])"
)
_ENDED: Final = ENDED.encode()


class Field(NamedTuple):
    """A place whose bytes differ from line to line: its role ("" if it is unused), bytes to look at, a sample."""

    role: str
    is_number: bool
    width: int
    sample: bytes


class Layout(NamedTuple):
    """A line as `runs[0] fields[0] runs[1] … fields[-1] runs[-1]`, without the newline; no run is empty."""

    runs: tuple[bytes, ...]
    fields: tuple[Field, ...]


class Rows(NamedTuple):
    """Frames of a block as columns of n rows, in order of their lines.

    `line` int64: the line's index in the block. `received_at`, `timestamp`, `packet_loss` float64, NaN for what the
    line does not have. `arrived_at` float64: the wall clock at the arrival, which is `received_at` in most lines.
    `ended` bool: the conversation's last frame. `ids`: whose frame it is.
    """

    line: Ints
    received_at: Floats
    arrived_at: Floats
    timestamp: Floats
    packet_loss: Floats
    ended: Mask
    ids: Ids


class Lines(NamedTuple):
    """Lines that are still to be read, and `number` int64: the index of each in its block."""

    text: list[bytes]
    number: Ints


def infer_layout(line: bytes) -> Layout | None:
    """Return the layout of a frame's line, journalled or bare; None for a line of another kind or an unusual form."""
    values = _values(line)
    if values is None or not _is_frame(line):
        return None
    paths = [path for path, *_ in values]
    bare = ("event",) in paths
    if len(set(paths)) < len(paths) or (not bare and {path[0] for path in paths} - {"via"} != {"received_at", "frame"}):
        return None
    runs: list[bytes] = []
    fields: list[Field] = []
    behind = 0
    for path, begin, end, is_number in values:
        role = (_BARE_PATHS if bare else _PATHS).get(path, "")
        if role and is_number != (role in _NUMBERS):
            return None
        runs.append(line[behind:begin])
        width = NUMBER_BYTES if is_number else max(32, (end - begin) // 8 * 8 + 16)
        fields.append(Field(role, is_number, width, line[begin:end]))
        behind = end
    found = {field.role for field in fields}
    if not {"event", "id", "timestamp"} <= found or not (bare or "received_at" in found):
        return None
    if max(len(field.sample) for field in fields) > MAX_STRING_BYTES:
        return None
    return Layout((*runs, line[behind:]), tuple(fields))


def _is_frame(line: bytes) -> bool:
    try:
        return isinstance(parse_line(line), FrameLine | BareFrame)
    except InvalidFrameError:
        return False


def _values(line: bytes) -> list[tuple[tuple[str, ...], int, int, bool]] | None:
    """Return the strings and numbers in nested objects: path, begin, end, whether a number.

    None if there is anything else, or a key twice, of which JSON decoders drop the first, with all that is in it.
    """
    values: list[tuple[tuple[str, ...], int, int, bool]] = []
    keys: set[tuple[str, ...]] = set()
    path: list[str] = []
    key = ""
    at = 0
    while at < len(line):
        token = _TOKEN.match(line, at)
        if token is None:
            return None
        at = token.end()
        if token["colon"] is not None:
            key = token["string"].decode()
            if (*path[1:], key) in keys:
                return None
            keys.add((*path[1:], key))
        elif token["string"] is not None:
            values.append(((*path[1:], key), *token.span("string"), False))
        elif token["number"] is not None:
            values.append(((*path[1:], key), *token.span("number"), True))
        elif token["mark"] == b"{":
            path.append(key)
        elif token["mark"] == b"}" and path:
            path.pop()
    return values


def read(data: bytes, layout: Layout) -> tuple[Rows, Lines] | None:
    """Return the lines of a block that match the layout, and the others; None if fewer than three in four match.

    A last line without its newline is one of the others.
    """
    end = _newlines(data)
    if not len(end):
        return None
    begin = np.concatenate([[0], end + 1])
    left = np.arange(len(end))
    rows: Rows | None = None
    for kind in (_QuickCursor, _Cursor):
        if rows is not None and len(left) <= FEW_LINES:
            break
        found = _followed(kind(data, layout, begin[left]), end[left])
        line = left[found.line]
        rows = found._replace(line=line) if rows is None else concat(rows, found._replace(line=line))
        left = np.delete(left, found.line)
    if rows is None or 4 * len(rows.line) < 3 * len(end):
        return None
    others = left if begin[-1] == len(data) else np.append(left, len(end))
    spans = zip(begin[others].tolist(), np.append(end, len(data))[others].tolist(), strict=True)
    return rows, Lines([data[start:stop] for start, stop in spans], others)


def concat(some: Rows, more: Rows) -> Rows:
    """Return the rows of both, in order of their lines."""
    if not len(more.line):
        return some
    line = np.concatenate([some.line, more.line])
    order = np.argsort(line, kind="stable")
    return Rows(
        line[order],
        np.concatenate([some.received_at, more.received_at])[order],
        np.concatenate([some.arrived_at, more.arrived_at])[order],
        np.concatenate([some.timestamp, more.timestamp])[order],
        np.concatenate([some.packet_loss, more.packet_loss])[order],
        np.concatenate([some.ended, more.ended])[order],
        some.ids.concat(more.ids).take(order),
    )


def _followed(cursor: _Cursor, end: Ints) -> Rows:
    """Return the lines that match, in terms of the cursor."""
    line = np.flatnonzero(cursor.matches & (cursor.offset == end))
    unknown = np.full(len(line), np.nan)
    received_at, timestamp, packet_loss = (
        cursor.numbers[role].take(line) if role in cursor.numbers else unknown
        for role in ("received_at", "timestamp", "packet_loss")
    )
    ids = Ids.of_key(cursor.id_key.take(line, 0))
    return Rows(line, received_at, received_at, timestamp, packet_loss, cursor.ended.take(line), ids)


def _newlines(data: bytes) -> Ints:
    """Return where the newlines are; the search goes by eight bytes, few of which hold one, and then by one."""
    is_newline = np.frombuffer(data, np.uint8) == NEWLINE
    whole = len(data) // 8 * 8
    words = is_newline[:whole].view(np.uint64)
    holding = np.flatnonzero(words != 0)  # of booleans, which is three times as fast
    flags = words[holding]
    places = holding * 8 + byte_index(flags)
    if (np.bitwise_count(flags) > 1).any():
        return np.flatnonzero(is_newline)
    return np.concatenate([places, whole + np.flatnonzero(is_newline[whole:])])


class _Cursor:
    """Follow all lines of a block through the layout together, field by field.

    `matches` tells which lines have matched so far, `offset` is the next byte of each. `numbers` are the values of
    number fields by role, `ended` tells which events end their conversation; `id_key` (n, w) are the characters of the
    ids, zeros behind their end.
    """

    id_key: Words
    ended: Mask

    def __init__(self, data: bytes, layout: Layout, begin: Ints) -> None:
        reach = sum(map(len, layout.runs)) + sum(field.width for field in layout.fields)
        self._padded = b"".join((bytes(8), data, bytes(reach + 8)))
        self.offset = begin
        self.matches: Mask = np.ones(len(begin), np.bool_)
        self.numbers: dict[str, Floats] = {}
        for run, field, next_run in zip(layout.runs, layout.fields, layout.runs[1:], strict=False):
            self._pass_field(field, self._pass_run(run, field.width), next_run[0])
        self._pass_run(layout.runs[-1], 0)

    def _pass_run(self, run: bytes, width: int) -> list[Words]:
        """Compare the bytes at the offset with the run, move behind it, and return the `width` bytes there."""
        ahead = -len(run) % 8
        expected = bytes(ahead) + run
        # One copy of many bytes costs as much as one of eight: all that is looked at here is fetched at once.
        record = np.dtype(f"V{len(expected) + width}")
        records = np.ndarray((len(self._padded) - 8 - record.itemsize,), record, self._padded, 8 - ahead, (1,))
        words = records[self.offset].view(np.uint64).reshape(len(self.offset), record.itemsize // 8)
        for index, word in enumerate(np.frombuffer(expected, np.uint64)):
            found = words[:, index] & ~FIRST_BYTES[ahead] if index == 0 else words[:, index]
            self.matches &= found == word
        self.offset = self.offset + len(run)
        return [words[:, index] for index in range(len(expected) // 8, words.shape[1])]

    def _pass_field(self, field: Field, words: list[Words], terminator: int) -> None:
        """Read the field at the offset, which ends at the first byte of the next run, and move behind it."""
        length = find(words, terminator)
        if field.is_number:
            value, ok = decimal(words, length)
            self.numbers[field.role] = value
            self.matches &= ok & ((value <= 1.0) | (field.role != "packet_loss"))
        else:
            self.matches &= json_text(words, length)
        if field.role in ("event", "id"):
            kept = [keep_first(word, length - 8 * index) for index, word in enumerate(words)]
            if field.role == "event":
                self.ended = _is_ended(kept)
            else:
                self.matches &= length <= MAX_ID_BYTES
                self.id_key = np.stack(kept[: MAX_ID_BYTES // 8], axis=1)
        self.offset = self.offset + length


class _QuickCursor(_Cursor):
    """The same for lines that are like the sample, which most are: its event, and numbers and an id as long.

    The end of an id is then proved by the run behind it.
    """

    def __init__(self, data: bytes, layout: Layout, begin: Ints) -> None:
        event, layout = _with_its_event(layout)
        self.ended = np.full(len(begin), event == _ENDED)
        super().__init__(data, layout, begin)

    def _pass_field(self, field: Field, words: list[Words], terminator: int) -> None:
        dot = field.sample.find(b".") if field.is_number else -1
        if dot in (9, 10):
            value, length, ok = long_decimal(list(map(np.ascontiguousarray, words)), field.sample, terminator)
            self.numbers[field.role] = value
            self._pass_number(length, ok)
        elif 0 < dot < 8:
            self._pass_short(field.role, *short_digits(list(map(np.ascontiguousarray, words[:2])), terminator))
        elif field.role == "id":
            self._pass_id(len(field.sample), words)
        else:
            super()._pass_field(field, words, terminator)

    def _pass_short(self, role: str, digits: Words, decimals: Ints, length: Ints, ok: Mask) -> None:
        if role:
            self.numbers[role] = value = short_value(digits, decimals)
            ok = ok & (value <= 1.0) if role == "packet_loss" else ok
        self._pass_number(length, ok)

    def _pass_number(self, length: Ints, ok: Mask) -> None:
        self.matches &= ok
        self.offset = self.offset + length

    def _pass_id(self, size: int, words: list[Words]) -> None:
        count = max(1, -(-size // 8))
        last = size - 8 * (count - 1)
        key = np.stack(words[:count], axis=1)
        key[:, -1] = keep_first(key[:, -1], last, LETTER)
        key[~self.matches] = repeat(LETTER)  # what stands in other lines need not be text
        if not all_json_text(key):
            self.matches &= json_text(words, size)
        key[:, -1] = keep_first(key[:, -1], last)
        self.id_key = key
        self.offset = self.offset + size


def _with_its_event(layout: Layout) -> tuple[bytes, Layout]:
    """Return the event of the sample, and the layout of lines that have the same."""
    at = [field.role for field in layout.fields].index("event")
    runs, fields, event = layout.runs, layout.fields, layout.fields[at].sample
    run = runs[at] + event + runs[at + 1]
    return event, Layout((*runs[:at], run, *runs[at + 2 :]), (*fields[:at], *fields[at + 1 :]))


def _is_ended(words: list[Words]) -> Mask:
    """Return which strings are the event that ends a conversation."""
    expected = np.frombuffer(_ENDED.ljust(8 * max(3, len(words)), b"\0"), np.uint64)
    if len(words) < 3:
        return np.zeros(len(words[0]), np.bool_)
    same: Mask = np.logical_and.reduce([word == part for word, part in zip(words, expected, strict=True)])
    return same
