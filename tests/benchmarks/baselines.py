"""What the job is compared with, each a whole program: `python -m tests.benchmarks.baselines NAME RECORDING OUT`.

`stock` is Bytewax' own windowing, tuned: msgspec, unordered, many lines an item. `documented` is the form that its
documentation shows: a Pydantic model, ordered. Both read no system clock, without which they drop recorded frames as
late. `duckdb` needs the package of that name. `plain` has a dictionary and no windows, `parse`
nothing but the parser.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

__all__ = ["BASELINES", "WINDOWED"]

LENGTH_S, SLIDE_S = 10, 5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LINES = 1000
Frame = tuple[datetime, float, float]


def parse(recording: Path, out: Path) -> None:
    """orjson.loads of each line, and nothing else."""
    import orjson

    loads = orjson.loads
    with recording.open("rb") as lines:
        for line in lines:
            loads(line)


def plain(recording: Path, out: Path) -> None:
    """The loop that everybody writes first: json.loads, a dictionary, a comparison; no windows."""
    state: dict[str, dict[str, Any]] = {}
    with recording.open("rb") as lines, (out / "alerts.jsonl").open("w") as alerts:
        for line in lines:
            record = json.loads(line)
            if "frame" not in record:
                continue
            frame = record["frame"]
            latency_ms = (record["received_at"] - frame["timestamp"]) * 1000
            loss = frame["metrics"]["packetLoss"]
            kept = state.setdefault(frame["entity"]["id"], {"frames": 0, "total": 0.0, "most": 0.0, "alerted": False})
            kept["frames"] += 1
            kept["total"] += latency_ms
            kept["most"] = max(kept["most"], latency_ms)
            breaches = latency_ms > 150 or loss > 0.02
            if breaches and not kept["alerted"]:
                alerts.write(json.dumps({"id": frame["entity"]["id"], "latency_ms": latency_ms, "loss": loss}) + "\n")
            kept["alerted"] = breaches


def stock(recording: Path, out: Path) -> None:
    """Bytewax' windows, tuned."""
    import msgspec

    entity = msgspec.defstruct("Entity", [("id", str)], gc=False)
    metrics = msgspec.defstruct("Metrics", [("packetLoss", float)], gc=False)
    inner = msgspec.defstruct("Inner", [("entity", entity), ("timestamp", float), ("metrics", metrics)], gc=False)
    record_type = msgspec.defstruct("Record", [("received_at", float), ("frame", inner | None, None)], gc=False)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(record_type).decode

    def frames(lines: list[bytes]) -> Iterator[tuple[str, Frame]]:
        for record in map(decode, lines):
            frame = record.frame
            if frame is not None:
                yield frame.entity.id, _frame(record.received_at, frame.timestamp, frame.metrics.packetLoss)

    _bytewax(recording, out, frames, ordered=False)


def documented(recording: Path, out: Path) -> None:
    """Bytewax' windows as documented."""
    from pydantic import BaseModel

    class Entity(BaseModel):
        id: str

    class Metrics(BaseModel):
        packetLoss: float  # noqa: N815

    class Inner(BaseModel):
        event: str
        entity: Entity
        timestamp: float
        metrics: Metrics

    class Record(BaseModel):
        received_at: float
        frame: Inner | None = None

    def frames(lines: list[bytes]) -> Iterator[tuple[str, Frame]]:
        for line in lines:
            record = Record.model_validate_json(line)
            frame = record.frame
            if frame is not None:
                yield frame.entity.id, _frame(record.received_at, frame.timestamp, frame.metrics.packetLoss)

    _bytewax(recording, out, frames, ordered=True)


def _frame(received_at: float, timestamp: float, loss: float) -> Frame:
    latency_ms = round((received_at - timestamp) * 1e6) / 1000
    return EPOCH + timedelta(microseconds=int(received_at * 1e6)), latency_ms, loss


