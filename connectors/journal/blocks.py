"""Blocks: runs of complete lines of a journal, which are what a source gives to a dataflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from connectors.journal.recording import read_again
from connectors.state.files import logged_failures

__all__ = ["Block", "BlockRef"]


class Block(NamedTuple):
    """Some complete lines of a journal, in order; the last line of a torn recording may lack its newline.

    `number` counts blocks from 0 without a gap. `line` is the first line's number in `source`, from 1. `last` says
    that the recording ends with this block. `offset` is where in the file `source` the data stand, if they stand in one
    as they are. Such a block is pickled as a `BlockRef`, so that another process gets no data and reads them itself.
    """

    number: int
    source: str
    line: int
    data: bytes
    last: bool = False
    offset: int | None = None

    def __reduce__(self) -> tuple[Callable[..., Block | BlockRef], tuple[Any, ...]]:
        if self.offset is None:
            return Block, tuple(self)
        return BlockRef, (self.number, self.source, self.line, len(self.data), self.offset, self.last)


class BlockRef(NamedTuple):
    """A block from another process: where its `size` bytes stand in the file `source`, and the fields of `Block`."""

    number: int
    source: str
    line: int
    size: int
    offset: int
    last: bool

    def resolved(self) -> Block:
        """Read the data. Raises RecordingError."""
        with logged_failures("recording_read_failed"):
            data = read_again(Path(self.source), self.offset, self.size)
        return Block(self.number, self.source, self.line, data, self.last, self.offset)
