"""Counting what a flow did, for the summary at its end."""

from __future__ import annotations

import threading

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.analytics.merge import Tally

__all__ = ["TallySink"]


class TallySink(FixedPartitionedSink[Tally, tuple[int, ...]]):
    """Adds up tallies; `total` is readable from any thread of the process that holds the one partition.

    Exactly once: the total is part of the snapshot.
    """

    def __init__(self) -> None:
        self.total = Tally()
        self._lock = threading.Lock()

    def list_parts(self) -> list[str]:
        """The one partition."""
        return ["tally"]

    def build_part(self, step_id: str, for_part: str, resume_state: tuple[int, ...] | None) -> _TallyPartition:  # noqa: ARG002
        """Go on from the total of the snapshot."""
        self.total = Tally(*resume_state) if resume_state else Tally()
        return _TallyPartition(self)

    def add(self, tallies: list[Tally]) -> None:
        """Add to the total."""
        with self._lock:
            self.total = Tally(*map(sum, zip(self.total, *tallies, strict=True)))


class _TallyPartition(StatefulSinkPartition[Tally, tuple[int, ...]]):
    def __init__(self, sink: TallySink) -> None:
        self._sink = sink

    def write_batch(self, values: list[Tally]) -> None:
        self._sink.add(values)

    def snapshot(self) -> tuple[int, ...]:
        return tuple(self._sink.total)
