"""Bytes to columns: a block of journal lines becomes arrays, one row a frame, and a short list of everything else.

Three decoders, each stricter than the next, and none laxer. In a large block, lines that share one layout are read in
bulk (`layout`). The others are decoded by msgspec into typed structs, many lines in one C loop. Whatever that loop
refuses is read by `parse_line`, on top of orjson's own decoder, which is the definition of a valid line and gives the
reason when it is not one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.format.bulk import Lines, Rows, concat, infer_layout, read
from connectors.format.decoded import Decoded, Rejected
from connectors.format.ids import Ids
from connectors.format.limits import MAX_TEXT_CHARACTERS
from connectors.format.lines import split_at_clocks
from connectors.format.media import LegMedia
from connectors.format.notifications import ENDED
from connectors.format.privacy import can_be_private, fingerprint
from connectors.format.records import (
    CLOCK,
    MEDIA,
    SIGNAL,
    BareEvent,
    BareFrame,
    Control,
    EventLine,
    Frame,
    FrameLine,
    InvalidFrameError,
    Signalled,
    decode_bare_frame,
    decode_frame_line,
    decode_watch_line,
    is_ignored,
    parse_frame,
    parse_line,
)
from connectors.format.session_events import NO_EVENTS, Events, events_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

__all__ = ["Received", "decode_block", "decode_pieces", "ended_conversation", "parse_messages"]

# Smaller blocks are decoded line by line sooner than in bulk.
BULK_BYTES: Final = 1 << 19
SAMPLE_BYTES: Final = 1 << 14


# The index of a line, whether behind its frame or before it, and a control record.
_Placed = tuple[int, bool, Control]

_decode_frame = msgspec.json.Decoder(Frame).decode


class Received(NamedTuple):
    """Received messages: the frames among them, and by its index, in order, why a message is not a frame."""

    frames: list[Frame]
    invalid: dict[int, str]

    @property
    def conversation_ids(self) -> list[str]:
        """Return the conversation of each frame."""
        return [frame.entity.id for frame in self.frames]

    @property
    def ended(self) -> list[str]:
        """Return the conversations that are ended by a frame."""
        return [frame.entity.id for frame in self.frames if frame.event == ENDED]


def ended_conversation(message: bytes) -> str | None:
    """Return the conversation that a received frame ends, if it ends one.

    Raises InvalidFrameError with the reason when the message is not a valid frame.

    >>> ended_conversation(b'{"event":"conversation.ended","entity":{"id":"c1"},"timestamp":1}')
    'c1'
    """
    frame = _frame_in(message)
    return frame.entity.id if frame.event == ENDED else None


def parse_messages(messages: Sequence[bytes]) -> Received:
    """Parse received messages; an invalid one has the reason that `ended_conversation` raises.

    >>> received = parse_messages([b'{"event":"conversation.ended","entity":{"id":"c1"},"timestamp":1}', b""])
    >>> received.conversation_ids, received.ended, received.invalid
    (['c1'], ['c1'], {1: 'an empty line'})
    """
    # What msgspec takes begins and ends with ASCII, so that no two such messages make a character together.
    if len(messages) > 1 and _is_utf8(b"".join(messages)):
        try:
            frames = list(map(_decode_frame, messages))
        except (msgspec.DecodeError, RecursionError):
            pass  # one of them at least is to be read by the definition
        else:
            return Received(frames, {})
    frames = []
    invalid: dict[int, str] = {}
    for at, message in enumerate(messages):
        try:
            frame = _frame_in(message)
        except InvalidFrameError as error:
            invalid[at] = str(error)
        else:
            if not is_ignored(frame):
                frames.append(frame)
    return Received(frames, invalid)


def _frame_in(message: bytes) -> Frame:
    try:
        if not message.isascii():
            message.decode()  # msgspec does not look into strings that it skips
        return _decode_frame(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return parse_frame(message)


def decode_block(data: bytes) -> Decoded:
    """Decode a block of complete lines; a last line without its newline may be torn, and then only counts as such."""
    bulk = _in_bulk(data)
    lines = _all_lines(data) if bulk is None else bulk[1]
    rows, controls, signals, unread, events = _line_by_line(lines)
    if bulk is not None:
        rows = concat(bulk[0], rows)
    rejected: list[Rejected] = []
    torn = 0
    for index, reason in unread.items():
        if index == len(lines.text) - 1 and not data.endswith(b"\n"):
            torn = 1
        else:
            rejected.append(_rejected(int(lines.number[index]), reason, lines.text[index]))
    placed = [(index, False, control) for index, control in controls.items()] + signals
    placed.sort(key=lambda item: item[:2])
    number = lines.number[np.array([index for index, _, _ in placed], np.int64)]
    is_behind = np.array([behind for _, behind, _ in placed], np.bool_)
    place = np.searchsorted(rows.line, number) + is_behind
    decoded = _decoded(rows, [control for _, _, control in placed], place, rejected, torn)
    if len(events.row):
        decoded = decoded._replace(events=events._replace(row=np.searchsorted(rows.line, events.row)))
    return decoded


def _rejected(line: int, reason: str, data: bytes) -> Rejected:
    text = None if can_be_private(data) else data.decode(errors="replace")[:MAX_TEXT_CHARACTERS]
    return Rejected(line, reason, text, *fingerprint(data))


def decode_pieces(data: bytes, decode: Callable[[bytes], Decoded] = decode_block) -> list[tuple[int, Decoded]]:
    """Decode a block, cut where clock records step the time: each piece, with the number of lines before it."""
    decoded = decode(data)
    if all(control.kind != CLOCK for control in decoded.controls):
        return [(0, decoded)]
    return [(lines, decode_block(piece)) for lines, piece in split_at_clocks(data)]


def _all_lines(data: bytes) -> Lines:
    text = data.split(b"\n")
    if not text[-1]:
        text.pop()
    return Lines(text, np.arange(len(text)))


def _in_bulk(data: bytes) -> tuple[Rows, Lines] | None:
    """Return the frames of a large block of one layout, and its other lines; None if there is no such layout."""
    if len(data) < BULK_BYTES:
        return None
    middle = data.find(b"\n", len(data) // 2) + 1
    for line in data[middle : middle + SAMPLE_BYTES].split(b"\n"):
        layout = infer_layout(line)
        if layout is not None:
            return read(data, layout)
    return None


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _line_by_line(lines: Lines) -> tuple[Rows, dict[int, Control], list[_Placed], dict[int, str], Events]:
    """Return the frames, by index in `lines` the controls, signals and reasons, the notifications by lines."""
    events: dict[int, EventLine | BareEvent] = {}
    signals: list[_Placed] = []
    silent: list[int] = []
    received: list[float] = []
    arrived: list[float] = []
    frames: list[Frame | BareFrame] = []
    controls: dict[int, Control] = {}
    unread: dict[int, str] = {}
    # The fast loop does not look into strings that it skips, so it is trusted only where all is UTF-8.
    trusted = _is_utf8(b"\n".join(lines.text))
    decode: Callable[[bytes], Any] = decode_frame_line
    rest = iter(lines.text)
    at = 0
    while at < len(lines.text):
        if trusted:
            run = _run(rest, decode)
            if decode is decode_watch_line:
                watches = [Control(0, one.received_at, "watch", one.watch) for one in run]
                controls.update(enumerate(watches, at))
            else:
                _take(run, received, arrived, frames)
            at += len(run)
            if at == len(lines.text):
                break
        else:
            next(rest)
        try:
            parsed = parse_line(lines.text[at])
        except InvalidFrameError as error:
            unread[at] = str(error)
        else:
            if isinstance(parsed, Signalled):
                signals += _signals(at, parsed)
            record = parsed.record if isinstance(parsed, Signalled) else parsed
            if record is None:
                silent.append(at)
            elif isinstance(record, Control):
                controls[at] = record
                decode = decode_watch_line if record.kind == "watch" else decode
            else:
                if isinstance(record, EventLine | BareEvent):
                    events[at] = record
                _take([record], received, arrived, frames)
                decode = decode_bare_frame if isinstance(record, BareFrame) else decode_frame_line
        at += 1
    number = np.delete(lines.number, [*controls, *silent, *unread])
    return _rows(number, received, arrived, frames), controls, signals, unread, events_of(events, lines.number)


def _signals(at: int, message: Signalled) -> list[_Placed]:
    """Return the signals of a message, each as a control record.

    They come behind the message's frame, which may begin a watch, but before one that ends it.
    """
    record = message.record
    frame = record.frame if isinstance(record, FrameLine) else record
    is_behind = frame is not None and frame.event != ENDED
    kinds = ((MEDIA if isinstance(signal, LegMedia) else SIGNAL, signal) for signal in message.signals)
    return [(at, is_behind, Control(0, message.time, kind, value)) for kind, value in kinds]


def _run(rest: Iterator[bytes], decode: Callable[[bytes], Any]) -> list[Any]:
    """Decode lines of one form until one is of another, which is consumed."""
    run: list[Any] = []
    # An exception leaves in the list what was decoded before it, and the iterator behind the refused line.
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        run.extend(map(decode, rest))
    return run


def _take(run: list[Any], received: list[float], arrived: list[float], frames: list[Frame | BareFrame]) -> None:
    """Add the frames of lines of one form, when they arrived, and when that was by the wall clock."""
    if run and isinstance(run[0], BareFrame):
        received.extend([np.nan if frame.receivedAt is None else frame.receivedAt for frame in run])
        arrived.extend(received[-len(run) :])
        frames.extend(run)
    else:
        received.extend([line.received_at for line in run])
        arrived.extend([line.received_at if line.arrived_at is None else line.arrived_at for line in run])
        frames.extend([line.frame for line in run])


def _rows(
    line: NDArray[np.int64], received: list[float], arrived: list[float], frames: list[Frame | BareFrame]
) -> Rows:
    index: dict[str, int] = {}
    code = np.array([index.setdefault(frame.entity.id, len(index)) for frame in frames], np.int64)
    loss = [np.nan if (m := frame.metrics) is None or m.packetLoss is None else m.packetLoss for frame in frames]
    return Rows(
        line,
        np.array(received, np.float64),
        np.array(arrived, np.float64),
        np.array([frame.timestamp for frame in frames], np.float64),
        np.array(loss, np.float64),
        np.array([frame.event == ENDED for frame in frames], np.bool_),
        Ids.of(list(index)).take(code),
    )


def _decoded(rows: Rows, controls: list[Control], place: Ints, rejected: list[Rejected], torn: int) -> Decoded:
    written = np.array([control.time for control in controls])
    frames = np.where(np.isnan(rows.received_at), rows.timestamp, rows.received_at)
    arrival, times, time = _running_time(frames, place, written)
    timed = zip(place.tolist(), times.tolist(), controls, strict=True)
    return Decoded(
        arrival=arrival,
        latency_us=np.rint((rows.arrived_at - rows.timestamp) * 1e6) + 0.0,  # -0 of a tiny negative one becomes 0
        packet_loss=rows.packet_loss,
        ended=rows.ended,
        ids=rows.ids,
        events=NO_EVENTS,
        controls=[Control(before, at, control.kind, control.value) for before, at, control in timed],
        rejected=rejected,
        time=time,
        torn=torn,
    )


def _running_time(frames: Floats, place: Ints, controls: Floats) -> tuple[Floats, Floats, float]:
    """Return the largest time so far at each frame, at each control (with `place` frames before it), and at the end.

    Shapes (n,), (m,), (m,); epoch seconds as written.
    """
    if not len(place):
        running = np.maximum.accumulate(frames)
        return running, controls, float(running[-1]) if len(running) else -np.inf
    floor = np.append(frames, -np.inf)
    np.maximum.at(floor, place, controls)
    running = np.maximum.accumulate(floor)
    before = np.append(-np.inf, running)[place]
    return running[:-1], np.maximum(np.maximum.accumulate(controls), before), float(running[-1])