def _bytewax(
    recording: Path, out: Path, frames: Callable[[list[bytes]], Iterator[tuple[str, Frame]]], *, ordered: bool
) -> None:
    import bytewax.operators as op
    import orjson
    from bytewax.dataflow import Dataflow
    from bytewax.inputs import DynamicSource, StatelessSourcePartition
    from bytewax.operators.windowing import EventClock, SlidingWindower, fold_window
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.run import cli_main

    class Lines(StatelessSourcePartition[list[bytes]]):
        def __init__(self) -> None:
            self._file = recording.open("rb")

        def next_batch(self) -> list[list[bytes]]:
            lines = list(islice(self._file, LINES))
            if not lines:
                self._file.close()
                raise StopIteration
            return [lines]

    class Reading(DynamicSource[list[bytes]]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Lines:
            return Lines()

    class Text(StatelessSinkPartition[bytes]):
        def __init__(self) -> None:
            self._file = (out / "windows.jsonl").open("wb")

        def write_batch(self, items: list[bytes]) -> None:
            self._file.writelines(items)

        def close(self) -> None:
            self._file.close()

    class Writing(DynamicSink[bytes]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Text:
            return Text()

    def add(kept: list[tuple[float, float]], frame: Frame) -> list[tuple[float, float]]:
        kept.append((frame[1], frame[2]))
        return kept

    def line(item: tuple[str, tuple[int, list[tuple[float, float]]]]) -> bytes:
        conversation_id, (number, kept) = item
        row: bytes = orjson.dumps(_summary(conversation_id, number, kept), option=orjson.OPT_APPEND_NEWLINE)
        return row

    now = datetime.now(UTC)
    clock: EventClock[Frame] = EventClock(
        ts_getter=lambda frame: frame[0],
        wait_for_system_duration=timedelta(0),
        now_getter=lambda: now,
        to_system_utc=lambda _: None,
    )
    windower = SlidingWindower(timedelta(seconds=LENGTH_S), timedelta(seconds=SLIDE_S), EPOCH)
    flow = Dataflow("stock")
    keyed = op.flat_map("decode", op.input("lines", flow, Reading()), frames)
    windows = fold_window("windows", keyed, clock, windower, list, add, lambda one, two: one + two, ordered=ordered)
    op.output("write", op.map("line", windows.down, line), Writing())
    cli_main(flow)  # type: ignore[no-untyped-call]


def _summary(conversation_id: str, number: int, kept: list[tuple[float, float]]) -> dict[str, Any]:
    latency = sorted(one[0] for one in kept)
    count = len(latency)
    return {
        "conversation_id": conversation_id,
        "start": float(number * SLIDE_S),
        "end": float(number * SLIDE_S + LENGTH_S),
        "frames": count,
        "latency_ms": {
            "count": count,
            "min": latency[0],
            "mean": sum(latency) / count,
            "max": latency[-1],
            **{f"p{percent}": latency[(percent * count + 99) // 100 - 1] for percent in (50, 95, 99)},
        },
        "packet_loss": {
            "count": count,
            "mean": sum(one[1] for one in kept) / count,
            "max": max(one[1] for one in kept),
        },
    }


def duckdb(recording: Path, out: Path) -> None:
    """One batch query over the whole file, on one thread; no rules, no recovery, no live mode."""
    import duckdb as database

    ranks = ", ".join(f"p{percent}: quantile_disc(latency, {percent / 100})" for percent in (50, 95, 99))
    query = f"""
        COPY (
            WITH frames AS (
                SELECT frame.entity.id AS id, received_at, frame.metrics.packetLoss AS loss,
                    round_even((received_at - frame.timestamp) * 1e6, 0) / 1000 AS latency
                FROM read_ndjson('{recording}', columns = {{
                    received_at: 'DOUBLE',
                    frame: 'STRUCT(entity STRUCT(id VARCHAR), timestamp DOUBLE, metrics STRUCT(packetLoss DOUBLE))'
                }}) WHERE frame IS NOT NULL
            ), placed AS (
                SELECT *, unnest([floor(received_at / {SLIDE_S}) - 1, floor(received_at / {SLIDE_S})]) AS number
                FROM frames
            )
            SELECT id AS conversation_id, number * {SLIDE_S} AS start, number * {SLIDE_S} + {LENGTH_S} AS "end",
                count(*) AS frames,
                {{count: count(latency), min: min(latency), mean: avg(latency), max: max(latency), {ranks}}}
                    AS latency_ms,
                {{count: count(loss), mean: avg(loss), max: max(loss)}} AS packet_loss
            FROM placed GROUP BY id, number
        ) TO '{out / "windows.jsonl"}' (FORMAT json)"""
    database.connect(config={"threads": 1}).execute(query)


BASELINES: dict[str, Callable[[Path, Path], None]] = {
    "parse": parse,
    "plain": plain,
    "stock": stock,
    "documented": documented,
    "duckdb": duckdb,
}
WINDOWED = ("stock", "documented", "duckdb")


def main() -> None:
    """Run one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(BASELINES))
    parser.add_argument("recording", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    BASELINES[options.name](options.recording, options.out)


if __name__ == "__main__":
    main()
