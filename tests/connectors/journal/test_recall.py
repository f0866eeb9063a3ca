"""What is found again in a journal: the last frames of a feed."""

from __future__ import annotations

import json
from pathlib import Path

from connectors.journal.recall import recorded_frames
from connectors.journal.writer import Journal


def frame(number: int) -> bytes:
    """A frame."""
    return json.dumps({"event": "x", "entity": {"id": f"c{number}"}, "timestamp": 1.5}).encode()


def test_the_frames_of_a_feed_are_found_in_order_over_segments(tmp_path: Path) -> None:
    """Those of other feeds, invalid messages and other records are left out; a lone feed has no name."""
    for first in (0, 10):
        journal = Journal(tmp_path, settings={})
        desk, other = journal.recorder("desk"), journal.recorder("oth.er")
        for number in range(first, first + 10):
            desk.frame(frame(number))
            other.frame(frame(100 + number))
            desk.frame(b"not a frame")
            journal.frame(frame(200 + number))
        journal.watch({"conversation_id": "c1"})
        journal.close()
    assert recorded_frames(tmp_path, "desk") == [frame(number) for number in range(20)]
    assert recorded_frames(tmp_path, None) == [frame(200 + number) for number in range(20)]
    assert recorded_frames(tmp_path, "oth") == []


def test_the_last_frames_are_kept(tmp_path: Path) -> None:
    """Older ones are left out, and so are segments before enough bytes."""
    for first in range(0, 30, 10):
        journal = Journal(tmp_path, settings={})
        for number in range(first, first + 10):
            journal.frame(frame(number))
        journal.close()
    assert recorded_frames(tmp_path, None, limit=15) == [frame(number) for number in range(15, 30)]
    assert recorded_frames(tmp_path, None, max_bytes=1) == [frame(number) for number in range(20, 30)]
