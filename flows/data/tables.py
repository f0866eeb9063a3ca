"""Convert results from JSON Lines to Arrow tables and Parquet.

Times are UTC timestamps in microseconds, labels are maps and `evidence` is JSON text. The rest has the names and the
nesting of the lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["SCHEMAS", "write_parquet"]

ROWS: Final = 20_000
_TIME: Final = pa.timestamp("us", tz="UTC")
_LABELS: Final = pa.map_(pa.string(), pa.string())
_FIGURES: Final = ("min", "mean", "max", "p50", "p95", "p99")
_LATENCY: Final = pa.struct([("count", pa.int64()), *((name, pa.float64()) for name in _FIGURES)])
_LOSS: Final = pa.struct([("count", pa.int64()), ("mean", pa.float64()), ("max", pa.float64())])
_MOS: Final = pa.struct([("value", pa.float64()), ("model", pa.string())])
_EXTREMES: Final = pa.struct([("count", pa.int64()), *((name, pa.float64()) for name in ("min", "mean", "max"))])
_LEG: Final = pa.struct(
    [
        *((name, pa.string()) for name in ("leg_id", "session_id", "source", "purpose", "direction")),
        ("codecs", pa.list_(pa.string())),
        ("records", pa.int64()),
        ("latency_ms", _EXTREMES),
        ("packet_loss", _LOSS),
        ("mos", _MOS),
        ("mos_reason", pa.string()),
        ("genesys_mos", pa.struct([("min", pa.float64()), ("scale", pa.string())])),
        ("genesys_r_factor", pa.float64()),
        ("received_packets", pa.int64()),
        ("discarded_packets", pa.int64()),
        ("sent_packets", pa.int64()),
        ("jitter_ms", pa.float64()),
        ("connected_after_s", pa.float64()),
    ]
)
_WINDOW: Final = [
    ("conversation_id", pa.string()),
    ("start", _TIME),
    ("end", _TIME),
    ("frames", pa.int64()),
    ("latency_ms", _LATENCY),
    ("packet_loss", _LOSS),
    ("mos", _MOS),
    ("labels", _LABELS),
    ("legs", pa.list_(_LEG)),
    ("event_lag_ms", _EXTREMES),
]
SCHEMAS: Final = {
    "windows": pa.schema(_WINDOW),
    "groups": pa.schema(
        [
            ("group", _LABELS),
            ("start", _TIME),
            ("end", _TIME),
            ("conversations", pa.int64()),
            ("breaching", pa.int64()),
            ("frames", pa.int64()),
            ("latency_ms", _LATENCY),
            ("packet_loss", _LOSS),
            ("mos", pa.struct([("min", pa.float64()), ("mean", pa.float64()), ("model", pa.string())])),
        ]
    ),
    "alerts": pa.schema(
        [
            ("conversationId", pa.string()),
            ("alertType", pa.string()),
            ("metricValue", pa.float64()),
            ("timestamp", _TIME),
            ("source", pa.string()),
            ("alertId", pa.string()),
            ("incidentId", pa.string()),
            ("state", pa.string()),
            ("reason", pa.string()),
            ("threshold", pa.float64()),
            ("legId", pa.string()),
            ("labels", _LABELS),
            ("evidence", pa.string()),
            ("inhibitedBy", pa.string()),
            ("group", _LABELS),
            ("conversations", pa.int64()),
            ("breaching", pa.int64()),
            ("window", pa.struct(_WINDOW)),
        ]
    ),
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def write_parquet(lines: Iterable[bytes], path: Path, kind: str) -> int:
    """Write lines of `windows`, `groups` or `alerts` as a Parquet file (Zstandard); return the number of rows.

    The file is there even without a row. Raises OSError.
    """
    schema = SCHEMAS[kind]
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(lines):
            values = [_row(orjson.loads(line)) for line in batch]
            writer.write_table(pa.Table.from_pylist(values, schema=schema))
            rows += len(values)
    return rows


def _batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(lines)
    while batch := list(itertools.islice(iterator, ROWS)):
        yield batch


def _row(value: dict[str, Any]) -> dict[str, Any]:
    for name in ("start", "end", "timestamp"):
        if (at := value.get(name)) is not None:
            value[name] = _EPOCH + timedelta(seconds=at)
    for name in ("labels", "group"):
        if (pairs := value.get(name)) is not None:
            value[name] = list(pairs.items())
    if (evidence := value.get("evidence")) is not None:
        value["evidence"] = orjson.dumps(evidence).decode()
    if isinstance(window := value.get("window"), dict):
        value["window"] = _row(window)
    return value
