"""Where results are: the files of windows, groups and alerts of a run or a replay, with those of past days."""

from __future__ import annotations

from pathlib import Path

__all__ = ["result_files"]


def result_files(source: Path, kind: str) -> list[Path]:
    """Return the files of a kind of results: those of past days by date, then the one that is written now."""
    rotated = sorted([*source.glob(f"{kind}-*.jsonl"), *source.glob(f"{kind}-*.jsonl.gz")])
    return [*rotated, *(path for path in [source / f"{kind}.jsonl"] if path.exists())]
