"""The fast decoder for a share of the conversations: lines of other shares are followed no further than to their id.

What is proved of such a line is its beginning: its time, its event and its id. The instance that owns the conversation
reads the whole line. If it finds something else there (a line that was cut, a key that comes twice), it raises
MisleadingLineError, and then all instances must decode without narrowing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.format.bulk import (
    FEW_LINES,
    Field,
    Layout,
    Lines,
    QuickWalk,
    Rows,
    Walk,
    followed,
    lines_at,
    newlines,
    together,
)
from connectors.format.decoded import Decoded
from connectors.format.ids import Ids
from connectors.format.owners import MisleadingLineError, Share
from connectors.format.records import IGNORED, MEDIA, SIGNAL, Control
from connectors.format.words import Words

__all__ = [
    "NOT_BEGUN",
    "AllFrames",
    "Begun",
    "Narrowed",
    "all_frames",
    "can_narrow",
    "check_claims",
    "part_of",
    "read_share",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Begun(NamedTuple):
    """Lines that begin as frames: their indices in the block, ascending, int64 (n,), and their `received_at` (n,)."""

    line: Ints
    received_at: Floats


NOT_BEGUN: Final = Begun(np.empty(0, np.int64), np.empty(0))


class Narrowed(NamedTuple):
    """A block for one share: its frames, the lines to be read otherwise, and the beginnings of other shares' frames.

    `claimed`: lines among `others` that begin as frames of this share.
    """

    rows: Rows
    others: Lines
    foreign: Begun
    claimed: Begun


def can_narrow(layout: Layout) -> bool:
    """Return whether the time and the event come before the id in lines of this layout."""
    roles = [field.role for field in layout.fields]
    before = roles[: roles.index("id")]
    return "received_at" in before and "event" in before


def read_share(data: bytes, layout: Layout, share: Share) -> Narrowed | None:
    """Read the lines of a block that agree with the layout and are of the share's conversations.

    Return None if fewer than three in four lines begin as the layout does. Which lines are taken for frames of another
    share does not depend on the share, so that all instances divide a block alike.
    """
    end = newlines(data)
    begin = np.concatenate([[0], end + 1])
    time = np.full(len(end), np.nan)
    is_proved, is_mine, is_read = (np.zeros(len(end), np.bool_) for _ in range(3))
    lines = np.arange(len(end))
    rows: Rows | None = None
    for kind in (_QuickPart, _Part):
        if not len(lines):
            break
        walk = kind(data, layout, begin[lines], share)
        kept, theirs = lines[walk.kept], lines[walk.theirs]
        found = followed(walk, end[kept])
        found = found._replace(line=kept[found.line])
        rows = found if rows is None else together(rows, found)
        time[kept], time[theirs] = walk.numbers["received_at"], walk.their_time
        is_mine[kept] = is_read[found.line] = is_proved[kept] = is_proved[theirs] = True
        lines = np.flatnonzero(~is_proved)
        if len(lines) <= FEW_LINES:
            lines = np.flatnonzero(is_mine & ~is_read)
        else:
            lines = np.flatnonzero(~is_proved | (is_mine & ~is_read))
    if rows is None or 4 * np.count_nonzero(is_proved) < 3 * len(end):
        return None
    foreign, claimed = np.flatnonzero(is_proved & ~is_mine), np.flatnonzero(is_mine & ~is_read)
    others = lines_at(data, end, np.flatnonzero(~is_proved | (is_mine & ~is_read)))
    return Narrowed(rows, others, Begun(foreign, time[foreign]), Begun(claimed, time[claimed]))


def check_claims(claimed: Begun, rows: Rows, signals: list[tuple[int, Control]], share: Share) -> None:
    """Raise MisleadingLineError unless each line is the frame that its beginning promised to other shares.

    `rows` are the frames that were read line by line, `signals` those of messages, with the index of their line.
    """
    at = np.searchsorted(rows.line, claimed.line)
    found = at < len(rows.line)
    at = at[found]
    if not (
        found.all()
        and (rows.line[at] == claimed.line).all()
        and (rows.received_at[at] == claimed.received_at).all()
        and share.owns(rows.ids.take(at)).all()
    ):
        raise MisleadingLineError
    promised = set(claimed.line.tolist())
    for line, control in signals:
        if line in promised and not share.owns_text(control.value.conversation_id or ""):
            raise MisleadingLineError


class AllFrames(NamedTuple):
    """All frames of a block, of whatever share: their lines, their times, and which of them are the rows."""

    line: Ints
    time: Floats
    row: Ints


def all_frames(rows: Rows, foreign: Begun | None) -> AllFrames:
    """Return the frames of a share, which are rows, and those of other shares in order of their lines."""
    time = np.where(np.isnan(rows.received_at), rows.timestamp, rows.received_at)
    if foreign is None or not len(foreign.line):
        return AllFrames(rows.line, time, np.arange(len(rows.line)))
    # By marks on lines, which takes less time than to sort.
    lines = int(max(rows.line.max(initial=-1), foreign.line[-1])) + 1
    is_row, is_frame, times = np.zeros(lines, np.bool_), np.zeros(lines, np.bool_), np.empty(lines)
    is_row[rows.line] = is_frame[rows.line] = is_frame[foreign.line] = True
    times[rows.line], times[foreign.line] = time, foreign.received_at
    line = np.flatnonzero(is_frame)
    return AllFrames(line, times.take(line), np.flatnonzero(is_row.take(line)))


def part_of(decoded: Decoded, share: Share) -> Decoded:
    """Return what a share gets of a block; all that has no owner goes to every share."""
    mine = np.flatnonzero(share.owns(decoded.ids))
    is_first = share.index == 0
    owned = ("watch", SIGNAL, MEDIA)
    counted = ("invalid", IGNORED)
    owner = iter(
        share.owns(Ids.of([one.value.conversation_id or "" for one in decoded.controls if one.kind in owned])).tolist()
    )
    kept = [
        control
        for control in decoded.controls
        if (next(owner) if control.kind in owned else is_first or control.kind not in counted)
    ]
    return decoded._replace(
        arrival=decoded.arrival.take(mine),
        latency_us=decoded.latency_us.take(mine),
        packet_loss=decoded.packet_loss.take(mine),
        ended=decoded.ended.take(mine),
        ids=decoded.ids.take(mine),
        controls=kept,
        rejected=decoded.rejected if is_first else [],
        torn=decoded.torn if is_first else 0,
        row=decoded.row.take(mine),
    )


if TYPE_CHECKING:
    _Base = Walk
else:
    _Base = object


class _Narrowing(_Base):
    """Goes on behind the id with the lines of the share only: `kept` of those it began with.

    `theirs` are those of other shares, `their_time` is their `received_at`. The rest does not agree.
    """

    def __init__(self, data: bytes, layout: Layout, begin: Ints, share: Share) -> None:
        self._share = share
        super().__init__(data, layout, begin)

    def _pass_field(self, field: Field, words: list[Words], terminator: int) -> None:
        super()._pass_field(field, words, terminator)
        if field.role == "id":
            self._narrow(terminator)

    def _narrow(self, terminator: int) -> None:
        text = np.frombuffer(self._padded, np.uint8)
        proved = self.agree & (text[self.place + 8] == terminator)
        is_mine = self._share.owns(Ids.of_key(self.id_key))
        self.theirs = np.flatnonzero(proved & ~is_mine)
        self.their_time = self.numbers["received_at"].take(self.theirs)
        self.kept = np.flatnonzero(proved & is_mine)
        self.agree = np.ones(len(self.kept), np.bool_)
        self.place = self.place.take(self.kept)
        self.ended = self.ended.take(self.kept)
        self.id_key = self.id_key.take(self.kept, 0)
        self.numbers = {role: value.take(self.kept) for role, value in self.numbers.items()}


class _QuickPart(_Narrowing, QuickWalk):
    """Follows lines that are like the sample."""


class _Part(_Narrowing, Walk):
    """Follows lines of the layout."""
