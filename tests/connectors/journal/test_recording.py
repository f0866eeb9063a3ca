"""Recordings: which files are taken, in which order, and that every line of them is read once from anywhere."""

from __future__ import annotations

import gzip
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from bytewax.testing import poll_next_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.errors import RecordingError
from connectors.journal.blocks import Block, BlockRef
from connectors.journal.recording import Recording
from connectors.journal.source import RecordingSource

Pack = Callable[[bytes], bytes]


def zstd_frames(text: bytes) -> bytes:
    """Two frames, as of two files put together, with one of no meaning (RFC 8878, 3.1.2) between them."""
    half = len(text) // 2
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    return zstd.compress(text[:half]) + skippable + zstd.compress(text[half:])


PACKS: dict[str, Pack] = {
    "plain": lambda text: text,
    "gzip": gzip.compress,
    "gzip members": lambda text: gzip.compress(text[:7]) + gzip.compress(text[7:]),
    "zstd": zstd.compress,
    "zstd frames": zstd_frames,
}
packed = pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())


def tick(at: float, more: str = "") -> bytes:
    return b'{"received_at":%r,"tick":true%b}\n' % (at, more.encode())


def lines(begin: int, end: int) -> bytes:
    return b"".join(tick(float(at)) for at in range(begin, end))


