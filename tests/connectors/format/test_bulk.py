"""The fast decoder agrees with the definition of a line, or leaves the line alone."""

from __future__ import annotations

import math
import random

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.format.bulk import infer_layout, read
from connectors.format.decode import BULK_BYTES, decode_block
from connectors.format.records import BareFrame, FrameLine, parse_line
from connectors.format.words import Words, decimal, long_decimal, short_digits, short_value

JOURNALLED = (
    b'{"received_at":1700000000.123456,"frame":{"event":"conversation.updated","entity":{"id":"1a2b3c4d-5e6f"},'
    b'"timestamp":1700000000.1,"metrics":{"packetLoss":0.01,"jitter":3.25}}}'
)
BARE = b'{"timestamp": 12.5, "event": "x", "entity": {"kind": "call", "id": "c1"}, "receivedAt": 13.0}'
SAMPLES = [JOURNALLED, BARE]


def same(x: float | None, y: float) -> bool:
    """Equal, with NaN for what is not there."""
    return math.isnan(y) if x is None else x == y


def assert_agrees(lines: list[bytes], sample: bytes) -> int:
    """Each line that was read is as `parse_line` reads it, and all others are given back; how many were read."""
    layout = infer_layout(sample)
    assert layout is not None
    result = read(b"".join(line + b"\n" for line in lines), layout)
    if result is None:
        return 0
    rows, others = result
    assert sorted([*rows.line.tolist(), *others.number.tolist()]) == list(range(len(lines)))
    assert others.text == [lines[number] for number in others.number]
    for row, line in enumerate(rows.line.tolist()):
        record = parse_line(lines[line])
        assert isinstance(record, FrameLine | BareFrame)
        frame = record if isinstance(record, BareFrame) else record.frame
        received_at = record.receivedAt if isinstance(record, BareFrame) else record.received_at
        loss = None if frame.metrics is None else frame.metrics.packetLoss
        assert same(received_at, rows.received_at[row])
        assert frame.timestamp == rows.timestamp[row]
        assert same(loss, rows.packet_loss[row])
        assert rows.ids.text(row) == frame.entity.id
        assert rows.ended[row] == (frame.event == "conversation.ended")
    return len(rows.line)


@pytest.mark.parametrize("sample", SAMPLES)
def test_lines_like_the_sample_are_read(sample):
    """A block of lines of one layout is read whole, whatever the lengths of its fields."""
    chance = random.Random(7)
    lines = []
    for _ in range(500):
        record = orjson.loads(sample)
        frame = record.get("frame", record)
        frame["event"] = chance.choice(["conversation.updated", "conversation.ended", "conversation.started", ""])
        frame["entity"]["id"] = "c" * chance.randrange(1, 12) + str(chance.randrange(40))
        frame["timestamp"] = round(chance.uniform(0, 2e9), chance.randrange(9))
        record["received_at" if "frame" in record else "receivedAt"] = chance.uniform(1.6e9, 1.8e9)
        text = orjson.dumps(record)
        lines.append(text if sample is JOURNALLED else text.replace(b":", b": ").replace(b",", b", "))
    assert assert_agrees(lines, sample) >= 490  # a few have more decimals or other forms than the fast path reads


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(SAMPLES), st.data())
def test_mutated_lines_are_read_right_or_left_alone(sample, data):
    """Whatever happens to some bytes of a line, it is not read as anything but what it says."""
    lines = [sample] * 12
    for index in data.draw(st.sets(st.integers(0, 11), max_size=3)):
        line = bytearray(sample)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(line) - 1))
            piece = data.draw(
                st.sampled_from([b"", b'"', b"\\", b".", b"0", b"9", b"-", b"e", b"{", b"}", b",", b"\xff"])
                | st.binary(max_size=3)
            )
            line[at : at + data.draw(st.integers(0, 2))] = piece.replace(b"\n", b" ")
        lines[index] = bytes(line)
    assert assert_agrees(lines, sample) >= 9
    # Among many with another id these are not what is quickest to read.
    longer = sample.replace(b'"id":"', b'"id":"of-another-length-').replace(b'"id": "', b'"id": "of-another-length-')
    assert assert_agrees([sample] * 100 + lines + [longer] * 100, longer) >= 209


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**11), st.integers(0, 10**9), st.integers(0, 9)), min_size=1, max_size=50))
def test_decimals_are_the_nearest_floats(numbers):
    """A number is read as Python reads it, to the last bit, or not at all."""
    texts = [f"{whole}.{part:0{places}d}"[:23] if places else f"{whole}" for whole, part, places in numbers]
    padded = b"".join(text.encode().ljust(24, b",") for text in texts)
    words = np.frombuffer(padded, np.uint64).reshape(-1, 3)
    value, ok = decimal([words[:, index] for index in range(3)], np.array([len(text) for text in texts]))
    for text, number, read_it in zip(texts, value.tolist(), ok.tolist(), strict=True):
        before, _, behind = text.partition(".")
        assert read_it == (len(before) <= 10 and len(behind) <= 8)
        assert not read_it or number == float(text)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 10**8), st.integers(0, 9)), min_size=1, max_size=50))
