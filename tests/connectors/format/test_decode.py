"""Journal lines to columns: what a valid line is, and that the fast loop and the definition never differ."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.format.decode import BULK_BYTES, decode_block, ended_conversation, parse_messages
from connectors.format.decoded import Decoded
from connectors.format.ids import Ids, are_same
from connectors.format.records import (
    BareFrame,
    Control,
    FrameLine,
    InvalidFrameError,
    Signalled,
    is_ignored,
    parse_frame,
    parse_line,
)
from tests.support.cli import ROOT
from tests.support.reference_records import NoRecordError, parse

FRAME = (
    '"frame":{"event":"conversation.updated","entity":{"id":"c1"},"timestamp":1700000000.25,'
    '"metrics":{"packetLoss":0.01}}'
)
DEEP = 990


def line(received_at: str = "1700000000.5", rest: str = FRAME) -> bytes:
    return f'{{"received_at":{received_at},{rest}}}'.encode()


def frame_line(**changes: Any) -> bytes:
    frame = {"event": "e", "entity": {"id": "c"}, "timestamp": 1.0} | changes
    return json.dumps(
        {"received_at": 2.0, "frame": {key: value for key, value in frame.items() if value != "gone"}}
    ).encode()


def bare_line(**more: Any) -> bytes:
    return json.dumps({"event": "e", "entity": {"id": "c"}, "timestamp": 1.0} | more).encode()


def block(*lines: bytes) -> Decoded:
    return decode_block(b"".join(one + b"\n" for one in lines))


def test_threads_that_read_the_first_settings_at_once_survive() -> None:
    """As the workers of one process do with their first blocks; before, msgspec crashed in every third such start."""
    script = """
import sys, threading
from connectors.format.decode import decode_block

def work():
    start.wait()
    read.extend(control.kind for line in lines for control in decode_block(line).controls)

sys.setswitchinterval(1e-6)
lines = [b'{"received_at":1,"settings":{}}', b'{"received_at":1,"feed":{"name":"f","state":"up"}}']
start, read = threading.Barrier(8), []
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*sorted(set(read)), len(read))
"""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stdout) == (0, "feed settings 16\n"), done.stderr


def test_a_block_becomes_columns() -> None:
    """Arrival is the time so far, latency the record's own; unknown is NaN; each row has its id."""
    decoded = block(
        line("10.5", '"frame":{"event":"conversation.started","entity":{"id":"b"},"timestamp":10.25}'),
        line("12", '"tick":true'),
        bare_line(entity={"id": "a"}, timestamp=11, metrics={"packetLoss": 1, "jitter": 4}),
        bare_line(entity={"id": "b"}, event="conversation.ended", timestamp=11, receivedAt=11.5),
        line("14", '"feed":{"name":"main","state":"down","reason":"1011"}'),
        bare_line(entity={"id": "a"}, timestamp=13, receivedAt=None, metrics=None),
    )
    assert decoded.arrival.tolist() == [10.5, 12.0, 12.0, 14.0]
    np.testing.assert_array_equal(decoded.latency_us, [250_000.0, np.nan, 500_000.0, np.nan])
    np.testing.assert_array_equal(decoded.packet_loss, [np.nan, 1.0, np.nan, np.nan])
    assert decoded.ended.tolist() == [False, False, True, False]
    assert decoded.ids.texts() == ["b", "a", "b", "a"]
    assert decoded.controls == [
        Control(1, 12.0, "tick", True),
        Control(3, 14.0, "feed", {"name": "main", "state": "down", "reason": "1011"}),
    ]
    assert (decoded.rejected, decoded.time, decoded.torn) == ([], 14.0, 0)


def test_time_never_runs_backward() -> None:
    """What is earlier than a record before it is taken at that one's time; a rejected line has none."""
    decoded = block(
        line("5", '"tick":true'),
        line("3"),
        line("4", '"tick":true'),
        line("9", '"frame":{}'),
        line("7"),
        line("6", '"tick":true'),
    )
    assert decoded.arrival.tolist() == [5.0, 7.0]
    assert [control.time for control in decoded.controls] == [5.0, 5.0, 7.0]
    assert decoded.time == 7.0


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"garbage"])
def test_a_block_without_records_is_no_time(data: bytes) -> None:
    """Nothing in it, or nothing valid in it."""
    decoded = decode_block(data)
    assert decoded.time == -math.inf
    assert len(decoded.arrival) == len(decoded.ids) == len(decoded.controls) == 0


