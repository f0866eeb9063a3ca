"""The watches that a new segment begins with: those that the dataflow has in force there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.format.decode import decode_pieces
from connectors.journal.segments import segments
from connectors.journal.writer import Journal
from flows.analytics.shard import Shard
from flows.analytics.shards import split
from tests.support.clocks import FakeClocks

START = 1_700_000_000.0
RULES = {"windows": {"length_s": 10, "slide_s": 5}, "watch": {"forget_after_s": 60}}


def journal_in(directory: Path, clocks: FakeClocks, **more: Any) -> Journal:
    return Journal(directory, **{"settings": RULES, "read_clocks": clocks, **more})


def frame(clocks: FakeClocks, name: str, event: str = "conversation.updated") -> bytes:
    return orjson.dumps({"event": event, "entity": {"id": name}, "timestamp": clocks.wall - 0.02})


def head(path: Path) -> dict[str, float]:
    """Return the watches that a segment begins with, each with the time of its last frame behind `START`."""
    watches: dict[str, float] = {}
    for line in path.read_bytes().splitlines():
        record = orjson.loads(line)
        if "watch" in record:
            watches[record["watch"]["conversation_id"]] = record["watch"]["last_frame_at"] - START
        elif "settings" not in record:
            break
    return watches


def test_a_watch_without_frames_is_dropped_and_the_others_keep_their_wait(tmp_path: Path) -> None:
    """Across segments and across a restart."""
    clocks = FakeClocks(START)
    with_rolls = {"max_segment_age_s": 30.0}
    journal = journal_in(tmp_path, clocks, **with_rolls)
    for name in ("silent", "live"):
        journal.watch({"conversation_id": name})
    clocks.advance(20.0)
    journal.frames([frame(clocks, "live"), frame(clocks, "unknown")])
    clocks.advance(20.0)
    journal.tick()
    assert head(segments(tmp_path)[-1]) == {"silent": 0.0, "live": 20.0}
    journal.close()
    clocks.advance(19.0)
    journal = journal_in(tmp_path, clocks, **with_rolls)
    assert head(segments(tmp_path)[-1]) == {"silent": 0.0, "live": 20.0}
    clocks.advance(1.0)
    journal.tick()
    assert (journal.is_watching("silent"), journal.is_watching("live")) == (False, True)
    clocks.advance(20.0)
    journal.tick()
    assert not journal.is_watching("live")
    journal.close()


def test_another_limit_restarts_every_wait(tmp_path: Path) -> None:
    """As it does in the dataflow."""
    clocks = FakeClocks(START)
    journal = journal_in(tmp_path, clocks)
    journal.watch({"conversation_id": "c"})
    clocks.advance(50.0)
    journal.close()
    journal = journal_in(tmp_path, clocks, settings={**RULES, "watch": {"forget_after_s": 30}})
    assert head(segments(tmp_path)[-1]) == {"c": 50.0}
    journal.close()


@pytest.mark.parametrize("seed", range(4))
def test_the_dataflow_watches_what_the_journal_does(tmp_path: Path, seed: int) -> None:
    """At every moment, with restarts, new segments and steps of the clock; no segment brings back what has ended."""
    rng = random.Random(seed)
    clocks = FakeClocks(START)
    journal = journal_in(tmp_path, clocks, max_segment_age_s=40.0)
    shard, done, silent = Shard(), b"", []
    for _ in range(100):
        clocks.advance(rng.choice([0.5, 3.0, 11.0, 25.0, 60.0]))
        if rng.random() < 0.05:
            clocks.set_wall(rng.choice([500.0, -300.0]))
        name = rng.choice("abcde")
        if rng.random() < 0.3:
            journal.watch({"conversation_id": name})
        elif rng.random() < 0.1:
            journal.frame(frame(clocks, name, "conversation.ended"))
        else:
            journal.frames([frame(clocks, name)])
        journal.tick()
        if rng.random() < 0.1:
            journal.close()
            journal = journal_in(tmp_path, clocks, max_segment_age_s=40.0)
        written = b"".join(path.read_bytes() for path in segments(tmp_path))
        for _, decoded in decode_pieces(written[len(done) :]):
            silent += shard.apply(split(0, decoded, 1, last=False)[0]).silent
        done = written
        watched = {one for one in "abcde" if journal.is_watching(one)}
        assert shard.watching == len(watched)
    assert silent
    journal.close()
