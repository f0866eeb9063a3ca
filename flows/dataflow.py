"""The dataflow: journal blocks in; windows, alerts, callbacks, audit entries and rejected lines out.

::

    journal ─▶ spread ─▶ decode ─┬─▶ shards ─┬─▶ in_order ─┬─▶ windows, alerts, rejected   (JSON Lines)
     blocks                      └── facts ──┘   results   ├─▶ callbacks                   (outbox)
                                                           └─▶ audit, counts

One flow serves live running and replay; they differ in the source and in the sinks. It reads no clock and no
configuration: the records of the journal are all it goes by.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, Sink, StatefulSinkPartition

from connectors.format.decode import decode_pieces
from connectors.format.decoded import Decoded
from connectors.journal.blocks import Block, BlockRef
from connectors.state.files import logged_failures
from flows.analytics.alerts import incident_id_of, uuid_text
from flows.analytics.block_results import ShardResult
from flows.analytics.merge import BlockResult, BlockStats, Counts, Merger, block_stats
from flows.analytics.precedence import Overrides
from flows.analytics.shard import Shard
from flows.analytics.shards import ShardBlock, split_pieces
from flows.monitoring.instruments import Instruments
from flows.state import FLOW_ID

if TYPE_CHECKING:
    from connectors.callbacks.outbox import Callback
    from connectors.journal.progress import SourceProgress
    from connectors.state.audit import AuditEntry
    from flows.analytics.alerts import Alert

__all__ = ["ALL", "COUNTS_STEP", "SHARDS", "SHARDS_STEP", "CountsSink", "Outputs", "build", "build_outputs"]

# Few, for each block costs each shard the same, however little is in it. The names are such that Bytewax, which routes
# by their hash, gives two, three and four workers as equal shares as there can be. They are in every recovery store.
SHARDS: Final = ("0an", "1at", "2ah", "3aa")
ALL: Final = "all"
MergeState = tuple[int, tuple[Any, ...] | None]
SHARDS_STEP: Final = f"{FLOW_ID}.shards"
COUNTS_STEP: Final = f"{FLOW_ID}.tally"


@dataclass(frozen=True)
class Outputs:
    """Where the flow's results go; each sink takes items `(key, value)`, None for a result that is not used.

    `windows`, `alerts`, `rejected`, `groups` and `parts` get bytes of whole JSON lines, `callbacks` gets lists of
    `Callback`, `audit` gets `AuditEntry`, `counts` gets `Counts`. `topic_windows` and so on get what `windows` and so
    on get.
    """

    windows: Sink[Any]
    alerts: Sink[Any]
    rejected: Sink[Any] | None = None
    groups: Sink[Any] | None = None
    parts: Sink[Any] | None = None
    callbacks: Sink[Any] | None = None
    audit: Sink[Any] | None = None
    counts: Sink[Any] | None = None
    topic_windows: Sink[Any] | None = None
    topic_groups: Sink[Any] | None = None
    topic_alerts: Sink[Any] | None = None


def build(
    source: Source[Block],
    outputs: Outputs,
    *,
    overrides: Overrides | None = None,
    instruments: Instruments | None = None,
    notify: Callable[[Alert], list[Callback]] | None = None,
) -> Dataflow:
    """Build the dataflow from a source of journal blocks to the outputs.

    `overrides` is what a replay's configuration puts before the recording's. `instruments` measure the steps. `notify`
    gives the callbacks that an alert leads to besides the one of its conversation.
    """
    instruments = instruments or Instruments()
    dataflow = Dataflow(FLOW_ID)
    blocks = op.input("journal", dataflow, source)
    parts = op.flat_map("decode", op.redistribute("spread", blocks), partial(_decode, decode=instruments.decode))
    decoded = op.branch("facts", parts, lambda part: part[0] == ALL)
    shard_blocks = cast("KeyedStream[list[ShardBlock]]", decoded.falses)
    results = op.stateful_batch("shards", shard_blocks, lambda state: _ShardLogic(overrides, state, instruments))
    of_a_block = op.merge("together", decoded.trues, op.map("for_all", results, lambda part: (ALL, part[1])))
    merged = op.stateful_batch("in_order", of_a_block, lambda state: _MergeLogic(state, instruments))
    _connect(merged, outputs, notify)
    return dataflow


def build_outputs(
    source: Source[tuple[str, BlockResult]],
    outputs: Outputs,
    *,
    notify: Callable[[Alert], list[Callback]] | None = None,
) -> Dataflow:
    """Build the dataflow from a source of results, which have the key `ALL`, to the outputs."""
    dataflow = Dataflow(FLOW_ID)
    _connect(op.input("results", dataflow, source), outputs, notify)
    return dataflow


def _connect(
    results: KeyedStream[BlockResult], outputs: Outputs, notify: Callable[[Alert], list[Callback]] | None
) -> None:
    # Bytewax builds a sink's partition with its first item. So files and callbacks get one for each result, if only
    # an empty one: an output that stays empty is there, and what an earlier run left undelivered is taken up.
    picks: list[tuple[str, Sink[Any] | None, Callable[[BlockResult], Iterable[Any]]]] = [
        ("windows", outputs.windows, lambda result: [result.windows]),
        ("alerts", outputs.alerts, lambda result: [result.alert_lines]),
        ("rejected", outputs.rejected, lambda result: [result.rejected]),
        ("groups", outputs.groups, lambda result: [result.groups]),
        ("parts", outputs.parts, lambda result: [result.progress]),
        ("callbacks", outputs.callbacks, partial(_callbacks, notify=notify)),
        (
            "audit",
            outputs.audit,
            partial(_audit_entries, notify=notify, has_topic=outputs.topic_alerts is not None),
        ),
        ("tally", outputs.counts, lambda result: [result.counts]),
        ("topic_windows", outputs.topic_windows, lambda result: [result.windows]),
        ("topic_groups", outputs.topic_groups, lambda result: [result.groups]),
        ("topic_alerts", outputs.topic_alerts, lambda result: [result.alert_lines]),
    ]
    for name, sink, pick in picks:
        if sink is not None:
            op.output(name, op.flat_map_value(f"pick_{name}", results, pick), sink)


def _decode(
    block: Block | BlockRef, *, decode: Callable[[bytes], Decoded]
) -> list[tuple[str, list[ShardBlock] | list[BlockStats]]]:
    """Return a block's part for each shard, under the shard's key, and its counts for all.

    Each is a list of one, or of several where clock records cut the block, for in each of them time only grows.
    """
    with logged_failures("decode_failed", source=block.source, line=block.line):
        block = block.resolved() if isinstance(block, BlockRef) else block
        pieces = decode_pieces(block.data, decode)
        parts = split_pieces(block.number, [one for _, one in pieces], len(SHARDS), last=block.last)
        stats = [block_stats(block.number, block.source, block.line + lines, one) for lines, one in pieces]
        return [*zip(SHARDS, parts, strict=True), (ALL, stats)]


class _ShardLogic(StatefulBatchLogic[list[ShardBlock], tuple[int, list[ShardResult]], tuple[Any, ...]]):
    """Applies a shard's blocks in order of their numbers, in whichever order they were decoded."""

    def __init__(
        self, overrides: Overrides | None, resume_state: tuple[Any, ...] | None, instruments: Instruments
    ) -> None:
        self._shard = Shard(overrides)
        self._apply = partial(instruments.apply, self._shard)
        self._number = 0
        self._early: dict[int, list[ShardBlock]] = {}
        if resume_state is not None:
            self._number = resume_state[0]
            with logged_failures("shard_restore_failed"):
                self._shard.restore(resume_state[1])

    def on_batch(self, values: list[list[ShardBlock]]) -> tuple[list[tuple[int, list[ShardResult]]], bool]:
        with logged_failures("shard_failed"):
            self._early.update((parts[0].number, parts) for parts in values)
            results = []
            while (parts := self._early.pop(self._number, None)) is not None:
                results.append((self._number, [self._apply(part) for part in parts]))
                self._number += 1
            return results, StatefulBatchLogic.RETAIN

    def snapshot(self) -> tuple[Any, ...]:
        # All blocks of an epoch are here before it ends, so that none can be waiting for an earlier one.
        if self._early:
            raise RuntimeError(f"the shard waits for block {self._number} and has {sorted(self._early)}")
        return (self._number, self._shard.snapshot())


