"""The fast decoder: lines that share one layout, proved to, are split and read in bulk, without an object a frame.

Recorders write all frames alike: the same keys in the same order, so that only some numbers and strings differ from
line to line. `learn` takes that layout from a sample line: constant runs of bytes with a field between each two.
`read` then follows it through all lines of a block at once, eight bytes at a time: a run is compared, a number is
looked at digit by digit, a string is searched for anything but plain ASCII. So a line that agrees is proved to be what
the decoder that goes line by line would read. What is not proved is not read: such lines are given back.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.analytics.records import BareFrame, FrameLine, InvalidFrameError, parse_line
from flows.analytics.swar import (
    FIRST_BYTES,
    Words,
    byte_index,
    decimal,
    find,
    keep_first,
    long_decimal,
    plain_ascii,
    short_decimal,
)

__all__ = ["Layout", "Lines", "Rows", "learn", "read", "together"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NEWLINE: Final = ord("\n")
NUMBER_BYTES: Final = 24
MAX_STRING_BYTES: Final = 64
QUOTE: Final = ord('"')
# So few lines are read one by one sooner than together.
FEW_LINES: Final = 64
BUCKET_BITS: Final = 17

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
_TOKEN: Final = re.compile(rb'"(?P<string>[ !#-\[\]-~]*)"|(?P<number>[0-9][0-9.]*)|(?P<mark>[{}:, ])')
_ENDED: Final = b"conversation.ended"


class Field(NamedTuple):
    """A place whose bytes differ from line to line: its role ("" if nobody needs it), bytes to look at, a sample."""

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
    line does not have. `ended` bool: the conversation's last frame. `code` int32: index into `ids`.
    """

    line: Ints
    received_at: Floats
    timestamp: Floats
    packet_loss: Floats
    ended: Mask
    code: NDArray[np.int32]
    ids: list[str]


class Lines(NamedTuple):
    """Lines that are still to be read, and `number` int64: the index of each in its block."""

    text: list[bytes]
    number: Ints


def learn(line: bytes) -> Layout | None:
    """The layout of a frame's line, journalled or bare; None for a line of another kind, or of too unusual a form."""
    values = _values(line)
    if values is None or not _is_frame(line):
        return None
    paths = [path for path, *_ in values]
    bare = ("event",) in paths
    if len(set(paths)) < len(paths) or (not bare and {path[0] for path in paths} != {"received_at", "frame"}):
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
    if max(field.width for field in fields) > MAX_STRING_BYTES + 16:
        return None
    return Layout((*runs, line[behind:]), tuple(fields))


def _is_frame(line: bytes) -> bool:
    try:
        return isinstance(parse_line(line), FrameLine | BareFrame)
    except InvalidFrameError:
        return False


