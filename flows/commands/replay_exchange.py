"""The exchange of decoded blocks between the processes of a replay.

Block `n` is decoded by process `n % count`, which writes the part of each process into a file in memory and announces
it. An announcement is smaller than what a pipe writes at once, so that all processes may write into the pipe of one.

Nothing waits in order to write. A process writes its block of round r + 1 before it applies round r, so that the others
find their parts ready. When it has applied round r - 1, it has the parts of all others of that round; each of them
wrote its own after it had applied round r - 3. So of four places that a process writes to in turn, the next is free.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
from typing import Any, Final, NamedTuple

from connectors.runtime.platform import memory_file

__all__ = ["Exchange", "Seat"]

PLACES: Final = 4
PLACE_BYTES: Final = 1 << 40
# The number of the block, and where its part begins and ends.
_ANNOUNCED: Final = struct.Struct("=qqq")


class _Written(NamedTuple):
    begin: int
    end: int


class Exchange:
    """The pipes and files of `count` processes, to be made before they fork. Raise OSError if there are too many."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.files: list[int] = []
        self.pipes: list[tuple[int, int]] = []
        try:
            for index in range(count):
                self.files.append(memory_file(f"voicewatch-replay-{index}"))
                self.pipes.append(os.pipe())
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close what this process holds of it."""
        while self.files:
            os.close(self.files.pop())
        while self.pipes:
            for end in self.pipes.pop():
                os.close(end)


class Seat:
    """The part of process `index` in an exchange. `results` is the pipe to the parent."""

    def __init__(self, exchange: Exchange, index: int, results: int) -> None:
        self._exchange = exchange
        self.index = index
        self._inbox = exchange.pipes[index][0]
        self._announced: dict[int, _Written] = {}
        self._place = 0
        self._wait = select.poll()
        self._wait.register(self._inbox, select.POLLIN)
        self._wait.register(results, 0)  # the end of the reader is always reported

    def is_mine(self, number: int) -> bool:
        """Return whether this process decodes block `number`."""
        return number % self._exchange.count == self.index

    def put(self, number: int, parts: list[Any]) -> None:
        """Write the part of each process of a block, and announce it to all others."""
        at = self._place * PLACE_BYTES
        self._place = (self._place + 1) % PLACES
        for index, part in enumerate(parts):
            if index == self.index:
                continue
            data = memoryview(pickle.dumps(part, pickle.HIGHEST_PROTOCOL))
            end = at + len(data)
            while data:
                data = data[os.pwrite(self._exchange.files[self.index], data, end - len(data)) :]
            os.write(self._exchange.pipes[index][1], _ANNOUNCED.pack(number, at, end))
            at = end

    def get(self, number: int) -> Any:
        """Wait for the part of this process of a block that another decodes. Raise BrokenPipeError without a parent."""
        while number not in self._announced:
            if any(fd != self._inbox for fd, _ in self._wait.poll()):
                raise BrokenPipeError
            of, begin, end = _ANNOUNCED.unpack(os.read(self._inbox, _ANNOUNCED.size))
            self._announced[of] = _Written(begin, end)
        begin, end = self._announced.pop(number)
        file, data = self._exchange.files[number % self._exchange.count], bytearray(end - begin)
        view, at = memoryview(data), 0
        while at < len(data):
            at += os.preadv(file, [view[at:]], begin + at)
        return pickle.loads(data)  # noqa: S301 - from a process of this replay