class _MergeLogic(StatefulBatchLogic[list[BlockStats] | tuple[int, list[ShardResult]], BlockResult, MergeState]):
    """Gives the results of the blocks in order."""

    def __init__(self, resume_state: MergeState | int | None, instruments: Instruments) -> None:
        if isinstance(resume_state, int):  # of a version that knew no groups
            resume_state = (resume_state, None)
        number, groups = resume_state or (0, None)
        self._merger = Merger(len(SHARDS), number)
        if groups is not None:
            with logged_failures("merge_restore_failed"):
                self._merger.groups.restore(groups)
        self._instruments = instruments

    def on_batch(
        self, values: list[list[BlockStats] | tuple[int, list[ShardResult]]]
    ) -> tuple[list[BlockResult], bool]:
        with logged_failures("merge_failed"):
            for value in values:
                if isinstance(value, list):
                    self._merger.add_stats(value)
                else:
                    self._merger.add_results(*value)
            results = self._merger.results()
            self._instruments.reported(results)
            return results, StatefulBatchLogic.RETAIN

    def snapshot(self) -> MergeState:
        if not self._merger.is_empty:
            raise RuntimeError(f"block {self._merger.number} is incomplete at the end of an epoch")
        return (self._merger.number, self._merger.groups.snapshot())