@pytest.mark.parametrize(
    ("latency_s", "latency_us"),
    [("0.15", 150_000.0), ("0.1500004", 150_000.0), ("-0.02", -20_000.0), ("-0.0000001", 0.0), ("2.5", 2_500_000.0)],
)
def test_latency_is_in_whole_microseconds(latency_s: str, latency_us: float) -> None:
    """What binary fractions of seconds since 1970 add is rounded away, and so is the sign of a zero."""
    timestamp = repr(1700000000 - float(latency_s))
    decoded = block(line("1700000000", f'"frame":{{"event":"e","entity":{{"id":"c"}},"timestamp":{timestamp}}}'))
    assert decoded.latency_us.tolist() == [latency_us]
    assert math.copysign(1, decoded.latency_us[0]) == math.copysign(1, latency_us)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty line"),
        (b" \t\r", "an empty line"),
        (b"nonsense", "not JSON"),
        (b'{"received_at":1,"tick":true} x', "not JSON"),
        (b'{"received_at":NaN,"tick":true}', "not JSON"),
        (b'{"received_at":1e999,"tick":true}', "not JSON"),
        (line(rest='"frame":{"event":"\xff"}').replace(b"\xc3\xbf", b"\xff"), "not JSON"),
        (line(rest=FRAME.replace("c1", "\\ud800")), "not JSON"),
        (b"[1]", "the line must be a JSON object"),
        (b"null", "the line must be a JSON object"),
        (b"{}", "neither a record (received_at is missing) nor a frame (event is missing)"),
        (b'{"tick":true}', "neither a record (received_at is missing) nor a frame (event is missing)"),
        (line("null"), "received_at must be a number"),
        (line("true"), "received_at must be a number"),
        (line('"1"'), "received_at must be a number"),
        (line("1e11"), "received_at must be epoch seconds, not 100000000000.0"),
        (line("-1e11"), "received_at must be epoch seconds, not -100000000000.0"),
        (line(rest='"x":1'), "found none"),
        (line(rest='"tick":true,"invalid":"x"'), "found invalid and tick"),
        (line(rest='"tick":false'), "tick must be true"),
        (line(rest='"tick":1'), "tick must be true"),
        (line(rest='"invalid":5'), "invalid must be the text received"),
        (line(rest='"frame":[]'), "frame must be a JSON object"),
        (line(rest='"feed":{"state":"up"}'), "feed: Object missing required field `name`"),
        (line(rest='"feed":{"name":"a","state":"lost"}'), "feed: Invalid enum value 'lost'"),
        (line(rest='"watch":{}'), "watch: Object missing required field `conversation_id`"),
        (line(rest='"watch":{"conversation_id":"c","max_latency_ms":"150"}'), "watch: Expected `float`, got `str`"),
        (line(rest='"settings":[]'), "settings: Expected `object`, got `array`"),
        (line(rest='"settings":{"windows":{"length_s":10,"slide_s":4}}'), "settings: slide_s must divide length_s"),
        (
            line(rest='"settings":{"windows":{"length_s":3600,"slide_s":1}}'),
            "settings: a frame would be part of more than",
        ),
        (
            line(rest='"settings":{"windows":{"length_s":1e308,"slide_s":1e308}}'),
            "settings: Expected `float` <= 3600.0",
        ),
        (line(rest='"settings":{"windows":{"slide_s":0.0004}}'), "settings: Expected `float` >= 0.001"),
        (line(rest='"settings":{"alerts":{"raise_n":0}}'), "settings: Expected `int` >= 1"),
        (line(rest='"settings":{"alerts":{"clear_ratio":1.5}}'), "settings: Expected `float` <= 1.0"),
        (line(rest='"settings":{"alerts":{"clear_after_s":-1}}'), "settings: Expected `float` >= 0.0"),
        (line(rest='"settings":{"alerts":{"unwatched":"all"}}'), "settings: Invalid enum value 'all'"),
        (frame_line(event="gone"), "event is missing"),
        (frame_line(event=None), "event is missing"),
        (frame_line(event=1), "event must be a string"),
        (frame_line(entity="gone"), "entity.id is missing"),
        (frame_line(entity=None), "entity must be a JSON object"),
        (frame_line(entity={}), "entity.id is missing"),
        (frame_line(entity={"id": 5}), "entity.id must be a string"),
        (frame_line(timestamp="gone"), "timestamp is missing"),
        (frame_line(timestamp=None), "timestamp is missing"),
        (frame_line(timestamp="1"), "timestamp must be a number"),
        (frame_line(timestamp=False), "timestamp must be a number"),
        (frame_line(timestamp=10**30), "timestamp must be epoch seconds"),
        (frame_line(metrics=[]), "metrics must be a JSON object"),
        (frame_line(metrics={"packetLoss": "0"}), "metrics.packetLoss must be a number"),
        (frame_line(metrics={"packetLoss": 1.0001}), "metrics.packetLoss must be within 0 and 1, not 1.0001"),
        (frame_line(metrics={"packetLoss": -1e-9}), "metrics.packetLoss must be within 0 and 1, not -1e-09"),
        (frame_line(metrics={"jitter": []}), "metrics.jitter must be a number"),
        (bare_line(receivedAt="1"), "receivedAt must be a number"),
        (bare_line(receivedAt=2e10), "receivedAt must be epoch seconds, not 20000000000.0"),
    ],
)
def test_a_bad_line_is_rejected_with_its_reason(data: bytes, reason: str) -> None:
    """Its neighbours are not harmed, and the reference does not take it either."""
    decoded = block(line(), data, line())
    assert len(decoded.arrival) == 2
    assert decoded.controls == []
    (rejected,) = decoded.rejected
    assert rejected.line == 1
    assert reason in rejected.reason
    assert rejected.text == data.decode(errors="replace")
    with pytest.raises(NoRecordError):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        line(" 1.7e9 "),
        line("1700000000"),
        line(rest=FRAME + ',"seq":7'),
        line(rest='"seq":7,' + FRAME),
        line(rest=FRAME.replace("}}", '},"unknown":' + "[" * DEEP + "]" * DEEP + "}")),
        line(rest=FRAME.replace("}}", '},"unknown":1e999}')),
        line(rest=FRAME.replace("}}", f'}},"unknown":{"9" * 5000}}}')),
        line(rest='"frame":{"event":1,"event":"e","entity":{"id":"c"},"timestamp":1}'),
        b' \t{"received_at":"x","received_at":1,' + FRAME.encode() + b"}\r",
        frame_line(metrics=None),
        frame_line(metrics={"packetLoss": None, "jitter": None}),
        frame_line(metrics={"packetLoss": -0.0}),
        frame_line(entity={"id": "", "name": "é"}),
        bare_line(tick=True, received_at="never", frame=5),
        bare_line(receivedAt=-1e10),
    ],
)
def test_a_valid_frame_is_read_wherever_it_stands(data: bytes) -> None:
    """First of a block, behind lines of its own form and of the other, and beside a line that is not UTF-8."""
    alone = block(data)
    assert len(alone.arrival) == 1
    for before in ([line()], [bare_line()], [line(rest='"tick":true')], [b"\xff"]):
        decoded = block(*before, data)
        assert len(decoded.arrival) + len(decoded.controls) + len(decoded.rejected) == 2
        assert (decoded.ids.text(-1), decoded.latency_us[-1:].tolist()) == (
            alone.ids.text(0),
            pytest.approx(alone.latency_us, nan_ok=True),
        )


