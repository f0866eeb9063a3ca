"""What the job is compared with, each a whole program: `python -m tests.benchmarks.baselines NAME RECORDING OUT`.

`stock` is Bytewax' own windowing, tuned: msgspec, unordered, many lines an item. `documented` is the form that its
documentation shows: its own file connectors, an item a line, a Pydantic model, ordered. Both read no system clock,
without which they drop recorded frames as late. `duckdb` and `pathway` need the packages of their names. `plain` has a
dictionary and no windows, `parse` nothing but the parser.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bytewax.inputs import Source
    from bytewax.operators import KeyedStream
    from bytewax.outputs import Sink

__all__ = ["BASELINES", "LATENCY_MS", "OPTIONAL", "SLOW", "WINDOWED"]

LENGTH_S, SLIDE_S = 10, 5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LINES = 1000
Frame = tuple[datetime, float, float]
Window = tuple[str, tuple[int, list[tuple[float, float]]]]


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
    import bytewax.operators as op
    import msgspec
    import orjson
    from bytewax.dataflow import Dataflow
    from bytewax.run import cli_main

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

    def line(item: Window) -> bytes:
        text: bytes = orjson.dumps(_summary(item), option=orjson.OPT_APPEND_NEWLINE)
        return text

    flow = Dataflow("stock")
    keyed = op.flat_map("decode", op.input("lines", flow, _many_lines(recording)), frames)
    windows = _windows(keyed, ordered=False)
    op.output("write", op.map("line", windows, line), _one_file(out / "windows.jsonl"))
    cli_main(flow)  # type: ignore[no-untyped-call]


def documented(recording: Path, out: Path) -> None:
    """Bytewax' windows as documented."""
    import bytewax.operators as op
    from bytewax.connectors.files import FileSink, FileSource
    from bytewax.dataflow import Dataflow
    from bytewax.run import cli_main
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

    def frame(record: Record) -> tuple[str, Frame] | None:
        one = record.frame
        if one is None:
            return None
        return one.entity.id, _frame(record.received_at, one.timestamp, one.metrics.packetLoss)

    flow = Dataflow("documented")
    lines = op.input("lines", flow, FileSource(recording))
    records = op.map("parse", lines, lambda line: Record.model_validate(json.loads(line)))
    windows = _windows(op.filter_map("frame", records, frame), ordered=True)
    texts = op.map("text", windows, lambda item: (item[0], json.dumps(_summary(item))))
    op.output("write", texts, FileSink(out / "windows.jsonl"))
    cli_main(flow)  # type: ignore[no-untyped-call]


def _frame(received_at: float, timestamp: float, loss: float) -> Frame:
    latency_ms = round((received_at - timestamp) * 1e6) / 1000
    return EPOCH + timedelta(microseconds=int(received_at * 1e6)), latency_ms, loss


def _windows(frames: KeyedStream[Frame], *, ordered: bool) -> KeyedStream[tuple[int, list[tuple[float, float]]]]:
    """All latencies and losses of each window."""
    from bytewax.operators.windowing import EventClock, SlidingWindower, fold_window

    def add(kept: list[tuple[float, float]], frame: Frame) -> list[tuple[float, float]]:
        kept.append((frame[1], frame[2]))
        return kept

    now = datetime.now(UTC)
    clock: EventClock[Frame] = EventClock(
        ts_getter=lambda frame: frame[0],
        wait_for_system_duration=timedelta(0),
        now_getter=lambda: now,
        to_system_utc=lambda _: None,
    )
    windower = SlidingWindower(timedelta(seconds=LENGTH_S), timedelta(seconds=SLIDE_S), EPOCH)
    return fold_window("windows", frames, clock, windower, list, add, lambda one, two: one + two, ordered=ordered).down


def _many_lines(recording: Path) -> Source[list[bytes]]:
    from bytewax.inputs import DynamicSource, StatelessSourcePartition

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

    return Reading()


def _one_file(path: Path) -> Sink[bytes]:
    from bytewax.outputs import DynamicSink, StatelessSinkPartition

    class Text(StatelessSinkPartition[bytes]):
        def __init__(self) -> None:
            self._file = path.open("wb")

        def write_batch(self, items: list[bytes]) -> None:
            self._file.writelines(items)

        def close(self) -> None:
            self._file.close()

    class Writing(DynamicSink[bytes]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Text:
            return Text()

    return Writing()


def _summary(window: Window) -> dict[str, Any]:
    conversation_id, (number, kept) = window
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


def pathway(recording: Path, out: Path) -> None:
    """Pathway's windows over the whole file, as a batch; no rules."""
    import pathway as pw

    def latency_ms(received_at: float, timestamp: float) -> float:
        return round((received_at - timestamp) * 1e6) / 1000

    column = pw.column_definition
    schema = pw.schema_builder(
        {"received_at": column(dtype=float), "frame": column(dtype=pw.Json | None, default_value=None)}
    )
    records = pw.io.jsonlines.read(str(recording), schema=schema, mode="static")
    frames = records.filter(records.frame.is_not_none())
    frame = pw.unwrap(pw.this.frame)
    columns = frames.select(
        pw.this.received_at,
        conversation=frame["entity"]["id"].as_str(unwrap=True),
        loss=frame["metrics"]["packetLoss"].as_float(unwrap=True),
        latency=pw.apply_with_type(latency_ms, float, pw.this.received_at, frame["timestamp"].as_float(unwrap=True)),
    )
    window = pw.temporal.sliding(hop=float(SLIDE_S), duration=float(LENGTH_S), origin=0.0)
    windows = columns.windowby(columns.received_at, window=window, instance=columns.conversation).reduce(
        conversation=pw.this._pw_instance,
        start=pw.this._pw_window_start,
        latency=pw.reducers.sorted_tuple(pw.this.latency),
        loss=pw.reducers.sorted_tuple(pw.this.loss),
    )

    def line(conversation_id: str, start: float, latency: tuple[float, ...], loss: tuple[float, ...]) -> str:
        kept = list(zip(latency, loss, strict=True))
        return json.dumps(_summary((conversation_id, (round(start / SLIDE_S), kept))))

    told = (windows.conversation, windows.start, windows.latency, windows.loss)
    texts = windows.select(text=pw.apply_with_type(line, str, *told))
    with (out / "windows.jsonl").open("w") as file:
        pw.io.subscribe(texts, on_change=lambda key, row, time, is_addition: file.write(row["text"] + "\n"))
        pw.run(monitoring_level=pw.MonitoringLevel.NONE)


BASELINES: dict[str, Callable[[Path, Path], None]] = {
    "parse": parse,
    "plain": plain,
    "stock": stock,
    "documented": documented,
    "duckdb": duckdb,
    "pathway": pathway,
}
WINDOWED = ("stock", "documented", "duckdb", "pathway")
OPTIONAL = ("duckdb", "pathway")
SLOW = ("stock", "documented", "pathway")
# How exact their latencies are: Pathway reads some times as the float beside the nearest, so a microsecond off.
LATENCY_MS = {**dict.fromkeys(WINDOWED, 1e-6), "pathway": 1.5e-3}


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
