"""The ids and positions that a feed looks for in the journal when it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.errors import RecordingError
from connectors.journal.events import recorded_event_ids, recorded_offsets
from connectors.journal.segments import segments
from connectors.journal.writer import Journal

EVENT = b'{"id":"%b","detail-type":"t","detail":{}}'
FRAME = b'{"id":"kafka:calls:%d:%d","event":"conversation.updated","entity":{"id":"c1"},"timestamp":1}'
OTHERS = 40
DAMAGED = b"\x28\xb5\x2f\xfd, which is how Zstandard begins"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A journal of several segments, in which the feeds `bus` and `topic` have written little, and that first."""
    journal = Journal(tmp_path, settings={}, max_segment_bytes=4096)
    for name in ("calls", "bus", "topic"):
        journal.feed(name, "up", "connected")
    for id_ in (b"e1", b"e2"):
        journal.recorder("bus").frame(EVENT % id_)
    for partition, offset in ((0, 7), (1, 3), (0, 8)):
        journal.recorder("topic").frame(FRAME % (partition, offset))
    journal.recorder("topic").invalid("junk", "message kafka:calls:1:4: not JSON")
    for number in range(OTHERS):
        journal.recorder("calls").frame(EVENT % b"other%d" % number + b" " * 400)
        journal.flush()
    journal.close()
    assert len(segments(tmp_path)) > 3
    return tmp_path


def test_a_quiet_feed_is_found_behind_many_lines_of_others(directory: Path) -> None:
    """What a feed wrote long ago is found, however many lines other feeds have written since."""
    assert recorded_event_ids(directory, "bus", 10) == ["e1", "e2"]
    assert recorded_offsets(directory, "topic", "calls", 10) == {0: 8, 1: 4}
    assert recorded_offsets(directory, "topic", "others", 10) == {}


def test_a_feed_that_has_enough_in_the_last_segments_reads_no_more(directory: Path) -> None:
    """The newest segments are read until they hold as many as are remembered."""
    segments(directory)[0].with_suffix(".jsonl.zst").write_bytes(DAMAGED)
    segments(directory)[0].unlink()
    found = recorded_event_ids(directory, "calls", 5)
    assert len(found) >= 5
    assert found[-1] == f"other{OTHERS - 1}"
    with pytest.raises(RecordingError):
        recorded_event_ids(directory, "calls", OTHERS + 1)


def test_a_new_feed_reads_the_last_segment_only(directory: Path) -> None:
    """No segment that ends before the feed was first up can hold what it wrote, so that none of them is read."""
    for segment in segments(directory):
        segment.with_suffix(".jsonl.zst").write_bytes(DAMAGED)
        segment.unlink()
    journal = Journal(directory, settings={})
    assert recorded_event_ids(directory, "new", 10) == []
    assert recorded_offsets(directory, "new", "calls", 10) == {}
    journal.close()


def test_a_feed_that_began_in_the_last_segment_is_found_there(directory: Path) -> None:
    """The search goes back until a segment does not name the feed at all."""
    journal = Journal(directory, settings={})
    journal.feed("late", "up", "connected")
    journal.recorder("late").frame(EVENT % b"e9")
    journal.close()
    assert recorded_event_ids(directory, "late", 10) == ["e9"]


def test_keys_of_a_message_are_not_those_of_a_line(tmp_path: Path) -> None:
    """A message that holds the name of a feed, or a whole line, is not taken for what that feed wrote."""
    journal = Journal(tmp_path, settings={})
    journal.feed("bus", "up", "connected")
    nested = b'{"received_at":1.5,"via":"bus","frame":{"id":"e1","detail-type":"t","detail":{}}}'
    journal.recorder("other").frame(b'{"id":"e2","detail-type":"t","detail":%b}' % nested)
    journal.recorder("other").invalid(nested, "not JSON")
    journal.recorder("bus").frame(b'{"detail-type":"t","detail":%b}' % nested)
    journal.close()
    assert recorded_event_ids(tmp_path, "bus", 10) == []