def test_a_torn_last_line_only_counts() -> None:
    """A line without its end is not rejected; whole but for the newline it is a record."""
    assert len(decode_block(line() + b"\n" + line()).arrival) == 2
    torn = decode_block(line() + b"\n" + line()[:-1])
    assert (len(torn.arrival), torn.torn, torn.rejected) == (1, 1, [])
    not_last = decode_block(line()[:-1] + b"\n" + line())
    assert (len(not_last.arrival), not_last.torn, len(not_last.rejected)) == (1, 0, 1)


def test_a_long_bad_line_is_cut() -> None:
    """What is written out of a rejected line is bounded."""
    (rejected,) = block("é".encode() * 5000).rejected
    assert rejected.text == "é" * 4096


def test_an_invalid_message_comes_with_its_reason() -> None:
    """The journal's own note of what was not even a frame; without a reason it gets one."""
    decoded = block(line(rest='"invalid":"x\\u0000","reason":"not JSON"'), line(rest='"invalid":""'))
    assert [control.value for control in decoded.controls] == [
        {"text": "x\x00", "reason": "not JSON"},
        {"text": "", "reason": "invalid when it was received"},
    ]


def test_which_conversation_a_message_ends() -> None:
    """The same frames are valid as in a journal."""
    ended = b'{"event":"conversation.ended","entity":{"id":"\xc3\xa9"},"timestamp":1,"x":"%s"}'
    assert ended_conversation(ended % b"\xc3\xa9") == "é"
    assert ended_conversation(ended.replace(b"ended", b"updated")) is None
    for bad in (ended % b"\xff", ended % b"\\ud800", b"", b"[]", bare_line(timestamp=None)):
        with pytest.raises(InvalidFrameError):
            ended_conversation(bad)
        with pytest.raises(InvalidFrameError):
            parse_frame(bad)


