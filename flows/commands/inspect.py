"""Describe a file before it is replayed."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import orjson

from connectors.format.captures import description_of
from connectors.format.kinds import kind_of_line
from connectors.format.mapping import guessed_input
from connectors.journal.recording import Recording
from flows.commands.inputs import STDIN, mapped_rows, readable_files, row_keys

if TYPE_CHECKING:
    from connectors.format.mapping import InputMap

__all__ = ["Gap", "Inspection", "inspect", "print_inspection", "print_inspection_json"]

PREVIEW: Final = 3
SHOWN: Final = 10
_HEAD_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Gap:
    """Hold the begin and end of a silence between two records, in epoch seconds."""

    begin: float
    end: float


@dataclass
class Inspection:
    """Describe files: numbers of lines by kind, reasons of those that would be rejected, times in epoch seconds."""

    files: list[str]
    lines: int = 0
    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    conversations: int = 0
    begin: float | None = None
    end: float | None = None
    gaps: list[Gap] = field(default_factory=list)
    preview: list[dict[str, Any]] = field(default_factory=list)
    description: str | None = None
    command: str | None = None


def inspect(paths: Sequence[Path], *, shape: str | None, input_map: InputMap | None, gap_s: float) -> Inspection:
    """Read files to their end, and say what they are. `shape` is the text of the `input_map`.

    Raise RecordingError for files that cannot be read, are empty, or overlap in time.
    """
    with (
        TemporaryDirectory(prefix="voicewatch-") as scratch,
        readable_files(paths, Path(scratch)) as files,
        readable_files(files, Path(scratch), input_map=input_map) as readable,
    ):
        recording = Recording(readable)
        named = [str(STDIN) if path.parent == Path(scratch) else str(path) for path in files]
        found = Inspection(named if input_map is not None else [_name(path, scratch) for path in recording.paths])
        _read(recording, found, gap_s)
        if input_map is not None:
            rows = (row for path in files for row in mapped_rows(path, input_map))
            found.preview = list(islice(rows, PREVIEW))
        command = ["voicewatch", "replay", *map(str, paths), "--out", "replayed"]
        if not found.records:
            head = next(recording.chunks(0, 0, _HEAD_BYTES), b"")
            found.description = description_of(head[:_HEAD_BYTES])
            shape = None if input_map is not None else guessed_input(row_keys(files[0]))
        if found.records or shape is not None:
            found.command = shlex.join(command if shape is None else [*command, "--input", shape])
    return found


def _name(path: Path, scratch: str) -> str:
    return str(STDIN) if str(path.parent) == scratch else str(path)


def _read(recording: Recording, found: Inspection, gap_s: float) -> None:
    conversations: set[str] = set()
    last: float | None = None
    for line in _lines(recording):
        found.lines += 1
        kind = kind_of_line(line)
        found.kinds[kind.name] += 1
        if kind.fault is not None:
            found.rejected[kind.fault] += 1
            continue
        found.records += 1
        if kind.conversation is not None:
            conversations.add(kind.conversation)
        if kind.at is None:
            continue
        if last is not None and not kind.is_step and kind.at - last >= gap_s:
            found.gaps.append(Gap(last, kind.at))
        last = kind.at if last is None or kind.is_step else max(last, kind.at)
        found.begin = kind.at if found.begin is None else min(found.begin, kind.at)
        found.end = kind.at if found.end is None else max(found.end, kind.at)
    found.conversations = len(conversations)


def _lines(recording: Recording) -> Iterator[bytes]:
    for index in range(len(recording.paths)):
        for line in recording.lines(index):
            if line.strip():
                yield line


def print_inspection(found: Inspection) -> None:
    """Print what was found as readable text."""
    names = ", ".join(found.files[:3]) + (f" and {len(found.files) - 3} more" if len(found.files) > 3 else "")
    print(f"{names}: {found.lines} line(s), {found.conversations} conversation(s)")
    for kind, count in found.kinds.most_common():
        print(f"{count:>10}  {kind}")
    for reason, count in found.rejected.most_common(SHOWN):
        print(f"{count:>10}  rejected: {reason}")
    if found.begin is not None and found.end is not None:
        print(f"from {_time(found.begin)} to {_time(found.end)} ({found.end - found.begin:,.3f} s)")
    for gap in found.gaps[:SHOWN]:
        print(f"gap of {gap.end - gap.begin:,.1f} s from {_time(gap.begin)} to {_time(gap.end)}")
    if len(found.gaps) > SHOWN:
        print(f"and {len(found.gaps) - SHOWN} more gaps")
    for frame in found.preview:
        print(f"mapped: {orjson.dumps(frame).decode()}")
    if found.description is not None:
        print(f"nothing in it can be replayed as it is: {found.description}")
    if found.command is not None:
        print(f"{'replay it' if found.records else 'perhaps'}: {found.command}")
    if found.records and "watch record" not in found.kinds:
        print('it names no limits: add --config CONFIG with [alerts] unwatched = "default" to watch every conversation')


def print_inspection_json(found: Inspection) -> None:
    """Print what was found as a JSON object; the lists are complete."""
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())


def _time(at: float) -> str:
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
