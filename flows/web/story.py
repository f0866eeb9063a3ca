"""Read from the journal what windows do not hold: the parties of a conversation over time, and Genesys' own MOS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from connectors.format.notifications import OVER, body_of, call_legs, is_calls_topic, topic_of
from connectors.format.signals import signals_of
from connectors.journal.segments import COMPRESSED, segments
from flows.web.lines import record_time
from flows.web.marks import MARKS, JournalMarks
from flows.web.reader import offset_at, segment_before
from flows.web.tail import compressed_lines

__all__ = ["End", "Lane", "Media", "Part", "Story", "lines_of", "story_of"]

PIECE_BYTES: Final = 1024 * 1024
MAX_READ_BYTES: Final = 256 * 1024 * 1024
MAX_LINES: Final = 500
# Genesys' statistics of a call are requested after its end.
AFTERWARDS_S: Final = 900.0
_DETAIL: Final = "v2.detail.events.conversation."
_PARTY_LABELS: Final = ("queue", "agent")


class Part(NamedTuple):
    """Hold a time (epoch seconds) that a party spends in one state; `end` is None while it lasts."""

    start: float
    end: float | None
    state: str


class Lane(NamedTuple):
    """Hold a party of a conversation, or a label that names one, with its states over time."""

    name: str
    parts: list[Part]


class Media(NamedTuple):
    """Hold what Genesys measured on one leg; `mos` is the lowest of the leg, on Genesys' scale."""

    at: float
    leg: str
    mos: float
    scale: str
    codecs: list[str]


class End(NamedTuple):
    """Hold how a leg of a party ended: Genesys' type of disconnect, and the code of an error."""

    at: float
    party: str
    disconnect_type: str | None
    code: str | None


class Story(NamedTuple):
    """Hold the parties, the measured legs and the ends of the legs of a conversation.

    `complete` is False if the journal is too long.
    """

    lanes: list[Lane]
    media: list[Media]
    ends: list[End]
    complete: bool


def story_of(
    journal: Path, conversation_id: str, first: float, last: float, marks: JournalMarks | None = None
) -> Story:
    """Return the story of a conversation that was received from `first` to `last`, epoch seconds. Raises OSError.

    What `marks` know to be frames is not read, nor what they do not know yet.
    """
    found = _Lanes()
    details, labels = _Lanes(), _Lanes()
    media: list[Media] = []
    ends: dict[str, End] = {}
    pieces = _Pieces(journal, first - 60.0, last + AFTERWARDS_S, marks)
    for at, record in _records(pieces, conversation_id):
        watch, message = record.get("watch"), record.get("frame")
        if isinstance(watch, dict) and watch.get("conversation_id") == conversation_id:
            for name, value in (watch.get("labels") or {}).items():
                if name in _PARTY_LABELS:
                    labels.enter(name, name, at, str(value))
        elif isinstance(message, dict):
            _take_message(message, at, conversation_id, found, details)
            _take_ends(message, at, conversation_id, ends)
            media += [
                Media(at, s.leg_id or s.key, s.value, s.evidence["scale"], s.evidence["codecs"])
                for s in signals_of(message)
                if s.conversation_id == conversation_id and s.value is not None and "scale" in s.evidence
            ]
    lanes = next((one.lanes for one in (found, details, labels) if one.lanes), {})
    return Story(list(lanes.values()), media, list(ends.values()), pieces.complete)


def lines_of(journal: Path, conversation_id: str, start: float, end: float) -> list[bytes]:
    """Return the journal's lines that name a conversation between two times, at most 500. Raises OSError."""
    lines = []
    mark = orjson.dumps(conversation_id)
    for piece in _Pieces(journal, start, end):
        for line in _marked(piece, mark):
            at = record_time(line)
            if at is not None and start <= at < end:
                lines.append(line)
            if len(lines) >= MAX_LINES:
                return lines
    return lines


