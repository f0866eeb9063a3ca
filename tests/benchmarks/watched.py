"""What a stop and a start cost with many watched conversations: `python -m tests.benchmarks.watched 500000`.

The state is that of all shards after a frame of each conversation, when its window has ended. A snapshot is taken,
pickled and written as Bytewax does, a row a shard; then it is read, and other shards go on from it. Last, all watches
end at one moment, for none has had a frame for too long.
"""

from __future__ import annotations

import pickle
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from connectors.format.decode import decode_block
from connectors.format.limits import DEFAULT_FORGET_AFTER_S
from flows.analytics.shard import Shard
from flows.analytics.shards import split
from flows.dataflow import SHARDS

__all__: list[str] = []

START = 1_767_225_600.0
CONVERSATIONS_A_BLOCK = 10_000


def main() -> None:
    """Measure."""
    count = int(sys.argv[1])
    shards = [Shard() for _ in SHARDS]
    number = 0
    for begin in range(0, count, CONVERSATIONS_A_BLOCK):
        names = [
            f"{one:08x}-0000-4000-8000-{one:012x}" for one in range(begin, min(begin + CONVERSATIONS_A_BLOCK, count))
        ]
        _apply(shards, number, [*map(_watch, names), *map(_frame, names)])
        number += 1
    _apply(shards, number, [_line(60.0, {"tick": True})])
    with tempfile.TemporaryDirectory() as directory:
        store = sqlite3.connect(Path(directory) / "part-0.sqlite3")
        store.execute("CREATE TABLE snaps (shard INTEGER, snap BLOB)")
        began = time.perf_counter()
        rows = [(at, pickle.dumps(shard.snapshot())) for at, shard in enumerate(shards)]
        with store:
            store.executemany("INSERT INTO snaps VALUES (?, ?)", rows)
        _print("snapshot", f"{time.perf_counter() - began:.2f} s", f"{sum(len(row[1]) for row in rows) / 1e6:.0f} MB")
        del rows
        began = time.perf_counter()
        shards = [Shard() for _ in SHARDS]
        for at, data in store.execute("SELECT shard, snap FROM snaps"):
            shards[at].restore(pickle.loads(data))
        _print("start", f"{time.perf_counter() - began:.2f} s")
    began = time.perf_counter()
    _apply(shards, number + 1, [_line(61.0 + DEFAULT_FORGET_AFTER_S, {"tick": True})])
    _print("end of all watches", f"{time.perf_counter() - began:.2f} s", f"{sum(one.watching for one in shards)} left")
    _print("peak memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def _apply(shards: Sequence[Shard], number: int, lines: Sequence[bytes]) -> None:
    parts = split(number, decode_block(b"\n".join([*lines, b""])), len(shards), last=False)
    for shard, part in zip(shards, parts, strict=True):
        shard.apply(part)


def _line(at_s: float, record: dict[str, object]) -> bytes:
    return orjson.dumps({"received_at": START + at_s, **record})


def _watch(name: str) -> bytes:
    limits = {"max_latency_ms": 150, "packet_loss_threshold": 0.02, "qa_callback_url": "https://qa.example.com/alerts"}
    return _line(0.0, {"watch": {"conversation_id": name, "leg_id": f"leg-{name[:8]}", "feed": "calls", **limits}})


def _frame(name: str) -> bytes:
    frame = {"event": "conversation.updated", "entity": {"id": name}, "timestamp": START - 0.05}
    return _line(0.0, {"frame": {**frame, "metrics": {"packetLoss": 0.001}}})


def _print(what: str, *figures: str) -> None:
    print(f"{what:<20}", *figures, flush=True)


if __name__ == "__main__":
    main()