def _callbacks(result: BlockResult, notify: Callable[[Alert], list[Callback]] | None) -> list[list[Callback]]:
    from connectors.callbacks.outbox import Callback

    callbacks: list[Callback] = []
    for alert in result.alerts:
        if not alert.is_sent:
            continue
        if alert.url is not None:
            incident = _incident_of(alert.body)
            callbacks.append(
                Callback(
                    alert.alert_id,
                    alert.conversation_id or "",
                    str(alert.url),
                    alert.body,
                    thread=alert.ordered_by,
                    incident=incident,
                    closes=alert.state == "resolved",
                )
            )
        if notify is not None:
            callbacks += notify(alert)
    return [callbacks]


def _incident_of(body: bytes) -> str:
    """Return the incident's id in an alert's body. Quotes inside of texts are escaped, so no text holds the key."""
    return body.partition(b'"incidentId":"')[2].partition(b'"')[0].decode()


def _audit_entries(
    result: BlockResult, notify: Callable[[Alert], list[Callback]] | None, *, has_topic: bool
) -> list[AuditEntry]:
    from connectors.state.actions import Action
    from connectors.state.audit import AuditEntry

    ended = [
        # The id tells the sink after a crash which entries it has written already.
        AuditEntry(
            Action.WATCH_ENDED,
            conversation_id,
            "silent",
            {"id": uuid_text(incident_id_of([Action.WATCH_ENDED, conversation_id, at])), "ended_at": at},
        )
        for at, conversation_id in result.silent
    ]
    return ended + [
        AuditEntry(
            Action(f"ALERT_{alert.state.upper()}"),
            None if alert.rule == "PLATFORM_EVENT" else alert.conversation_id,
            alert.reason or alert.state,
            {"id": alert.alert_id, "rule": alert.rule, **_unsent(alert, notify, has_topic=has_topic)},
        )
        for alert in result.alerts
    ]


def _unsent(alert: Alert, notify: Callable[[Alert], list[Callback]] | None, *, has_topic: bool) -> dict[str, Any]:
    """Return what an entry says of an alert that is not sent, because it is inhibited or has no receiver."""
    if not alert.is_sent:
        return {"sent": False}
    if alert.url is None and not has_topic and (notify is None or not notify(alert)):
        return {"sent": False, "why": "no_receiver"}
    return {}


class CountsSink(FixedPartitionedSink[Counts, tuple[int, ...]]):
    """Add up counts; `total` is readable from any thread of the process that holds the one partition.

    Exactly once: the total is part of the snapshot. `calls_not_watched` counts by reason the conversations that the
    feeds of this run have found and not watched, `interceptors_created` is how many discovery has created once the run
    is over; `progress` is where the source of a live run is in its journal.
    """

    def __init__(self) -> None:
        self.total = Counts()
        self.calls_not_watched: Mapping[str, int] = {}
        self.interceptors_created = 0
        self.progress: SourceProgress | None = None
        self._lock = threading.Lock()

    def list_parts(self) -> list[str]:
        """Return the only partition."""
        return ["tally"]

    def build_part(self, step_id: str, for_part: str, resume_state: tuple[int, ...] | None) -> _CountsPartition:  # noqa: ARG002
        """Go on from the total of the snapshot."""
        self.total = Counts(*resume_state) if resume_state else Counts()
        return _CountsPartition(self)

    def add(self, counts: list[Counts]) -> None:
        """Add to the total."""
        with self._lock:
            self.total = Counts(*map(sum, zip(self.total, *counts, strict=True)))


class _CountsPartition(StatefulSinkPartition[Counts, tuple[int, ...]]):
    def __init__(self, sink: CountsSink) -> None:
        self._sink = sink

    def write_batch(self, values: list[Counts]) -> None:
        self._sink.add(values)

    def snapshot(self) -> tuple[int, ...]:
        return tuple(self._sink.total)
