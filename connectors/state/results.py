"""The files of a kind of results: the one that is written, and those of past days, which may have been compressed."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import BinaryIO, cast

__all__ = ["daily_files", "open_results"]


def daily_files(path: Path) -> dict[str, Path]:
    """Return the renamed files of `path` by their days, oldest first; they may have been compressed with gzip.

    >>> daily_files(Path("/nowhere/windows.jsonl"))
    {}
    """
    name = re.compile(rf"{re.escape(path.stem)}-(\d{{4}}-\d\d-\d\d){re.escape(path.suffix)}(?:\.gz)?")
    inside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    return {found[1]: file for file in inside if (found := name.fullmatch(file.name)) is not None}


def open_results(path: Path) -> BinaryIO:
    """Open a file of results to read its lines. Raises OSError; reads of a damaged one raise what gzip raises."""
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