class _Lanes:
    """Collect the states of parties in the order in which they are reported."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}

    def enter(self, key: str, name: str, at: float, state: str) -> None:
        lane = self.lanes.get(key)
        if lane is None:
            same = sum(one.name == name or one.name.startswith(f"{name} ") for one in self.lanes.values())
            lane = self.lanes[key] = Lane(f"{name} {same + 1}" if same else name, [])
        if lane.parts and lane.parts[-1].end is None:
            if lane.parts[-1].state == state:
                return
            self.leave(key, at)
        lane.parts.append(Part(at, None, state))

    def leave(self, key: str, at: float) -> None:
        lane = self.lanes.get(key)
        if lane is not None and lane.parts and lane.parts[-1].end is None:
            lane.parts[-1] = lane.parts[-1]._replace(end=at)


def _take_message(message: dict[str, Any], at: float, conversation_id: str, found: _Lanes, details: _Lanes) -> None:
    topic, body = topic_of(message), body_of(message)
    if body is None:
        return
    if is_calls_topic(topic) and body.get("id") == conversation_id:
        for leg in call_legs(body):
            key = str(leg["id"])
            if leg["state"] in OVER:
                found.leave(key, at)
            else:
                found.enter(key, leg["purpose"] or "party", at, "hold" if leg["call"].get("held") else leg["state"])
    elif topic.startswith(_DETAIL) and body.get("conversationId") == conversation_id:
        purpose, _, event = topic[len(_DETAIL) :].partition(".")[2].partition(".")
        key = f"{purpose} {body.get('participantId')}"
        if event == "start":
            details.enter(key, purpose, at, "connected")
        elif event == "end":
            details.leave(key, at)


def _take_ends(message: dict[str, Any], at: float, conversation_id: str, ends: dict[str, End]) -> None:
    body = body_of(message)
    if body is None or not is_calls_topic(topic_of(message)) or body.get("id") != conversation_id:
        return
    for leg in call_legs(body):
        key = str(leg["id"])
        if leg["state"] not in OVER or key in ends:
            continue
        places = (leg["call"], leg["participant"])
        errors = [one.get("errorInfo") for one in places]
        kind = _first_text(one.get("disconnectType") for one in places)
        code = _first_text(one.get("code") for one in errors if isinstance(one, dict))
        if kind or code:
            ends[key] = End(at, leg["purpose"] or "party", kind, code)


def _first_text(values: Iterable[object]) -> str | None:
    return next((value for value in values if isinstance(value, str) and value), None)


def _records(pieces: _Pieces, conversation_id: str) -> Iterator[tuple[float, dict[str, Any]]]:
    mark = orjson.dumps(conversation_id)
    for piece in pieces:
        for line in _marked(piece, mark):
            if not any(one in line for one in MARKS):
                continue
            record = orjson.loads(line)
            if isinstance(record, dict) and isinstance(at := record.get("received_at"), int | float):
                yield float(at), record


def _marked(piece: bytes, mark: bytes) -> Iterator[bytes]:
    """Yield the lines of a piece that hold some bytes."""
    at = piece.find(mark)
    while at >= 0:
        end = piece.find(b"\n", at)
        yield piece[piece.rfind(b"\n", 0, at) + 1 : end]
        at = piece.find(mark, end)


class _Pieces:
    """Yield a journal's whole lines from one time to another, and some before; `complete` tells whether all were."""

    def __init__(self, journal: Path, since: float, until: float, marks: JournalMarks | None = None) -> None:
        self._marks = marks
        self._journal = journal
        self._since = since
        self._until = until
        self.complete = True

    def __iter__(self) -> Iterator[bytes]:
        left = MAX_READ_BYTES
        for path in self._segments():
            try:
                for piece in compressed_lines(path) if path.suffix == COMPRESSED else self._plain(path):
                    yield piece
                    at = record_time(piece)
                    left -= len(piece)
                    if left <= 0:
                        self.complete = False
                        return
                    if at is not None and at > self._until:
                        return
            except (FileNotFoundError, EOFError):  # compressed or removed meanwhile, or cut
                self.complete = False

    def _segments(self) -> list[Path]:
        if not self._journal.is_dir():
            return []
        before = segment_before(self._journal, self._since)
        names = segments(self._journal)
        return names[[path.name for path in names].index(before) + 1 :] if before else names

    def _plain(self, path: Path) -> Iterator[bytes]:
        rest = b""
        with path.open("rb") as file:
            file.seek(offset_at(path, "received_at", self._since))
            while True:
                at = file.tell() - len(rest)
                if self._marks is not None and self._marks.is_unread(path.name, at):
                    return
                if self._marks is not None and (after := self._marks.next(path.name, at)) > at:
                    file.seek(after)
                    rest = b""
                if not (piece := file.read(PIECE_BYTES)):
                    break
                data = rest + piece
                end = data.rfind(b"\n") + 1
                rest = data[end:]
                if end:
                    yield data[:end]
