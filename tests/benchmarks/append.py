"""The journal's writer, and a disk that is only written to: `python -m tests.benchmarks.append HOW RECORDING DIR`.

`journal` takes the frames of a recording as messages, many at a time, and appends them; `disk` writes the lines of the
recording as they are, as many at a time, into files as long. Both sync each file when it is full. The messages and the
lines are there before the clock starts, which is why this measures itself.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from functools import partial
from itertools import count
from pathlib import Path

from connectors.journal.writer import MAX_SEGMENT_BYTES, Journal

__all__: list[str] = []

READ_FRAMES = 1000


def _lines(recording: Path) -> list[bytes]:
    with recording.open("rb") as lines:
        return [line for line in lines if b',"frame":' in line]


def _journal(messages: list[bytes], directory: Path) -> None:
    journal = Journal(directory, settings={})
    for begin in range(0, len(messages), READ_FRAMES):  # as one read of a socket that is behind brings
        journal.frames(messages[begin : begin + READ_FRAMES])
        journal.flush()
    journal.close()


def _disk(pieces: list[bytes], directory: Path) -> None:
    rest = iter(pieces)
    for number in count():
        with (directory / str(number)).open("wb", buffering=0) as file:
            for piece in rest:
                file.write(piece)
                if file.tell() >= MAX_SEGMENT_BYTES:
                    break
            os.fsync(file.fileno())
            if file.tell() < MAX_SEGMENT_BYTES:
                return


def main() -> None:
    """Append, and print what it took as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["journal", "disk"])
    parser.add_argument("recording", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    lines = _lines(options.recording)
    if options.how == "journal":
        append = partial(_journal, [line.partition(b',"frame":')[2][:-2] for line in lines])
    else:
        append = partial(_disk, [b"".join(lines[at : at + READ_FRAMES]) for at in range(0, len(lines), READ_FRAMES)])
    del lines
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    append(options.directory)
    wall_s = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    written = sum(path.stat().st_size for path in options.directory.iterdir())
    print(json.dumps({"bytes": written, "wall_s": wall_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
