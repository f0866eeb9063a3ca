"""Count the messages of each feed among lines of a journal, by minute."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

import orjson

from connectors.format.lines import LINE_BEGIN, MESSAGE_BEGIN, TICK_END
from flows.web.lines import control_records

__all__ = ["Count", "counts_of"]

MINUTE_S: Final = 60


class Count(NamedTuple):
    """Hold how many frames and how many other messages a feed received in a minute.

    `via` is the name of the feed in its records, "" for a lone feed without one. `minute` is epoch seconds.
    """

    via: str
    minute: int
    frames: int
    invalid: int


def counts_of(data: bytes, names: Collection[str]) -> list[Count]:
    r"""Return the counts of some whole lines; `names` are the feeds that are known.

    Where every message is a frame, which is nearly always, bytes are counted and no line is read.

    >>> line = b'{"received_at":60.5,"via":"a","frame":{}}\n'
    >>> counts_of(line + b'{"received_at":61.0,"tick":true}\n', ["a"])
    [Count(via='a', minute=60, frames=1, invalid=0)]
    """
    found: list[Count] = []
    for minute, piece in _by_minute(data):
        if b'"invalid":' in piece:
            found += _read(piece, minute)
        else:
            found += _counted(piece, minute, names)
    return found


def _counted(piece: bytes, minute: int, names: Collection[str]) -> Iterator[Count]:
    others = piece.count(TICK_END) + sum(1 for _ in control_records(piece))
    left = piece.count(b"\n") - others
    for name in names:
        own = piece.count(b',"via":%b,"frame":' % orjson.dumps(name)) if left else 0
        if own:
            yield Count(name, minute, own, 0)
            left -= own
    if left > 0:
        yield Count("", minute, left, 0)


def _read(piece: bytes, minute: int) -> Iterator[Count]:
    counts: dict[str, list[int]] = {}
    for found in MESSAGE_BEGIN.finditer(piece):
        via = "" if found[1] is None else orjson.loads(found[1])
        counts.setdefault(via, [0, 0])[found[2] == b"invalid"] += 1
    for via, (frames, invalid) in counts.items():
        yield Count(via, minute, frames, invalid)


def _by_minute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut lines where the minute changes, by halving: time only grows, but for steps of the clock."""
    first, last = _minute(data, 0), _minute(data, data.rfind(b"\n", 0, len(data) - 1) + 1)
    middle = data.find(b"\n", len(data) // 2, len(data) - 1) + 1 or data.rfind(b"\n", 0, len(data) // 2) + 1
    if first == last or not middle:
        yield (last if first is None else first) or 0, data
        return
    yield from _by_minute(data[:middle])
    yield from _by_minute(data[middle:])


def _minute(data: bytes, begin: int) -> int | None:
    if not data.startswith(LINE_BEGIN, begin):
        return None
    try:
        return int(float(data[begin + len(LINE_BEGIN) : data.find(b",", begin)]) // MINUTE_S) * MINUTE_S
    except (ValueError, OverflowError):
        return None
