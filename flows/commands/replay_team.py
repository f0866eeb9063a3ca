"""Replay with several processes, each of which decodes and judges its own conversations; merge their results.

Every process reads all blocks of the recording, which are the same in each, and sends what its conversations led to.
The first process puts the parts of a block together as it does with those of shards, so that the outputs are those of a
replay by one process, byte for byte.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Final, NamedTuple, NoReturn

from bytewax.inputs import AbortExecution, FixedPartitionedSource

from connectors.errors import RecordingError, VoicewatchError
from connectors.format.decode import decode_block, decode_pieces
from connectors.format.owners import MisleadingLineError, Share
from connectors.journal.blocks import Block
from connectors.journal.recording import Progress, Recording, no_progress
from connectors.journal.source import REPLAY_BLOCK_BYTES, RecordingSource, StoppedAt
from connectors.runtime.logs import get_logger
from connectors.runtime.platform import widen_pipe
from connectors.runtime.polling import PolledPartition
from flows.analytics.block_results import ShardResult
from flows.analytics.merge import BlockResult, BlockStats, Merger, block_stats, joined_stats
from flows.analytics.precedence import Overrides
from flows.analytics.shard import Shard
from flows.analytics.shards import split
from flows.dataflow import ALL

__all__ = ["ReplayTeam", "apply_share"]

# How far a process may be ahead of the others: the results of a few blocks.
PIPE_BYTES: Final = 1 << 20


class _Part(NamedTuple):
    """Hold what one process made of each piece of a block; `place` is the end of the block."""

    number: int
    stats: list[BlockStats]
    results: list[ShardResult]
    place: StoppedAt


class _Failed(NamedTuple):
    """Hold why a process stops: `error`, or None if a line of block `number` was not what it began as."""

    number: int
    error: RecordingError | None


class _Member:
    """Hold a process of the team, and the pipe of its results."""

    def __init__(self, process: int, results: Connection) -> None:
        self.process = process
        self.results = results

    def next(self) -> _Part | _Failed:
        """Wait for the next result. Raises VoicewatchError if the process has died."""
        try:
            message: _Part | _Failed = pickle.loads(self.results.recv_bytes())  # noqa: S301 - from our own process
        except EOFError:
            _, status = os.waitpid(self.process, 0)
            self.process = 0
            raise VoicewatchError(
                f"a process of the replay died (exit code {os.waitstatus_to_exitcode(status)}); "
                "with fewer --processes it needs less memory"
            ) from None
        return message

    def end(self) -> None:
        """End the process, whatever it does."""
        self.results.close()
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self.process = 0


class ReplayTeam(FixedPartitionedSource[tuple[str, BlockResult], None]):
    """Read the results of a recording, made by `count` processes that `start` forks.

    Setting `stop` ends it early; `stopped_at` says where. `failure` says what was wrong with the recording.

    Best effort: it does not resume.
    """

    def __init__(
        self,
        recording: Recording,
        count: int,
        overrides: Overrides,
        *,
        stop: threading.Event,
        progress: Progress = no_progress,
    ) -> None:
        self._recording = recording
        self._progress = progress
        self._count = count
        self._overrides = overrides
        self._members: list[_Member] = []
        self.stop = stop
        self.failure: VoicewatchError | None = None
        self.stopped_at: StoppedAt | None = None

    def start(self, *, narrow: bool = True, skipped: int = 0) -> None:
        """Start the processes, which send no results of the first `skipped` blocks."""
        for index in range(self._count):
            theirs, ours = os.pipe()
            widen_pipe(ours, PIPE_BYTES)
            process = os.fork()
            if process == 0:
                os.close(theirs)
                for member in self._members:  # or a write would wait, when the reader has died
                    member.results.close()
                work = partial(_work, self._recording, Share(index, self._count), self._overrides)
                _run(ours, partial(work, narrow=narrow, skipped=skipped))
            os.close(ours)
            self._members.append(_Member(process, Connection(theirs, writable=False)))

    def close(self) -> None:
        """End the processes."""
        while self._members:
            self._members.pop().end()

    def show(self, number: int) -> None:
        """Show that block `number` is done; in compressed files blocks are of more bytes than on the disk."""
        total = self._recording.progress[1]
        self._progress(min((number + 1) * REPLAY_BLOCK_BYTES, total), total)

    def list_parts(self) -> list[str]:
        """Return the name of the one partition."""
        return ["team"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _TeamPartition:  # noqa: ARG002
        """Begin to merge."""
        return _TeamPartition(self, Merger(self._count))

    def parts(self, number: int) -> list[_Part]:
        """Wait for what all processes made of block `number`. Raises RecordingError, VoicewatchError."""
        parts: list[_Part] = []
        while len(parts) < self._count:
            message = self._members[len(parts)].next()
            if isinstance(message, _Part):
                parts.append(message)
            elif message.error is not None:
                raise message.error
            else:
                get_logger(__name__).info("replay_decodes_all_lines", block=number)
                self.close()
                self.start(narrow=False, skipped=number)
                parts = []
        return parts


class _TeamPartition(PolledPartition[tuple[str, BlockResult], None]):
    def __init__(self, team: ReplayTeam, merger: Merger) -> None:
        self._team = team
        self._merger = merger
        self._place: StoppedAt | None = None
        self._ended = False

    def next_batch(self) -> list[tuple[str, BlockResult]]:
        if self._ended:
            raise StopIteration
        if self._team.stop.is_set() and self._place is not None:
            self._team.stopped_at = self._place
            raise StopIteration
        number = self._merger.number
        try:
            parts = self._team.parts(number)
        except VoicewatchError as error:
            self._team.failure = error
            # Bytewax would print the traceback of any other exception, and there is nothing to debug.
            raise AbortExecution from error
        self._place = parts[0].place
        self._team.show(number)
        self._ended = parts[0].results[0].last
        self._merger.add_stats([joined_stats(stats) for stats in zip(*(part.stats for part in parts), strict=True)])
        for part in parts:
            self._merger.add_results(number, part.results)
        return [(ALL, result) for result in self._merger.results()]

    def snapshot(self) -> None:
        return None


def _run(pipe: int, work: Callable[[Callable[[_Part | _Failed], None]], None]) -> NoReturn:
    """Do the work of a forked process and leave it, without what its parent has still to do."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the parent ends its processes
        results = Connection(pipe, readable=False)
        work(lambda message: results.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL)))
        code = 0
    except BrokenPipeError:
        pass  # the parent has died
    except Exception:
        get_logger(__name__).exception("replay_process_failed")
    finally:
        os._exit(code)