def test_numbers_like_the_sample_are_the_nearest_floats(numbers):
    """Both quick readers read a number as Python does, to the last bit, and know its length, or say no."""
    texts = [f"{whole % 10**9 + 170 * 10**7}.{part:0{places}d}"[:23] for whole, part, places in numbers]
    words = as_words([text.encode() + b"," for text in texts])
    value, length, ok = long_decimal(words, b"1700000000.5", ord(","))
    for text, number, size, read_it in zip(texts, value.tolist(), length.tolist(), ok.tolist(), strict=True):
        assert read_it == (text.startswith("17") and 1 <= len(text) - 11 <= 7)
        assert not read_it or (number == float(text) and size == len(text))
    texts = [f"{whole % 10 ** (places % 7)}.{part:0{places}d}"[:23] for whole, part, places in numbers]
    digits, decimals, length, ok = short_digits(as_words([text.encode() + b"}" for text in texts])[:2], ord("}"))
    value = short_value(digits, decimals)
    for text, number, size, read_it in zip(texts, value.tolist(), length.tolist(), ok.tolist(), strict=True):
        assert read_it == (len(text) <= 8)
        assert not read_it or (number == float(text) and size == len(text))


@pytest.mark.parametrize("text", ["", "1", ".5", "1.", "01.5", "-1.5", "1.5e5", "1.2.3", "+1.5", "1_0.5", "1. ", "é.5"])
def test_what_is_no_short_number_is_not_read(text):
    """Neither are other forms, nor what only begins like a number."""
    _, _, _, ok = short_digits(as_words([text.encode() + b","])[:2], ord(","))
    assert not ok[0]


@pytest.mark.parametrize(
    "text",
    [
        b"1700000000x5",
        b"17000000a0.5",
        b"1700000000.5x",
        b"1700000000.\xfa",
        b"170000000\xfa.5",
        b"1700000000.",
        b"1700000000.12345678",
        b"1700000000.1.2",
        b"2700000000.5",
        b"700000000.5",
    ],
)
def test_what_is_no_long_number_like_the_sample_is_not_read(text):
    """One character that is wrong is enough, wherever it stands."""
    _, _, ok = long_decimal(as_words([b"1700000000.25,", text + b","]), b"1700000000.5", ord(","))
    assert ok.tolist() == [True, False]


def as_words(texts: list[bytes]) -> list[Words]:
    words = np.frombuffer(b"".join(text.ljust(24, b"x") for text in texts), np.uint64).reshape(-1, 3)
    return [words[:, index] for index in range(3)]


@pytest.mark.parametrize("text", ["", ".5", "1.", "01", "00.5", "-1", "1e5", "1.2.3", "+1", "1_0", "NaN", "1 "])
def test_what_is_no_plain_number_is_not_read(text):
    """Every other form, valid JSON or not, is left to the line-by-line decoder."""
    words = np.frombuffer(text.encode().ljust(24, b","), np.uint64).reshape(1, 3)
    _, ok = decimal([words[:, index] for index in range(3)], np.array([len(text)]))
    assert not ok[0]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"received_at":1,"tick":true}',
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"}}}',
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":"1"}}',
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c\\n"},"timestamp":1}}',
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":1,"tags":["a"]}}',
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":1,"timestamp":2}}',
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":1,"metrics":{"packetLoss":1},"metrics":{}}}',
        b'{"received_at":1,"frame":{"metrics":{"packetLoss":1}},"frame":{"event":"x","entity":{"id":"c"},"timestamp":1}}',
        b'{"received_at":1,"extra":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":1}}',
        b'{"frame":{"event":"x","entity":{"id":"c"},"timestamp":1}}',
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":1,"sent":1700000000000}}',
        b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":1,"metrics":{"jitter":0.123456789}}}',
    ],
)
def test_other_lines_have_no_layout(line):
    """A line that is not a frame, or a frame of an unusual form, teaches nothing."""
    assert infer_layout(line) is None


