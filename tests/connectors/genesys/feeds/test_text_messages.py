"""Cutting text messages off a WebSocket in runs gives what the library gives, whatever a server sends, however cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, Close, Frame
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from connectors.genesys.feeds.text_messages import TextMessages, cut, hand_over_texts

LARGEST = 70_000

WHOLE = st.builds(
    lambda size, byte: Frame(TEXT, byte * size),
    st.sampled_from([0, 1, 2, 125, 126, 127, 300, 65_535, 65_536, LARGEST]),
    st.sampled_from([b"a", b"\x81", b"\xff", b"\x00"]),
)
OTHERS = st.sampled_from(
    [
        Frame(BINARY, b"\x81\x01a"),
        Frame(PING, b"p"),
        Frame(PONG, b""),
        Frame(TEXT, b"\x81\x01a", fin=False),
        Frame(CONT, b"b", fin=False),
        Frame(CONT, b"c"),
        b"\xc1\x01x",  # compressed, which was not agreed upon
        b"\x81\x81\x00\x00\x00\x00x",  # masked, which a server must not do
        Frame(TEXT, b"x" * (LARGEST + 1)),
        Frame(CLOSE, Close(1000, "over").serialize()),
    ]
)
STREAMS = st.lists(st.one_of(WHOLE, WHOLE, WHOLE, OTHERS), max_size=12)


def said(reads: list[bytes], *, in_runs: bool) -> tuple[list[tuple[str, bytes]], tuple[object, ...], list[bytes]]:
    """What a client makes of reads of a connection: messages and other frames in order, its state, and its answers."""
    protocol = ClientProtocol(parse_uri("ws://a"), max_size=LARGEST, state=OPEN)
    if in_runs:
        hand_over_texts(protocol)
    found: list[tuple[str, bytes]] = []
    for data in reads:
        protocol.receive_data(data)
        for event in protocol.events_received():
            found += _flat(event)
    protocol.receive_eof()
    found += [one for event in protocol.events_received() for one in _flat(event)]
    answers = [bytes(data[:2]) for data in protocol.data_to_send()]  # what follows is masked by chance
    return found, (protocol.state, protocol.close_rcvd, protocol.close_sent, repr(protocol.parser_exc)), answers


def _flat(event: object) -> Iterator[tuple[str, bytes]]:
    if isinstance(event, TextMessages):
        yield from (("TEXT", message) for message in event)
    else:
        assert isinstance(event, Frame)
        yield event.opcode.name if event.fin else f"{event.opcode.name}...", bytes(event.data)


@settings(max_examples=300, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 200_000), max_size=8), st.binary(max_size=6))
def test_runs_are_what_the_library_reads(frames: list[Frame | bytes], cuts: list[int], rest: bytes) -> None:
    """The same messages in the same order, the same end and the same answers, for any frames in any pieces."""
    stream = b"".join(_on_the_wire(frame) for frame in frames) + rest
    places = sorted({0, len(stream), *(place % (len(stream) + 1) for place in cuts)})
    reads = [stream[begin:end] for begin, end in pairwise(places)]
    assert said(reads, in_runs=True) == said(reads, in_runs=False)


def test_a_read_of_messages_is_one_run() -> None:
    """All that came in one read is handed over at once; a message cut in two comes with the next read."""
    stream = b"".join(_on_the_wire(Frame(TEXT, b"%d" % number * 50)) for number in range(100))
    protocol = ClientProtocol(parse_uri("ws://a"), state=OPEN)
    hand_over_texts(protocol)
    protocol.receive_data(stream[:-1])
    assert [len(event) for event in protocol.events_received() if isinstance(event, TextMessages)] == [99]
    protocol.receive_data(stream[-1:])
    (last,) = protocol.events_received()
    assert isinstance(last, TextMessages)
    assert list(last) == [b"99" * 50]


@given(st.binary(max_size=400))
def test_cutting_never_goes_beyond_its_data(data: bytes) -> None:
    """Whatever the bytes, the messages and what is left of them lie within."""
    messages, end = cut(data)
    assert end <= len(data)
    assert all(message in data[:end] for message in messages)


def _on_the_wire(frame: Frame | bytes) -> bytes:
    return frame if isinstance(frame, bytes) else frame.serialize(mask=False)
