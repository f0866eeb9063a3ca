"""The journal's writer, and a disk that is only written to: `python -m tests.benchmarks.append HOW RECORDING DIR`.

`journal` takes the frames of a recording as messages, many at a time, and appends them; `disk` writes as many bytes in
large pieces. Both end when all is on the disk. The messages are there before the clock starts, which is why this
measures itself.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

from connectors.journal import BUFFER_BYTES, Journal
from connectors.segments import segments
from flows.analytics.frames import ended_conversation

__all__: list[str] = []

READ_FRAMES = 1000


def _messages(recording: Path) -> list[bytes]:
    with recording.open("rb") as lines:
        return [line.partition(b',"frame":')[2][:-2] for line in lines if b',"frame":' in line]


def _journal(messages: list[bytes], directory: Path) -> int:
    journal = Journal(directory, settings={}, ended=ended_conversation)
    for begin in range(0, len(messages), READ_FRAMES):  # as one read of a socket that is behind brings
        journal.frames(messages[begin : begin + READ_FRAMES])
        journal.flush()
    journal.close()
    return sum(path.stat().st_size for path in segments(directory))


def _disk(size: int, directory: Path) -> int:
    piece = os.urandom(BUFFER_BYTES)
    with (directory / "plain").open("wb", buffering=0) as file:
        for _ in range(size // BUFFER_BYTES):
            file.write(piece)
        os.fsync(file.fileno())
        return file.tell()


def main() -> None:
    """Append, and print what it took as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["journal", "disk"])
    parser.add_argument("recording", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    messages = _messages(options.recording)
    size = sum(map(len, messages)) + 48 * len(messages)
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    written = _journal(messages, options.directory) if options.how == "journal" else _disk(size, options.directory)
    wall_s = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"bytes": written, "wall_s": wall_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