def _work(
    recording: Recording,
    share: Share,
    overrides: Overrides,
    send: Callable[[_Part | _Failed], None],
    *,
    narrow: bool,
    skipped: int,
) -> None:
    """Replay the conversations of a share, and send what each block led to."""
    source = RecordingSource(recording, stop=threading.Event())
    partition = source.build_part("", "", None)
    shard = Shard(overrides)
    number = -1
    while True:
        try:
            for block in partition.next_batch():
                number = block.number
                stats, results = apply_share(block, shard, share, narrow=narrow)
                if number >= skipped:
                    send(_Part(number, stats, results, partition.place()))
        except StopIteration:
            return
        except MisleadingLineError:
            send(_Failed(number, None))
            return
        except AbortExecution:
            send(_Failed(number + 1, source.failure))
            return


def apply_share(
    block: Block, shard: Shard, share: Share, *, narrow: bool
) -> tuple[list[BlockStats], list[ShardResult]]:
    """Apply a block to the conversations of a share; return what is known and what became of each of its pieces.

    Raises MisleadingLineError: see `decode_block`.
    """
    decode = partial(decode_block, share=share, narrow=narrow)
    pieces = decode_pieces(block.data, decode, decode)
    lasts = [*[False] * (len(pieces) - 1), block.last]
    parts = [split(block.number, one, 1, last=last) for (_, one), last in zip(pieces, lasts, strict=True)]
    stats = [block_stats(block.number, block.source, block.line + lines, one) for lines, one in pieces]
    return stats, [shard.apply(part) for [part] in parts]
