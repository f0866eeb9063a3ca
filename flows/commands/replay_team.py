"""Replay with several processes, each of which judges its own conversations; merge their results.

The processes decode the blocks of the recording in turn and hand each other the frames of their conversations, so that
each line is parsed once. Each sends what its conversations led to. The first process puts the parts of a block together
as it does with those of shards, so that the outputs are those of a replay by one process, byte for byte.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Final, NamedTuple, NoReturn, cast

from bytewax.inputs import AbortExecution, FixedPartitionedSource

from connectors.errors import RecordingError, VoicewatchError
from connectors.format.decode import decode_pieces
from connectors.journal.blocks import Block
from connectors.journal.recording import Progress, Recording, no_progress
from connectors.journal.source import REPLAY_BLOCK_BYTES, RecordingSource, StoppedAt
from connectors.runtime.logs import get_logger
from connectors.runtime.platform import widen_pipe
from connectors.runtime.polling import PolledPartition
from flows.analytics.block_results import ShardResult
from flows.analytics.merge import BlockResult, BlockStats, Merger, block_stats
from flows.analytics.precedence import Overrides
from flows.analytics.shard import Shard
from flows.analytics.shards import ShardBlock, split_pieces
from flows.commands.replay_exchange import Exchange, Seat
from flows.dataflow import ALL

__all__ = ["ReplayTeam", "divide"]

# How far a process may be ahead of the others: the results of a few blocks.
PIPE_BYTES: Final = 1 << 20


class _Part(NamedTuple):
    """Hold what one process made of each piece of a block, whose end is `place`; `stats` are of who decoded it."""

    number: int
    stats: list[BlockStats]
    results: list[ShardResult]
    place: StoppedAt


class _Failed(NamedTuple):
    """Hold why a process stops at block `number`."""

    number: int
    error: RecordingError


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

    def start(self) -> None:
        """Start the processes."""
        exchange = Exchange(self._count)
        gc.freeze()  # or the first collection of each process would copy all that it has inherited
        for index in range(self._count):
            theirs, ours = os.pipe()
            widen_pipe(ours, PIPE_BYTES)
            process = os.fork()
            if process == 0:
                os.close(theirs)
                for member in self._members:  # or a write would wait, when the reader has died
                    member.results.close()
                _run(ours, partial(_work, self._recording, Seat(exchange, index, ours), self._overrides, self._count))
            os.close(ours)
            self._members.append(_Member(process, Connection(theirs, writable=False)))
        exchange.close()

    def close(self) -> None:
        """End the processes."""
        gc.unfreeze()
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

    def parts(self) -> list[_Part]:
        """Wait for what all processes made of the next block. Raises RecordingError, VoicewatchError."""
        parts: list[_Part] = []
        failed: list[_Failed] = []
        waiting = {member.results: member for member in self._members}
        while waiting:
            # Whichever is ready: where one has died, the others wait for its blocks.
            for ready in wait(list(waiting)):
                message = waiting.pop(cast("Connection", ready)).next()
                if isinstance(message, _Failed):
                    failed.append(message)
                else:
                    parts.append(message)
        if failed:
            raise failed[0].error
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
            parts = self._team.parts()
        except VoicewatchError as error:
            self._team.failure = error
            # Bytewax would print the traceback of any other exception, and there is nothing to debug.
            raise AbortExecution from error
        self._place = parts[0].place
        self._team.show(number)
        self._ended = parts[0].results[0].last
        for part in parts:
            if part.stats:
                self._merger.add_stats(part.stats)
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
    recording: Recording, seat: Seat, overrides: Overrides, count: int, send: Callable[[_Part | _Failed], None]
) -> None:
    """Decode the blocks whose turn it is, replay the conversations of this process, and send what each led to."""
    shard = Shard(overrides)
    rounds = _decoded_rounds(recording, seat, count)
    this = next(rounds, [])
    while this:
        ahead = next(rounds, [])  # is written before this round is applied: the others may need it soon
        for one in this:
            if isinstance(one, _Failed):
                send(one)
                return
            parts = seat.get(one.number) if one.parts is None else one.parts
            send(_Part(one.number, one.stats, [shard.apply(part) for part in parts], one.place))
        this = ahead


class _Read(NamedTuple):
    """Hold a block that was read; `parts` and `stats` are there if this process has decoded it."""

    number: int
    place: StoppedAt
    parts: list[ShardBlock] | None
    stats: list[BlockStats]


def _decoded_rounds(recording: Recording, seat: Seat, count: int) -> Iterator[list[_Read | _Failed]]:
    """Yield blocks, as many as there are processes, when the one of this process is decoded and handed out."""
    source = RecordingSource(recording, stop=threading.Event())
    partition = source.build_part("", "", None)
    of_round: list[_Read | _Failed] = []
    number = -1
    try:
        while True:
            for block in partition.next_batch():
                number = block.number
                parts, stats = None, list[BlockStats]()
                if seat.is_mine(number):
                    stats, of_all = divide(block, count)
                    seat.put(number, of_all)
                    parts = of_all[seat.index]
                    del of_all
                del block  # 4 MiB, which would stay while the round is applied
                of_round.append(_Read(number, partition.place(), parts, stats))
                if len(of_round) == count:
                    yield of_round
                    of_round = []
    except StopIteration:
        pass
    except AbortExecution:
        if source.failure is None:
            raise
        of_round.append(_Failed(number + 1, source.failure))
    yield of_round


def divide(block: Block, count: int) -> tuple[list[BlockStats], list[list[ShardBlock]]]:
    """Decode a block; return what is known of each of its pieces, and of `count` processes the parts of each."""
    pieces = decode_pieces(block.data)
    stats = [block_stats(block.number, block.source, block.line + lines, one) for lines, one in pieces]
    return stats, split_pieces(block.number, [one for _, one in pieces], count, last=block.last)