def saved(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def text_of(recording: Recording, offset: int = 0, size: int = 100) -> bytes:
    return b"".join(recording.chunks(0, offset, size))


# What is read


@packed
def test_a_recording_is_read_whatever_it_is_packed_in(tmp_path: Path, pack: Pack) -> None:
    """Plain, gzip and Zstandard files of any number of members give the same text; names do not matter."""
    path = saved(tmp_path, "recording.txt", pack(lines(0, 1000)))
    for size in (1, 33, 4096, 10**6):
        chunks = list(Recording([path]).chunks(0, 0, size))
        assert b"".join(chunks) == lines(0, 1000)
        assert all(chunk.endswith(b"\n") for chunk in chunks)


@packed
def test_reading_goes_on_from_any_line(tmp_path: Path, pack: Pack) -> None:
    """An offset counts bytes of the text, compressed or not."""
    text = lines(0, 300)
    recording = Recording([saved(tmp_path, "recording", pack(text))])
    for at in range(0, 301, 50):
        offset = len(lines(0, at))
        assert text_of(recording, offset, 777) == text[offset:]


@packed
def test_a_last_line_without_its_end_is_read_too(tmp_path: Path, pack: Pack) -> None:
    """A torn last line comes as it is, behind the complete ones."""
    text = lines(0, 10) + b'{"received_at":10.0,"ti'
    chunks = list(Recording([saved(tmp_path, "recording", pack(text))]).chunks(0, 0, 100))
    assert b"".join(chunks) == text
    assert all(chunk.endswith(b"\n") for chunk in chunks[:-1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=30), st.integers(1, 60), st.sampled_from(list(PACKS)))
def test_chunks_cut_anywhere_give_the_same_lines(parts: list[bytes], size: int, pack: str) -> None:
    """However large the reads are, the chunks are whole lines and together the whole text."""
    text = tick(1.0) + b"\n".join(parts)
    with tempfile.TemporaryDirectory() as directory:
        path = saved(Path(directory), "recording", PACKS[pack](text))
        chunks = list(Recording([path]).chunks(0, 0, size))
    assert b"".join(chunks) == text
    assert all(chunk.endswith(b"\n") for chunk in chunks[:-1])
    assert all(chunk for chunk in chunks)


# Which files are taken


@packed
def test_several_files_are_ordered_by_their_first_record(tmp_path: Path, pack: Pack) -> None:
    """The order of the names and of the arguments plays no part, and one may begin when another ends."""
    a = saved(tmp_path, "a", pack(lines(20, 31)))
    b = saved(tmp_path, "b", pack(lines(0, 11)))
    c = saved(tmp_path, "c", pack(lines(10, 21)))
    assert Recording([a, b, c]).paths == [b, c, a]


@packed
def test_files_that_overlap_in_time_are_refused(tmp_path: Path, pack: Pack) -> None:
    """The error names both files with their ranges, and what to do."""
    first = saved(tmp_path, "first", pack(lines(0, 11)))
    second = saved(tmp_path, "second", pack(lines(9, 20)))
    with pytest.raises(RecordingError) as refused:
        Recording([second, first])
    assert str(refused.value) == (
        f"{first} (0.0 to 10.0) and {second} (9.0 to 19.0) overlap in time; replay them one at a time, or join "
        "captures of several feeds in order of time: "
        "jq -cs 'sort_by(.received_at // .receivedAt // .timestamp)[]' FILE..."
    )


def test_the_same_file_twice_is_an_overlap(tmp_path: Path) -> None:
    """A file that is named twice is not replayed twice."""
    path = saved(tmp_path, "recording", lines(0, 5))
    with pytest.raises(RecordingError, match="overlap in time"):
        Recording([path, path])


def test_the_end_of_a_large_file_is_found(tmp_path: Path) -> None:
    """The last record counts even when it is far behind the first, and a torn line after it does not."""
    for name, pack in PACKS.items():
        large = saved(tmp_path, f"large-{name}", pack(lines(0, 60_000) + b'{"received_at":99'))
        small = saved(tmp_path, "small", lines(59_000, 59_010))
        with pytest.raises(RecordingError, match=r"\(0\.0 to 59999\.0\) and .* \(59000\.0 to 59009\.0\) overlap"):
            Recording([small, large])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty; a recording has a JSON object on each line"),
        (b"\n \n\r\n\t\n", "the file is empty; a recording has a JSON object on each line"),
        (b"\xef\xbb\xbf", "the file is empty; a recording has a JSON object on each line"),
        (gzip.compress(b""), "the file is empty; a recording has a JSON object on each line"),
        (lines(0, 9).decode().encode("utf-16"), "not UTF-8 text; a recording is JSON Lines, plain, gzip (.gz) or "),
        ('{"name":"café"}\n'.encode("latin-1"), "not UTF-8 text; a recording is JSON Lines, plain, gzip (.gz) or "),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8 text; a recording is JSON Lines, plain, gzip (.gz) or "),
        (gzip.compress(lines(0, 99))[:-20], "cannot be read: Compressed file ended before"),
        (gzip.compress(lines(0, 99))[:40] + b"\xff" * 99, "cannot be read: Error -3 while decompressing"),
        (b"\x1f\x8b\x01\x01" + b"x" * 20, "cannot be read: Unknown compression method"),
        (
            zstd.compress(lines(0, 9999))[:-9],
            "cannot be read: Compressed file ended before the end-of-stream marker was reached",
        ),
        (zstd.compress(lines(0, 9))[:8] + b"\xff" * 99, "cannot be read: Unable to decompress Zstandard data: "),
    ],
)
def test_an_unfit_file_is_one_clear_error(tmp_path: Path, content: bytes, reason: str) -> None:
    """What is empty, not text or damaged is refused with its name and the reason, in one line."""
    path = saved(tmp_path, "recording", content)
    with pytest.raises(RecordingError) as refused:
        text_of(Recording([path]))
    assert str(refused.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path: Path) -> None:
    """A missing file and a directory are named with the system's reason."""
    with pytest.raises(RecordingError, match=r"missing: cannot be read: No such file or directory$"):
        Recording([tmp_path / "missing"])
    with pytest.raises(RecordingError, match=f"^{tmp_path}: cannot be read: Is a directory$"):
        Recording([tmp_path])


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_damage_far_behind_the_beginning_is_found_when_it_is_reached(tmp_path: Path, pack: Pack) -> None:
    """A large compressed file that was cut short is an error, not a shorter recording."""
    path = saved(tmp_path, "recording", pack(lines(0, 120_000))[:-100])
    recording = Recording([path])
    with pytest.raises(RecordingError, match="recording: cannot be read: "):
        text_of(recording, size=1 << 20)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    """A file that some editor saved with a mark is ordered and read like any other."""
    marked = saved(tmp_path, "marked", b"\xef\xbb\xbf" + lines(0, 5))
    other = saved(tmp_path, "other", lines(5, 9))
    assert Recording([other, marked]).paths == [marked, other]
    [first, *_] = blocks_of(RecordingSource(Recording([marked]), stop=threading.Event()))
    assert first.data == lines(0, 5)