def contents_of(messages: list[bytes]) -> tuple[list[str], list[str], dict[int, str]]:
    """Return the conversations in messages, those that end, and the reasons of what is invalid."""
    received = parse_messages(messages)
    return received.conversation_ids, received.ended, received.invalid


def test_which_conversations_messages_end_together() -> None:
    """Each message is judged as it is alone, also beside one that has the other half of its character."""
    ended = b'{"event":"conversation.ended","entity":{"id":"%d"},"timestamp":1}'
    updated = ended.replace(b"ended", b"updated")
    assert contents_of([]) == ([], [], {})
    assert contents_of([ended % 1, updated % 2, ended % 3]) == (["1", "2", "3"], ["1", "3"], {})
    halves = [ended % 1, ended % 2 + b"\xc3", b"\xa9" + ended % 3, b'{"event":"\xff"}', b"", ended % 4]
    present, found, invalid = contents_of(halves)
    assert present == found == ["1", "4"]
    for at, reason in invalid.items():
        with pytest.raises(InvalidFrameError, match=re.escape(reason)):
            ended_conversation(halves[at])
    assert list(invalid) == [1, 2, 3, 4]


# The fast loop against the definition

LINES = [
    line(),
    line(rest=FRAME + ',"more":1'),
    bare_line(),
    bare_line(receivedAt=1.5, metrics={"packetLoss": 0.5, "jitter": 2}),
    line(rest='"tick":true'),
    line(rest='"feed":{"name":"a","state":"up"}'),
    line(rest='"watch":{"conversation_id":"c","max_latency_ms":100}'),
    line(rest='"settings":{"windows":{"length_s":4,"slide_s":2},"alerts":{"policy":"frame"}}'),
    line(rest='"invalid":"x"'),
]
TOKENS = [
    *b'" { } [ ] , : null true 1e5 1e11 1e999 - -0 00 0. . e \\ \\u0000 \\ud800 \\ud83d\\ude00 NaN'.split(),
    *(b"\t", b"\x00", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b" ", b"9" * 400),
    *b'"event":"x", "received_at":5, "frame":null, "metrics":{}, "tick":true, "id":"d", "timestamp":3,'.split(),
    *b'"packetLoss":0.5, "entity":{}, "receivedAt":null,'.split(),
    b'"x":' + b"[" * DEEP + b"]" * DEEP + b",",
    b'"x":' + b'{"y":' * 1100 + b"1" + b"}" * 1100 + b",",
]
edits = st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 1, 2, 9]), st.sampled_from([*TOKENS, b""]))


