"""Old segments are compressed and removed, and never one that a restart may need."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from connectors.errors import StateError
from connectors.journal.recording import Recording
from connectors.journal.segments import (
    COMPRESSED,
    SNAPSHOTS_BACK,
    JournalTail,
    Position,
    RetentionWatermark,
    begin_of,
    compress,
    segments,
    tidy,
)
from connectors.journal.writer import Journal
from tests.support.clocks import same_clocks


def write_segments(directory: Path, count: int) -> list[bytes]:
    """A journal of `count` segments with a few frames in each; the text of each segment."""
    times = iter(range(1_700_000_000, 1_800_000_000))
    journal = Journal(
        directory, settings={}, read_clocks=same_clocks(lambda: float(next(times))), max_segment_bytes=400
    )
    while len(segments(directory)) < count:
        journal.frame(b'{"event":"x","entity":{"id":"c"},"timestamp":1}')
        journal.flush()
    journal.close()
    return [path.read_bytes() for path in segments(directory)]


def read_all(tail: JournalTail) -> bytes:
    """Everything that a tail has to give."""
    text = b""
    while data := tail.read(1 << 16)[1]:
        text += data
    return text


def test_a_compressed_segment_says_the_same_to_everybody(tmp_path):
    """The tail of the journal, a resume within it, and a replay read a compressed segment like the plain one."""
    texts = write_segments(tmp_path, 3)
    packed = compress(segments(tmp_path)[0])
    assert not packed.with_suffix("").exists()
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    assert segments(tmp_path)[0] == packed
    assert read_all(JournalTail(tmp_path, None)) == b"".join(texts)
    offset = texts[0].index(b"\n") + 1
    assert read_all(JournalTail(tmp_path, Position("00000001.jsonl", offset, 1))) == b"".join(texts)[offset:]
    recording = Recording(segments(tmp_path))
    assert b"".join(b"".join(recording.chunks(n, 0, 100)) for n in range(3)) == b"".join(texts)


def test_a_journal_begins_with_its_oldest_record(tmp_path):
    """The time of the first record that is kept, in a plain, an emptied or a compressed segment; none without one."""
    assert begin_of(tmp_path) is None
    write_segments(tmp_path, 3)
    first, second, _ = segments(tmp_path)
    begin = begin_of(tmp_path)
    assert begin is not None
    assert 1_700_000_000 <= begin < 1_700_000_010
    compress(first)
    assert begin_of(tmp_path) == begin
    first.with_name(first.name + COMPRESSED).unlink()
    later = begin_of(tmp_path)
    assert later is not None
    assert later > begin
    second.write_bytes(b"")
    last = begin_of(tmp_path)
    assert last is not None
    assert last > later


def test_only_what_no_restart_needs_is_touched(tmp_path):
    """Segments from the safe place on stay as they are; older ones are compressed, and in the end removed."""
    write_segments(tmp_path, 5)
    first, second = segments(tmp_path)[:2]
    assert first.name == "00000001.jsonl"
    tidy(tmp_path, 4, expired={1, 4})
    names = [path.name for path in segments(tmp_path)]
    assert names == ["00000002.jsonl.zst", "00000003.jsonl.zst", "00000004.jsonl", "00000005.jsonl"]
    tidy(tmp_path, 4, expired={2, 4})
    assert [path.name for path in segments(tmp_path)] == names[1:]
    assert not second.exists()


def test_a_crash_in_the_middle_of_compressing_costs_nothing(tmp_path):
    """Before the rename the plain segment counts; after it, both are there and the plain one counts once."""
    texts = write_segments(tmp_path, 2)
    plain = segments(tmp_path)[0]
    text = plain.read_bytes()
    packed = compress(plain)
    plain.write_bytes(text)
    (tmp_path / "00000002.jsonl.zst.new").write_bytes(b"half")
    assert read_all(JournalTail(tmp_path, None)) == b"".join(texts)
    tidy(tmp_path, 2, expired=())
    assert not plain.exists()
    assert packed.exists()


def test_a_damaged_segment_is_named(tmp_path):
    """A compressed segment that cannot be read is one clear error."""
    write_segments(tmp_path, 2)
    compress(segments(tmp_path)[0]).write_bytes(b"\x28\xb5\x2f\xfd junk")
    with pytest.raises(StateError, match=r"00000001\.jsonl\.zst is damaged"):
        JournalTail(tmp_path, None)


def test_a_segment_that_was_cut_is_damaged(tmp_path):
    """A compressed segment without its last bytes is refused, and not taken for a shorter one."""
    write_segments(tmp_path, 2)
    packed = compress(segments(tmp_path)[0])
    packed.write_bytes(packed.read_bytes()[:-1])
    with pytest.raises(StateError, match=r"00000001\.jsonl\.zst is damaged"):
        JournalTail(tmp_path, None)


def test_the_safe_place_lags_behind_the_snapshots():
    """Nothing is safe before enough snapshots were taken; then it is the segment of one some snapshots ago."""
    safe = RetentionWatermark()
    for number in range(1, SNAPSHOTS_BACK):
        safe.note(f"{number:08d}.jsonl")
        assert safe.number == 0
    for number in range(SNAPSHOTS_BACK, SNAPSHOTS_BACK + 5):
        safe.note(f"{number:08d}.jsonl")
        assert safe.number == number - SNAPSHOTS_BACK + 1


def test_the_plain_segment_goes_when_the_compressed_one_is_on_the_disk(tmp_path, monkeypatch):
    """Its bytes and then its name are synced while the plain one is still there."""
    write_segments(tmp_path, 2)
    segment = segments(tmp_path)[0]
    synced = []
    fsync = os.fsync

    def noted(fd):
        fsync(fd)
        packed = Path(f"{segment}{COMPRESSED}")
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), segment.exists(), packed.exists()))

    monkeypatch.setattr(os, "fsync", noted)
    compress(segment)
    assert synced == [(False, True, False), (True, True, True)]
    assert not segment.exists()


def test_a_failed_compression_leaves_nothing_behind(tmp_path, monkeypatch):
    """A disk that fills up meanwhile keeps the plain segment, and no half of the other."""
    write_segments(tmp_path, 2)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        compress(segments(tmp_path)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