def test_what_is_no_time_moves_no_file(tmp_path: Path) -> None:
    """Lines that the flow rejects for their time, such as one in milliseconds, say nothing of when a file is."""
    wrong = b'{"received_at":1700000000000,"tick":true}\n'
    first = saved(tmp_path, "first", wrong + lines(0, 5) + wrong)
    second = saved(tmp_path, "second", b'{"timestamp":1e12}\n' + lines(5, 9))
    assert Recording([second, first]).paths == [first, second]


# The source over it


def blocks_of(
    source: RecordingSource, state: tuple[int, int, int, int] | None = None, most: int = 10**9
) -> list[Block]:
    part = source.build_part("step", "recording", state)
    blocks: list[Block] = []
    while True:
        try:
            blocks += poll_next_batch(part)
        except StopIteration:
            break
    part.close()
    return blocks


def test_what_is_no_time_holds_nothing_back(tmp_path: Path) -> None:
    """At a pace of its own, a recording goes on behind a line that the flow rejects for its time."""
    text = lines(0, 2) + b'{"received_at":1700000000000,"tick":true}\n' + lines(2, 3)
    source = RecordingSource(Recording([saved(tmp_path, "recording", text)]), speed=1000.0, stop=threading.Event())
    assert b"".join(block.data for block in blocks_of(source)) == text


def test_blocks_are_numbered_and_know_their_lines(tmp_path: Path) -> None:
    """Blocks count from 0 over all files, lines from 1 in each, and an empty block is the last."""
    first = saved(tmp_path, "first", lines(0, 200_000))
    second = saved(tmp_path, "second", gzip.compress(lines(200_000, 200_010) + b"torn"))
    blocks = blocks_of(RecordingSource(Recording([second, first]), stop=threading.Event()))
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert blocks[-1] == Block(len(blocks) - 1, "", 1, b"", last=True)
    assert not any(block.last for block in blocks[:-1])
    line = {str(first): 1, str(second): 1}
    for block in blocks[:-1]:
        assert block.line == line[block.source]
        line[block.source] += block.data.count(b"\n")
    assert b"".join(block.data for block in blocks) == lines(0, 200_010) + b"torn"
    assert len(blocks) >= 4


@pytest.mark.parametrize("speed", [None, 1e9])
def test_a_block_of_a_plain_file_is_sent_as_a_reference(tmp_path: Path, speed: float | None) -> None:
    """A block of a plain file goes to another process without its lines, however long they are; others with them."""
    text = lines(0, 5000) + tick(5000.0, f',"long":"{"x" * (5 << 20)}"') + lines(5001, 5002) + b"torn"
    paths = [
        saved(tmp_path, "marked", b"\xef\xbb\xbf" + text),
        saved(tmp_path, "packed", gzip.compress(lines(6000, 6500))),
        saved(tmp_path, "plain", lines(7000, 9000)),
    ]
    recording = Recording(paths)
    assert [recording.is_plain(index) for index in range(3)] == [True, False, True]
    blocks = blocks_of(RecordingSource(recording, speed=speed, stop=threading.Event()))
    assert b"".join(block.data for block in blocks) == text + lines(6000, 6500) + lines(7000, 9000)
    for block in blocks:
        sent = pickle.dumps(block)
        got = pickle.loads(sent)
        assert (got.resolved() if isinstance(got, BlockRef) else got) == block
        assert (block.data in sent) == (block.source == str(paths[1]) or block.last)
        assert len(sent) < 1000 or block.source == str(paths[1])


@pytest.mark.parametrize(("left", "reason"), [(100, "it has become shorter while it was"), (None, "No such file or")])
def test_a_plain_file_that_is_not_as_it_was_is_named(tmp_path: Path, left: int | None, reason: str) -> None:
    """A block that another process cannot read as it was read is an error with the file's name, and not less data."""
    path = saved(tmp_path, "recording", lines(0, 100))
    [block, _] = blocks_of(RecordingSource(Recording([path]), stop=threading.Event()))
    sent = pickle.dumps(block)
    if left is None:
        path.unlink()
    else:
        path.write_bytes(block.data[:left])
    ref = pickle.loads(sent)
    with pytest.raises(RecordingError, match=f"^{path}: cannot be read: {reason}"):
        ref.resolved()