def edited(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for where, gone, new in changes:
        at = round(where * len(data))
        data = data[:at] + new + data[at + gone :]
    return data.replace(b"\n", b" ")


mutations = st.builds(edited, st.sampled_from(LINES), st.lists(edits, max_size=3))
values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.sampled_from(["c", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "received_at",
                    "receivedAt",
                    "frame",
                    "event",
                    "entity",
                    "id",
                    "timestamp",
                    "metrics",
                    "packetLoss",
                    "tick",
                    "jitter",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
jsonish = (
    mutations
    | values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=8).map(lambda data: edited(data, []))
)


@settings(deadline=None, max_examples=500)
@given(st.lists(jsonish, max_size=6))
def test_the_fast_loop_reads_every_line_as_the_definition_does(lines: list[bytes]) -> None:
    """Rows, controls and rejected lines of a block are those of its lines, each parsed alone."""
    assert_reads_as_the_definition(lines)


@pytest.mark.parametrize("seed", range(6))
def test_a_large_block_is_read_as_its_lines(seed: int) -> None:
    """Where frames are decoded in bulk, and lines of all other kinds and states stand between them."""
    rng = random.Random(seed)
    common = rng.choice([LINES[0], LINES[3], LINES[3].replace(b" ", b"")])
    lines = []
    for number in range(5000):
        data = common.replace(b'"c', b'"c%d' % rng.randrange(50))
        data = data.replace(b"1.5", b"1.%d" % number).replace(b"00.5", b"%02d.%d" % (rng.randrange(100), number))
        if rng.random() < 0.2:
            data = data if rng.random() < 0.7 else rng.choice(LINES)
            data = edited(
                data, [(rng.random(), rng.choice([0, 0, 1, 2]), rng.choice(TOKENS)) for _ in range(rng.randrange(3))]
            )
        lines.append(data)
    assert sum(map(len, lines)) > BULK_BYTES
    assert_reads_as_the_definition(lines)


ESCAPED = [r"\\", r"\u0000", r"\n", r"\u0041", r"\"", "é", r"\u00e9", r"\ud83d\ude00"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 36, 63, 64, 65, 70, 71, 72, 73, 100])
def test_an_id_of_any_size_is_the_same_in_bulk(size: int) -> None:
    """Its key is that of its text, however it is written, with ids of other sizes around it."""
    rng = random.Random(size)
    lines = []
    for number in range(4000):
        text = f"{number:0{size}d}"[:size] if rng.random() < 0.9 else "x" * rng.randrange(80)
        if rng.random() < 0.05:
            text += rng.choice(ESCAPED)
        line = f'{{"received_at":1700000000.125,"frame":{{"event":"conversation.updated","entity":{{"id":"{text}"}},'
        lines.append(f'{line}"timestamp":1700000000.{number},"metrics":{{"packetLoss":0.01,"jitter":1.5}}}}}}'.encode())
    assert sum(map(len, lines)) > BULK_BYTES
    assert_reads_as_the_definition(lines)


def assert_reads_as_the_definition(lines: list[bytes]) -> None:
    rows: list[tuple[Any, ...]] = []
    controls: list[tuple[Any, ...]] = []
    rejected: list[tuple[int, str]] = []
    for index, data in enumerate(lines):
        try:
            record = parse_line(data)
        except InvalidFrameError as error:
            rejected.append((index, str(error)))
            continue
        if isinstance(record, Control):
            controls.append((len(rows), record.kind, record.value))
        else:
            assert not isinstance(record, Signalled)
            rows.append(as_row(record))
    decoded = block(*lines)
    found = zip(
        decoded.ids.texts(),
        decoded.latency_us.tolist(),
        decoded.packet_loss.tolist(),
        decoded.ended.tolist(),
        strict=True,
    )
    assert repr(list(found)) == repr(rows)
    expected = Ids.of([row[0] for row in rows])
    assert are_same(decoded.ids.key, expected.key).all()
    assert decoded.ids.hash.tolist() == expected.hash.tolist()
    assert [(control.frames_before, control.kind, control.value) for control in decoded.controls] == controls
    assert [(one.line, one.reason) for one in decoded.rejected] == rejected


def as_row(record: FrameLine | BareFrame) -> tuple[Any, ...]:
    frame = record if isinstance(record, BareFrame) else record.frame
    written = record.receivedAt if isinstance(record, BareFrame) else record.received_at
    latency_us = math.nan if written is None else float(np.rint((written - frame.timestamp) * 1e6)) + 0.0
    loss = math.nan if frame.metrics is None or frame.metrics.packetLoss is None else frame.metrics.packetLoss
    return frame.entity.id, latency_us, float(loss), frame.event == "conversation.ended"


@settings(deadline=None, max_examples=300)
@given(jsonish)
def test_the_definition_is_the_references(data: bytes) -> None:
    """A line is a record for both or for none; only numbers no float64 holds, and depths, are beyond the reference."""
    expected = record = None
    reason = ""
    with suppress(NoRecordError):
        expected = parse(data)
    try:
        record = parse_line(data)
    except InvalidFrameError as error:
        reason = str(error)
    if record is None:
        assert expected is None or "infinity" in reason or "depth" in reason, reason
        return
    assert expected is not None
    if isinstance(record, Control):
        assert record.kind in expected
        assert record.time == expected["received_at"]
        return
    assert not isinstance(record, Signalled)
    frame = record if isinstance(record, BareFrame) else record.frame
    written = record.receivedAt if isinstance(record, BareFrame) else record.received_at
    metrics = expected["frame"].get("metrics") or {}
    assert (written, frame.event, frame.entity.id, frame.timestamp, frame.metrics and frame.metrics.packetLoss) == (
        expected["received_at"],
        expected["frame"]["event"],
        expected["frame"]["entity"]["id"],
        expected["frame"]["timestamp"],
        metrics.get("packetLoss"),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(jsonish | mutations, max_size=6))
def test_messages_are_judged_together_as_alone(messages: list[bytes]) -> None:
    """The same conversations and ends, and the same reasons for the same messages."""
    present, ended, invalid = [], [], {}
    for at, message in enumerate(messages):
        try:
            over = ended_conversation(message)
        except InvalidFrameError as error:
            invalid[at] = str(error)
        else:
            frame = parse_frame(message)
            present += [] if is_ignored(frame) else [frame.entity.id]
            ended += [] if over is None else [over]
    assert contents_of(messages) == (present, ended, invalid)
    assert list(contents_of(messages)[2]) == list(invalid)
