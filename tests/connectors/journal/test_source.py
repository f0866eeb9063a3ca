"""The source over a journal that is being written: all of it, once, in order, and soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import orjson
from bytewax.inputs import StatefulSourcePartition

from connectors.journal.blocks import Block
from connectors.journal.source import QUIET_AFTER_S, JournalSource
from connectors.journal.writer import Journal
from connectors.runtime.shutdown import Shutdown

DEADLINE_S = 30.0
FRAMES = 20_000

Partition = StatefulSourcePartition[Block, object]


@contextmanager
def reading(directory: Path, *, segment_bytes: int = 1 << 26) -> Iterator[tuple[Journal, Partition, Shutdown]]:
    journals: list[Journal] = []
    shutdown = Shutdown()

    def open_journal() -> Journal:
        limit = segment_bytes
        journals.append(Journal(directory / "j", settings={}, max_segment_bytes=limit))
        return journals[0]

    source = JournalSource(directory / "lock", open_journal, lambda _: [], shutdown, keep_s=3600.0)
    part: Partition = source.build_part("step", "journal", None)  # type: ignore[assignment]
    yield journals[0], part, shutdown
    part.close()


def message(number: int) -> bytes:
    return b'{"event":"conversation.updated","entity":{"id":"c"},"timestamp":%d}' % number


def numbers(block: Block) -> list[int]:
    records = map(orjson.loads, block.data.splitlines())
    return [record["frame"]["timestamp"] for record in records if "frame" in record]


def next_block(part: Partition) -> Block:
    end = time.monotonic() + DEADLINE_S
    while not (blocks := list(part.next_batch())):
        assert time.monotonic() < end
    [block] = blocks
    return block


def test_all_that_is_written_until_the_stop_is_read_once(tmp_path: Path) -> None:
    """Behind a writer, over many segments, every frame comes once and in order, the last ones after the stop."""
    with reading(tmp_path, segment_bytes=100_000) as (journal, part, shutdown):

        def write() -> None:
            for begin in range(0, FRAMES, 40):
                journal.frames([message(number) for number in range(begin, begin + 40)])
                if begin % 3:
                    journal.flush()
            shutdown.requested.set()

        writer = threading.Thread(target=write)
        writer.start()
        found: list[Block] = []
        ended = False
        while not ended:
            try:
                found += part.next_batch()
            except StopIteration:
                ended = True
        writer.join()
    assert [number for block in found for number in numbers(block)] == list(range(FRAMES))
    assert [block.number for block in found] == list(range(len(found)))
    assert len({block.source for block in found}) > 10


def test_a_write_wakes_a_source_that_waits(tmp_path: Path) -> None:
    """Where nothing has come for a while the source sleeps, and what is written then is there at once."""
    with reading(tmp_path) as (journal, part, _):
        next_block(part)
        waited_s = 0.0
        while waited_s < QUIET_AFTER_S / 2:  # which only a call that waits can take, but for a very busy machine
            began = time.monotonic()
            part.next_batch()
            waited_s = time.monotonic() - began
        journal.frame(message(1))
        writer = threading.Timer(QUIET_AFTER_S / 10, journal.flush)
        writer.start()
        while not (got := numbers(next_block(part))):
            pass  # a tick came first
        assert got == [1]


def test_a_clock_that_is_set_back_delays_no_poll(tmp_path: Path) -> None:
    """The time of the next poll, which Bytewax compares with the system clock, has passed whatever that clock says."""
    with reading(tmp_path) as (_, part, _):
        next_block(part)
        assert part.next_batch() == []
        assert part.next_awake() == datetime(1970, 1, 1, tzinfo=UTC)
