"""Export the results of a state directory, or of a replay, of a span of time, as JSON Lines or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from connectors.errors import StateError, UsageError
from connectors.state.files import LOCK_NAME, make_private_dir, state_errors
from connectors.state.results import reading_results
from flows.data.results import result_files

__all__ = ["KINDS", "Format", "export", "import_parquet", "parse_time", "raw_lines", "result_lines"]

Format = Literal["jsonl", "parquet"]
KINDS: Final = ("windows", "groups", "alerts")
_TIMES: Final = {"windows": "end", "groups": "end", "alerts": "timestamp"}


def export(source: Path, out: Path, *, begin: float, end: float, file_format: Format) -> dict[str, int]:
    """Write the results in `source` from `begin` until before `end` (epoch seconds) into the directory `out`.

    A window counts by its end, an alert by its time. Returns the number of lines of each kind. Raises UsageError if
    `source` holds no results or `out` is `source` or the state directory of a run, StateError for files that cannot be
    read or written.
    """
    if not any(result_files(source, kind) for kind in KINDS):
        raise UsageError(f"{source} holds no results: neither windows.jsonl nor groups.jsonl nor alerts.jsonl")
    if out.exists() and out.samefile(source):
        raise UsageError(f"--out {out}: is the directory that is exported; choose another")
    if (out / LOCK_NAME).exists():
        raise UsageError(f"--out {out}: is the state directory of a run, whose results this would write over")
    parquet = import_parquet() if file_format == "parquet" else None
    make_private_dir(out)
    counts = {}
    for kind in KINDS:
        lines = (line for line, at in result_lines(source, kind) if begin <= at < end)
        path = out / f"{kind}.{file_format}"
        with state_errors(f"writing {path}"):
            counts[kind] = _write_lines(lines, path) if parquet is None else parquet(lines, path, kind)
    return counts


def import_parquet() -> Any:
    """Return `write_parquet`. Raises UsageError if pyarrow is not installed."""
    try:
        from flows.data.tables import write_parquet
    except ImportError as error:
        raise UsageError(
            "--format parquet needs pyarrow, which is not installed; install the extra: pip install 'voicewatch[data]'"
        ) from error
    return write_parquet


def raw_lines(source: Path, kind: str) -> Iterator[bytes]:
    """Yield the complete lines of a kind of results, file by file, oldest first.

    A torn last line, which a run is about to complete, is left out. Raises StateError.
    """
    for path in result_files(source, kind):
        with reading_results(path) as file:
            yield from (line for line in file if line.endswith(b"\n"))


def result_lines(source: Path, kind: str) -> Iterator[tuple[bytes, float]]:
    """Yield what `raw_lines` yields, with its times in epoch seconds. Raises StateError."""
    for line in raw_lines(source, kind):
        try:
            at = float(orjson.loads(line)[_TIMES[kind]])
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"a line of the {kind} in {source} is damaged: {error}") from error
        yield line, at


def parse_time(text: str, option: str) -> float:
    """Return the epoch seconds of a time: a number, or ISO 8601, which is UTC without an offset. Raises UsageError.

    >>> parse_time("2026-01-01", "--from")
    1767225600.0
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text}: is neither epoch seconds nor a time like 2026-01-01T08:00:00Z or 2026-01-01"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _write_lines(lines: Iterator[bytes], path: Path) -> int:
    count = 0
    with path.open("wb") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count
