"""Decoding for a share of the conversations: together, the shares are what one decoder finds."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from connectors.format.decode import BULK_BYTES, decode_block
from connectors.format.decoded import Decoded
from connectors.format.ids import Ids
from connectors.format.owners import MisleadingLineError, Share, owners_of
from connectors.format.records import Control

IDS = [f"0b3c1f5e-1c1b-4c0e-9d6f-{number:012d}" for number in range(40)]


def line(number: int, **more: object) -> bytes:
    """A frame as the journal has it; every 190th has an id of another length, every 50th ends its conversation."""
    frame = {
        "event": "conversation.ended" if number % 50 == 7 else "conversation.updated",
        "entity": {"id": IDS[number % 40] if number % 190 else "short"},
        "timestamp": 1767225600 + number / 1000 - 0.06,
        "metrics": {"packetLoss": round(number % 13 / 1000, 4), "jitter": 2.5},
    }
    record = {"received_at": 1767225600 + number / 1000, "frame": frame} | more
    return json.dumps(record, separators=(",", ":")).encode()


def block(*strange: bytes, back: bool = False) -> bytes:
    """A block that is read in bulk, with strange lines in its middle; `back`: its time goes back there."""
    lines = [line(number) for number in range(BULK_BYTES // 150)]
    middle = len(lines) // 2
    lines[middle:middle] = strange
    if back:
        lines[10], lines[-10] = lines[-10], lines[10]
    return b"\n".join(lines) + b"\n"


def assert_is_divided(data: bytes, count: int, *, narrow: bool = True) -> None:
    """The parts of all shares are the rows, controls and counts of the whole, and know its times."""
    whole = decode_block(data)
    parts = [decode_block(data, Share(index, count), narrow=narrow) for index in range(count)]
    owner = owners_of(whole.ids, count)
    for index, part in enumerate(parts):
        mine = np.flatnonzero(owner == index)
        assert part.row.tolist() == mine.tolist()
        assert part.ids.texts() == whole.ids.take(mine).texts()
        for name in ("arrival", "latency_us", "packet_loss", "ended"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[mine])
        assert part.time == whole.time
        assert part.controls == [control for control in whole.controls if concerns(control, index, count)]
    assert [part.rejected for part in parts] == [whole.rejected, *[[]] * (count - 1)]
    assert [part.torn for part in parts] == [whole.torn, *[0] * (count - 1)]


def concerns(control: Control, index: int, count: int) -> bool:
    if control.kind in ("invalid", "ignored"):
        return index == 0
    return control.kind != "watch" or Share(index, count).owns_text(control.value.conversation_id)


WATCH = b'{"received_at":1,"watch":{"conversation_id":"%s","leg_id":"l","qa_callback_url":"http://qa/"}}'
STRANGE = {
    "watches": [WATCH % one.encode() for one in IDS],
    "controls": [b'{"received_at":1767225601,"tick":true}', b'{"received_at":9,"invalid":"x"}'],
    "rejected": [b"nonsense", b"", b'{"received_at":1767225601.5,"frame":{"event":"conversation.upda'],
    "another layout": [line(5, via="hook"), line(6, arrived_at=1767225600.5)] * 3,
    "escaped ids": [line(5).replace(b"0b3c1f5e", b"\\u0062b3c1f5e"), line(6).replace(b"0b3c1f5e", "é".encode())],
    "long ids": [line(5).replace(b"0b3c1f5e", b"x" * 100)],
    "an exact loss": [line(5).replace(b'"packetLoss":', b'"packetLoss":1e-3,"x":')] * 200,
    "a far time": [b'{"received_at":1767299999.5,"tick":true}'],
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_the_shares_of_a_block_are_the_block(strange: list[bytes], count: int) -> None:
    """Whatever else is in the block: rows, their places and times, controls, rejected lines."""
    assert_is_divided(block(*strange), count)
    assert_is_divided(block(*strange, back=True) + b'{"torn', count)


def test_small_blocks_and_bare_frames_are_divided_too() -> None:
    """They are decoded as a whole, and then divided."""
    assert_is_divided(b"\n".join(map(line, range(100))), 2)
    bare = [json.dumps({**json.loads(line(number))["frame"], "receivedAt": number}) for number in range(5000)]
    assert_is_divided("\n".join(bare).encode(), 3)


MISLEADING: dict[str, Callable[[bytes], bytes]] = {
    "cut behind the id": lambda one: one[:130],
    "an id twice": lambda one: one.replace(b'"timestamp"', b'"entity":{"id":"c3"},"timestamp"'),
    "a time twice": lambda one: one[:-1] + b',"received_at":1.5}',
    "a loss that cannot be": lambda one: one.replace(b'"packetLoss":', b'"packetLoss":9'),
    "not UTF-8": lambda one: one.replace(b'"jitter"', b'"\xff"'),
}


@pytest.mark.parametrize("change", MISLEADING.values(), ids=MISLEADING)
def test_a_line_that_is_not_what_it_begins_as_is_noticed(change: Callable[[bytes], bytes]) -> None:
    """By its owner; without narrowing, the shares are the block."""
    strange = change(line(5))
    data = block(strange)
    [owner] = owners_of(Ids.of([IDS[5]]), 2).tolist()
    with pytest.raises(MisleadingLineError):
        decode_block(data, Share(owner, 2))
    assert_is_divided(data, 2, narrow=False)


def test_only_own_lines_are_followed_to_their_end() -> None:
    """A line of another share may hold anything behind its id."""
    data = block(line(5)[:130])
    [owner] = owners_of(Ids.of([IDS[5]]), 2).tolist()
    part: Decoded = decode_block(data, Share(1 - owner, 2))
    assert not part.rejected
