"""One snapshot of the flow's state: `python -m tests.benchmarks.snapshot RECORDING` prints its milliseconds.

The state is that of all shards after half of the recording. Its snapshot is taken, pickled and written as Bytewax does,
a row a shard, into a recovery store; the least of several times, for what a neighbour takes is not the snapshot's.
"""

from __future__ import annotations

import pickle
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from connectors.format.decode import decode_block
from connectors.journal.recording import Recording
from connectors.state.recovery import make_recovery_store
from flows.analytics.shard import Shard
from flows.analytics.shards import split
from flows.dataflow import SHARDS

__all__: list[str] = []

TIMES = 7
BLOCK_BYTES = 4 << 20


def main() -> None:
    """Measure."""
    path = Path(sys.argv[1])
    shards = [Shard() for _ in SHARDS]
    half = path.stat().st_size // 2 // BLOCK_BYTES
    for number, data in zip(range(half), Recording([path]).chunks(0, 0, BLOCK_BYTES), strict=False):
        for shard, part in zip(shards, split(number, decode_block(data), len(SHARDS), last=False), strict=True):
            shard.apply(part)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        make_recovery_store(Path(directory) / "recovery")
        store = sqlite3.connect(Path(directory) / "recovery" / "part-0.sqlite3")
        store.execute("CREATE TABLE shards (shard INTEGER, epoch INTEGER, snap BLOB)")
        store.commit()
        print(min(_snapshot_ms(shards, store, epoch) for epoch in range(TIMES)))


def _snapshot_ms(shards: list[Shard], store: sqlite3.Connection, epoch: int) -> float:
    began = time.perf_counter()
    rows = [(number, epoch, pickle.dumps(shard.snapshot())) for number, shard in enumerate(shards)]
    with store:
        store.executemany("INSERT INTO shards VALUES (?, ?, ?)", rows)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
