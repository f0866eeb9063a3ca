"""One line of the journal: how it is written, its place in time, and that all agree with the decoder about it."""

from __future__ import annotations

import math
from collections.abc import Callable

import orjson
from hypothesis import given, settings

from connectors.format.decode import decode_block
from connectors.format.lines import (
    invalid_line,
    line_time,
    message_head,
    read_line,
)
from connectors.format.records import FrameLine, InvalidFrameError, parse_line
from tests.connectors.format.test_decode import bare_line, jsonish, mutations

NOTIFICATION = {"topicName": "v2.users.u.conversations.calls", "eventBody": {}}


def test_the_place_in_time_of_a_line() -> None:
    """A record is at its `received_at`, a bare frame at its `receivedAt`, else at its `timestamp`."""
    assert line_time(b'{"received_at":5,"tick":true}') == 5.0
    assert line_time(bare_line(timestamp=3, receivedAt=4.5)) == 4.5
    assert line_time(bare_line(timestamp=3, receivedAt=None)) == 3.0
    for nowhere in (b"", b"[]", b"null", b'{"received_at":"5"}', b'{"received_at":true}', b"\xff", b"{}"):
        assert line_time(nowhere) is None


def test_a_captured_notification_is_placed_as_the_decoder_places_it() -> None:
    """Its time may be in milliseconds or ISO 8601; one that names no time has no place."""
    for arrival in (1700000000.5, 1700000000500, "2023-11-14T22:13:20.5Z"):
        assert line_time(orjson.dumps({**NOTIFICATION, "receivedAt": arrival})) == 1700000000.5
    assert line_time(orjson.dumps(NOTIFICATION)) is None


@settings(max_examples=500, deadline=None)
@given(jsonish | mutations)
def test_a_line_alone_is_what_the_decoder_makes_of_it(data: bytes) -> None:
    """It is a record for both or for neither, at the same time, and for the same reason when it is not one."""
    decoded = decode_block(data + b"\n")
    assert line_time(data) == (None if decoded.time == -math.inf else decoded.time)
    assert as_read(read_line, data) == as_read(parse_line, data)


def as_read(read: Callable[[bytes], object], data: bytes) -> str:
    try:
        record = read(data)
    except InvalidFrameError as error:
        return str(error)
    # The name of the feed is for people who look at the file.
    return repr(FrameLine(record.received_at, record.frame) if isinstance(record, FrameLine) else record)


def test_an_invalid_message_is_cut_and_can_be_encoded() -> None:
    """Its text is cut at 4096 characters, and half a surrogate pair becomes a question mark."""
    written = orjson.loads(invalid_line(message_head(1.0, None), "é" * 5000 + "\ud800", "\udfff"))
    assert written == {"received_at": 1.0, "invalid": "é" * 4096, "reason": "?"}