@pytest.mark.parametrize(
    ("begin", "key", "other", "end"),
    [
        (b'{"received_at":1.5,"frame":{', b"meta", b"metrics", b'{"packetLoss":0.25},%b}}'),
        (b'{"received_at":1.5,"frame":{"metrics":{', b"extra", b"packetLoss", b'{"n":1}},%b}}'),
        (b"{", b"meta", b"receivedAt", b'{"n":0.25},%b}'),
    ],
)
def test_a_key_is_no_value(begin, key, other, end):
    """What stands before a colon, with spaces or without, is the same in all lines that are read."""
    frame = b'"event":"e","entity":{"id":"c"},"timestamp":1.25'
    sample, odd = (b'%b"%b" :%b' % (begin, one, end % frame) for one in (key, other))
    assert assert_agrees([*[sample] * 12, odd], sample) == 12


@pytest.mark.parametrize("loss", [b"1.5", b"1.01"])
def test_a_loss_of_more_than_everything_is_not_read(loss):
    """Among lines like the sample, and among lines with another id, which are read in another way."""
    longer = JOURNALLED.replace(b'"id":"', b'"id":"of-another-length-')
    lines = [*[JOURNALLED] * 100, *[longer] * 100]
    odd = [line.replace(b":0.01,", b":%b," % loss) for line in (JOURNALLED, longer)]
    assert assert_agrees([*lines, *odd], JOURNALLED) == 200


def test_a_sample_may_end_its_conversation():
    """Then all lines that are like it do."""
    ended = JOURNALLED.replace(b"conversation.updated", b"conversation.ended")
    assert assert_agrees([ended] * 20, ended) == 20


@pytest.mark.parametrize("character", [b'"', b"\\", b"\x00", b"\x1f", b"\x80", b"\xff"])
def test_an_id_that_is_no_plain_text_is_not_read(character):
    """However like the sample's it is otherwise; 0x7f is text."""
    lines = [JOURNALLED.replace(b"-5e6f", b"-5" + one + b"6f") for one in (character, b"\x7f")]
    assert assert_agrees([*[JOURNALLED] * 20, *lines], JOURNALLED) == 21


def test_eight_decimals_are_the_nearest_floats():
    """Below 2^26 and above, where the sum is exact and where it is not."""
    texts = [f"{whole}.{part:08d}" for whole in (0, 7, 2**26 - 1, 2**26, 10**9) for part in (1, 12345679, 99999999)]
    value, ok = decimal(as_words([text.encode() for text in texts]), np.array(list(map(len, texts))))
    assert ok.all()
    assert value.tolist() == list(map(float, texts))


@pytest.mark.parametrize("end", [b"", b"\n", JOURNALLED, JOURNALLED[:50]])
def test_blank_lines_and_a_torn_end_are_those_of_a_small_block(end):
    """A large block is as its lines are, one by one."""
    lines = [*[JOURNALLED] * 12, b"", b"", b"{}"] * (BULK_BYTES // (12 * len(JOURNALLED)) + 1)
    data = b"\n".join(lines) + b"\n" + end
    decoded = decode_block(data)
    layout = infer_layout(JOURNALLED)
    assert layout is not None
    assert len(data) > BULK_BYTES
    assert read(data, layout) is not None
    assert len(decoded.arrival) == lines.count(JOURNALLED) + (end == JOURNALLED)
    blank = [number for number, line in enumerate([*lines, *end.split(b"\n")[:-1]]) if line != JOURNALLED]
    assert [rejected.line for rejected in decoded.rejected] == blank
    assert decoded.torn == (end == JOURNALLED[:50])


def test_a_large_block_may_hold_one_line_without_an_end():
    """A frame with any number of spaces behind it is what it is in a small block."""
    decoded = decode_block(JOURNALLED + b" " * BULK_BYTES)
    assert (decoded.ids.texts(), decoded.rejected, decoded.torn) == (["1a2b3c4d-5e6f"], [], 0)


def test_the_lines_of_one_feed_of_several_have_a_layout():
    """Each tells by which feed it was heard."""
    sample = JOURNALLED.replace(b'"frame"', b'"via":"support","frame"')
    assert assert_agrees([sample, sample.replace(b"support", b"s\\u0061les"), *[sample] * 10], sample) == 11


def test_a_block_of_another_kind_is_left_alone():
    """When too few lines agree, nothing is read."""
    layout = infer_layout(JOURNALLED)
    assert layout is not None
    assert read(b'{"received_at":1,"tick":true}\n' * 9 + JOURNALLED + b"\n", layout) is None