def _values(line: bytes) -> list[tuple[tuple[str, ...], int, int, bool]] | None:
    """The strings and numbers in nested objects: path, begin, end, whether a number.

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
        if token["string"] is not None and line[at : at + 1] == b":":
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
    """The lines of a block that agree with the layout, and the others; None if fewer than three in four agree.

    A last line without its newline is one of the others.
    """
    end = _newlines(data)
    begin = np.concatenate([[0], end + 1])
    left = np.arange(len(end))
    rows: Rows | None = None
    for kind in (_QuickWalk, _Walk):
        if rows is not None and len(left) <= FEW_LINES:
            break
        found = _followed(kind(data, layout, begin[left]), end[left])
        if found is None:
            return None
        line = left[found.line]
        rows = found._replace(line=line) if rows is None else together(rows, found._replace(line=line))
        left = np.delete(left, found.line)
    if rows is None or 4 * len(rows.line) < 3 * len(end):
        return None
    others = left if begin[-1] == len(data) else np.append(left, len(end))
    spans = zip(begin[others].tolist(), np.append(end, len(data))[others].tolist(), strict=True)
    return rows, Lines([data[start:stop] for start, stop in spans], others)


def together(some: Rows, more: Rows) -> Rows:
    """The rows of both, in order of their lines."""
    if not len(more.line):
        return some
    index = {conversation_id: code for code, conversation_id in enumerate(some.ids)}
    codes = np.array([index.setdefault(conversation_id, len(index)) for conversation_id in more.ids], np.int32)
    line = np.concatenate([some.line, more.line])
    order = np.argsort(line, kind="stable")
    return Rows(
        line[order],
        np.concatenate([some.received_at, more.received_at])[order],
        np.concatenate([some.timestamp, more.timestamp])[order],
        np.concatenate([some.packet_loss, more.packet_loss])[order],
        np.concatenate([some.ended, more.ended])[order],
        np.concatenate([some.code, codes[more.code]])[order],
        list(index),
    )


def _followed(walk: _Walk, end: Ints) -> Rows | None:
    """The lines that agree, in terms of the walk; None if two ids cannot be told apart."""
    line = np.flatnonzero(walk.agree & (walk.place == end))
    coded = _codes([word[line] for word in walk.id_words])
    if coded is None:
        return None
    code, first = coded
    strange = ~walk.id_is_plain(line[first])
    if strange.any():
        walk.agree[line[strange[code]]] = False
        return _followed(walk, end)
    ids = _texts([word[line[first]] for word in walk.id_words])
    unknown = np.full(len(line), np.nan)
    received_at, timestamp, packet_loss = (
        walk.numbers[role][line] if role in walk.numbers else unknown
        for role in ("received_at", "timestamp", "packet_loss")
    )
    return Rows(line, received_at, timestamp, packet_loss, walk.ended[line], code, ids)


def _newlines(data: bytes) -> Ints:
    """Where the newlines are; the search goes by eight bytes, few of which hold one, and then by one."""
    is_newline = np.frombuffer(data, np.uint8) == NEWLINE
    whole = len(data) // 8 * 8
    words = is_newline[:whole].view(np.uint64)
    holding = np.flatnonzero(words != 0)  # of booleans, which is three times as fast
    flags = words[holding]
    places = holding * 8 + byte_index(flags)
    if (np.bitwise_count(flags) > 1).any():
        return np.flatnonzero(is_newline)
    return np.concatenate([places, whole + np.flatnonzero(is_newline[whole:])])


class _Walk:
    """All lines of a block, followed through the layout together, field by field.

    `agree` tells which lines have agreed so far, `place` where each has got to. `numbers` are the values of number
    fields by role, `ended` tells which events end their conversation; `id_words` are the characters of the ids, zeros
    behind their end.
    """

    id_words: list[Words]
    ended: Mask

    def __init__(self, data: bytes, layout: Layout, begin: Ints) -> None:
        self._reach = max(map(len, layout.runs)) + max(field.width for field in layout.fields) + 16
        self._padded = bytes(8) + data + bytes(self._reach)
        self._length = len(data)
        self.place = begin
        self.agree: Mask = np.ones(len(begin), np.bool_)
        self.numbers: dict[str, Floats] = {}
        for run, field, next_run in zip(layout.runs, layout.fields, layout.runs[1:], strict=False):
            self._pass_field(field, self._pass_run(run, field.width), next_run[0])
        self._pass_run(layout.runs[-1], 0)

    def _pass_run(self, run: bytes, width: int) -> list[Words]:
        """Compare what stands at the place with the run, go behind it, and give the `width` bytes there."""
        ahead = -len(run) % 8
        expected = bytes(ahead) + run
        # One copy of many bytes costs as much as one of eight: all that is looked at here is fetched at once.
        record = np.dtype(f"V{len(expected) + width}")
        records = np.ndarray((self._length + 1,), record, self._padded, 8 - ahead, (1,))
        words = records[np.minimum(self.place, self._length)].view(np.uint64).reshape(len(self.place), -1)
        for index, word in enumerate(np.frombuffer(expected, np.uint64)):
            found = words[:, index] & ~FIRST_BYTES[ahead] if index == 0 else words[:, index]
            self.agree &= found == word
        self.place = self.place + len(run)
        return [words[:, index] for index in range(len(expected) // 8, words.shape[1])]

    def _pass_field(self, field: Field, words: list[Words], terminator: int) -> None:
        """Read the field at the place, which ends where the first byte of the next run is, and go behind it."""
        length = find(words, terminator)
        if field.is_number:
            value, ok = decimal(words, length)
            self.numbers[field.role] = value
            self.agree &= ok & ((value <= 1.0) | (field.role != "packet_loss"))
        else:
            self.agree &= plain_ascii(words, length)
        if field.role in ("event", "id"):
            kept = [keep_first(word, length - 8 * index) for index, word in enumerate(words)]
            if field.role == "event":
                self.ended = _is_ended(kept)
            else:
                self.id_words = kept
        self.place = self.place + length

    def id_is_plain(self, rows: Ints) -> Mask:
        """Whether the ids of some rows are text that means itself; here, what agrees has been looked at."""
        return np.ones(len(rows), np.bool_)


class _QuickWalk(_Walk):
    """The same for lines that are like the sample, which most are: some numbers as long, strings of the same length.

    A string's end is then proved by the run behind it, and what is in an id is looked at once for each distinct one.
    """

    def _pass_field(self, field: Field, words: list[Words], terminator: int) -> None:
        size = len(field.sample)
        dot = field.sample.find(b".") if field.is_number else -1
        if dot in (9, 10):
            self._pass_number(field, *long_decimal(list(map(np.ascontiguousarray, words)), field.sample, terminator))
        elif 0 < dot < 8:
            self._pass_number(field, *short_decimal(list(map(np.ascontiguousarray, words)), terminator))
        elif field.role in ("event", "id"):
            used = words[: max(1, -(-size // 8))]
            text = [word & FIRST_BYTES[min(8, size - 8 * index)] for index, word in enumerate(used)]
            if field.role == "event":
                for word, expected in zip(text, _words(field.sample), strict=True):
                    self.agree &= word == expected
                self.ended = np.full(len(self.place), field.sample == _ENDED)
            else:
                self.id_words, self._id_size = text, size
            self.place = self.place + size
        else:
            super()._pass_field(field, words, terminator)

    def _pass_number(self, field: Field, value: Floats, length: Ints, ok: Mask) -> None:
        self.numbers[field.role] = value
        self.agree &= ok & (value <= 1.0) if field.role == "packet_loss" else ok
        self.place = self.place + length

    def id_is_plain(self, rows: Ints) -> Mask:
        """Whether the ids of some rows are text that means itself."""
        text, length = [word[rows] for word in self.id_words], np.full(len(rows), self._id_size)
        return plain_ascii(text, length) & (find(text, QUOTE) >= length)


def _words(text: bytes) -> Words:
    """The text as words, zeros behind its end; one at least."""
    return np.frombuffer(text.ljust(max(8, -(-len(text) // 8) * 8), b"\0"), np.uint64)


def _codes(words: list[Words]) -> tuple[NDArray[np.int32], Ints] | None:
    """Which of the distinct strings each row has, and for each of those a row that has it.

    Strings are told apart by a hash and then compared with the one that stands for theirs, so that two different ones
    of the same hash are noticed: then, None.
    """
    mixed = np.zeros(len(words[0]), np.uint64)
    for word in words:
        mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    # All rows of a hash share a bucket. Whoever was written into it last stands for those of its hash; the others of
    # the bucket try again among themselves.
    bucket = (mixed >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
    standing = np.empty(len(mixed), np.int64)
    last = np.empty(1 << BUCKET_BITS, np.int64)
    left = np.arange(len(mixed))
    while len(left):
        last[bucket[left]] = left
        winner = last[bucket[left]]
        same = mixed[winner] == mixed[left]
        standing[left[same]] = winner[same]
        left = left[~same]
    if not all((word == word[standing]).all() for word in words):
        return None
    stands = np.zeros(len(mixed), np.bool_)
    stands[standing] = True
    return (np.cumsum(stands, dtype=np.int32) - 1)[standing].astype(np.int32), np.flatnonzero(stands)


def _texts(words: list[Words]) -> list[str]:
    """The strings that the rows spell, of printable ASCII, with zeros behind their ends."""
    newline = np.full(len(words[0]), NEWLINE, np.uint64)
    lines = np.stack([*words, newline], axis=1).tobytes().translate(None, b"\0").decode()
    return lines.split("\n")[:-1]


def _is_ended(words: list[Words]) -> Mask:
    """Which strings are the event that ends a conversation."""
    expected = np.frombuffer(_ENDED.ljust(8 * max(3, len(words)), b"\0"), np.uint64)
    if len(words) < 3:
        return np.zeros(len(words[0]), np.bool_)
    same: Mask = np.logical_and.reduce([word == part for word, part in zip(words, expected, strict=True)])
    return same
