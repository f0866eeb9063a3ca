"""Find the files that a command reads: directories, standard input, and other shapes that `--input` maps to frames."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import orjson

from connectors.errors import RecordingError, UsageError
from connectors.journal.recording import Recording
from connectors.journal.segments import segments
from connectors.state.files import make_private_dir, state_errors

if TYPE_CHECKING:
    from connectors.format.mapping import InputMap

__all__ = ["MAX_STDIN_BYTES", "STDIN", "input_map_of", "mapped_rows", "readable_files", "row_keys"]

STDIN: Final = Path("-")
MAX_STDIN_BYTES: Final = 8 << 30
_COPY_BYTES: Final = 1 << 20
_MAX_FIELD: Final = (1 << 31) - 1


def input_map_of(text: str | None) -> InputMap | None:
    """Return the mapping of `--input`, None without one. Raise UsageError."""
    if text is None:
        return None
    from connectors.format.mapping import parse_input

    try:
        return parse_input(text)
    except ValueError as error:
        raise UsageError(f"--input {text}: {error}") from None


@contextmanager
def readable_files(
    paths: Sequence[Path],
    scratch: Path,
    *,
    input_map: InputMap | None = None,
    stdin: IO[bytes] | None = None,
    max_stdin_bytes: int = MAX_STDIN_BYTES,
) -> Iterator[list[Path]]:
    """Yield the files that `paths` stand for, in a form that can be replayed.

    A directory stands for its files, sorted; a state directory for its journal. `-` is standard input, of which a copy
    in `scratch` is read. With an `input_map`, each file is mapped into one there. The copies are removed at the end.
    Raise RecordingError, and UsageError for too long an input.
    """
    copies: list[Path] = []
    try:
        files: list[Path] = []
        for path in paths:
            if path == STDIN:
                copies.append(scratch / "standard-input")
                _copy(stdin or sys.stdin.buffer, copies[-1], max_stdin_bytes)
                files.append(copies[-1])
            else:
                files += _files(path)
        if input_map is not None:
            for number, path in enumerate(files):
                copies.append(scratch / f"mapped-{number}-{path.name}.jsonl")
                _map(path, copies[-1], input_map)
                files[number] = copies[-1]
        yield files
    finally:
        for path in copies:
            path.unlink(missing_ok=True)


def mapped_rows(path: Path, input_map: InputMap) -> Iterator[dict[str, Any]]:
    """Yield a frame for each JSON object or row of CSV in a file; an empty row gives one that will be rejected.

    Raise RecordingError.
    """
    return map(input_map.frame, _rows(path))


def row_keys(path: Path) -> dict[str, Any]:
    """Return the first row of a file of JSON objects or CSV, empty without one. Raise RecordingError."""
    return next(_rows(path), {})


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = path / "journal" if (path / "journal").is_dir() else path
    if found := [segment for segment in segments(inside) if segment.stat().st_size]:
        return found
    found = sorted(file for file in inside.iterdir() if file.is_file() and not file.name.startswith("."))
    if not found:
        raise RecordingError(f"{path}: there is no file in this directory")
    return found


def _copy(stream: IO[bytes], path: Path, limit: int) -> None:
    make_private_dir(path.parent)
    size = 0
    with state_errors(f"writing {path}"), path.open("wb") as file:
        while data := stream.read(_COPY_BYTES):
            size += len(data)
            if size > limit:
                raise UsageError(f"standard input is longer than {limit} bytes; write it to a file, and replay that")
            file.write(data)
    if not size:
        raise RecordingError("standard input is empty; a recording has a JSON object on each line")


def _map(path: Path, target: Path, input_map: InputMap) -> None:
    make_private_dir(target.parent)
    with state_errors(f"writing {target}"), target.open("wb") as file:
        for frame in mapped_rows(path, input_map):
            file.write(orjson.dumps(frame) + b"\n")
        if not file.tell():
            raise RecordingError(f"{path}: there is neither a JSON object nor a row of CSV in it")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    lines = Recording([path]).lines(0)
    first = next(lines, b"")
    if first.lstrip()[:1] in (b"{", b"["):
        yield _object(first)
        yield from map(_object, lines)
        return
    import csv

    header = first.decode("utf-8", "replace")
    delimiter = max(",;\t|", key=header.count)
    csv.field_size_limit(_MAX_FIELD)  # by default 131,072 characters
    try:
        names = next(csv.reader([header], delimiter=delimiter), [])
        for values in csv.reader((line.decode("utf-8", "replace") for line in lines), delimiter=delimiter):
            yield {name.strip(): value for name, value in zip(names, values, strict=False) if value}
    except csv.Error as error:
        raise RecordingError(f"{path}: cannot be read as CSV: {error}") from error


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