@pytest.mark.parametrize("speed", [None, 1e9])
def test_the_source_goes_on_from_each_of_its_snapshots(tmp_path: Path, speed: float | None) -> None:
    """Stopped after any block and rebuilt from its snapshot, the source gives exactly the blocks that are left."""
    paths = [saved(tmp_path, "first", b"\xef\xbb\xbf" + lines(0, 5000)), saved(tmp_path, "second", lines(5000, 5003))]
    source = RecordingSource(Recording(paths), speed=speed, stop=threading.Event())
    whole = blocks_of(source)
    part = source.build_part("step", "recording", None)
    for number in range(len(whole)):
        state = part.snapshot()
        assert blocks_of(source, state) == whole[number:]
        poll_next_batch(part)
    assert blocks_of(source, part.snapshot()) == []


def test_a_stop_ends_the_source_as_if_the_rest_were_to_come(tmp_path: Path) -> None:
    """After a stop there is no last block, so that no window is closed early, and the rest can be read later."""
    stop = threading.Event()
    source = RecordingSource(Recording([saved(tmp_path, "recording", lines(0, 9))]), stop=stop)
    stop.set()
    assert blocks_of(source) == []


def test_at_its_real_pace_a_line_comes_when_it_is_due(tmp_path: Path) -> None:
    """With a speed, a line is read when as much time has passed as in the recording, divided by the speed."""
    text = tick(100.0) + b"junk\n" + tick(100.0, ',\r"a":1') + tick(104.0) + tick(104.0)
    source = RecordingSource(Recording([saved(tmp_path, "recording", text)]), speed=10.0, stop=threading.Event())
    part = source.build_part("step", "recording", None)
    began = time.monotonic()
    early = poll_next_batch(part)
    assert [block.data for block in early] == [b"".join(text.splitlines(keepends=True)[:4])]
    blocks: list[Block] = []
    while not blocks:
        blocks = poll_next_batch(part)
    assert time.monotonic() - began >= 0.4
    assert blocks[0].data == tick(104.0) * 2
    assert blocks[0].line == 4


# What people keep


@packed
def test_an_array_is_read_as_its_elements(tmp_path: Path, pack: Pack) -> None:
    """Packed or not, from any offset of its lines."""
    path = saved(tmp_path, "recording", pack(b"[" + b",\n ".join(lines(0, 2000).splitlines()) + b"]"))
    recording = Recording([path])
    assert text_of(recording) == lines(0, 2000)
    offset = len(lines(0, 777))
    assert text_of(recording, offset) == lines(777, 2000)
    assert not recording.is_plain(0)


def test_a_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    """It can be read once only, and a recording is read several times."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecordingError, match=r"pipe: is a pipe, .* write its content to a file first"):
        Recording([tmp_path / "pipe"])
    with pytest.raises(RecordingError, match="zero: is not a regular file"):
        Recording([Path("/dev/zero")])


def test_an_empty_file_among_others_is_passed_over(tmp_path: Path) -> None:
    """As a crash leaves one in a journal; alone it is an error, and so are two."""
    full, empty = saved(tmp_path, "00000001.jsonl", lines(0, 5)), saved(tmp_path, "00000002.jsonl", b"")
    assert Recording([full, empty]).paths == [full]
    with pytest.raises(RecordingError, match="the file is empty"):
        Recording([empty])
    with pytest.raises(RecordingError, match="the file is empty, and so are the others"):
        Recording([empty, empty])


def test_a_recording_of_which_every_line_is_rejected_is_described(tmp_path: Path) -> None:
    """With the name of the file; not if a line of any of its files is a record."""
    csv, good = saved(tmp_path, "a.csv", b"a,b\n1,2\n"), saved(tmp_path, "b", b"junk\n" + lines(0, 2))
    assert Recording([good]).refusal() is None
    assert Recording([csv, good]).refusal() is None
    refusal = Recording([csv]).refusal()
    assert refusal is not None
    assert refusal.startswith(f"{csv}: every line was rejected; it looks like CSV")
