"""The files of a kind of results: the one that is written, and those of past days, which may have been compressed."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from connectors.errors import StateError
from connectors.state.files import state_errors

__all__ = ["daily_files", "open_results", "reading_results"]


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


@contextmanager
def reading_results(path: Path) -> Iterator[BinaryIO]:
    """Open a file of results while its lines are read. Raise StateError if it cannot be read, or is damaged."""
    with state_errors(f"reading {path}"), open_results(path) as file:
        try:
            yield file
        except (EOFError, zlib.error) as error:
            raise StateError(f"{path} is damaged ({error}): put it back whole, or move it away") from error
