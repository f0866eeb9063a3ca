"""Follow instances that divide the conversations: add up their groups while they run, and send the incidents.

The parts of the instances go through one Bytewax flow of outputs, as a run's results do: files exactly once, callbacks
through an outbox. The snapshot of its source holds how far the parts were taken, and the state of all groups.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
from bytewax.inputs import AbortExecution, FixedPartitionedSource
from bytewax.run import cli_main

from connectors.errors import StateError, UsageError
from connectors.runtime.polling import PolledPartition
from connectors.runtime.shutdown import Shutdown
from connectors.runtime.tracing import configure_tracing
from connectors.state.audit import AuditLog
from connectors.state.audit_sink import AuditSink
from connectors.state.daily import DailyLinesSink
from connectors.state.files import StateLock, check_writable, logged_failures
from flows.analytics.group_incidents import GroupIncidents
from flows.analytics.groups import Span
from flows.analytics.merge import BlockResult, Counts
from flows.commands.merge import span_of_groups
from flows.commands.merge_members import Decisions, Members
from flows.commands.merge_sources import parts_of
from flows.dataflow import ALL, CountsSink, Outputs, build_outputs
from flows.live import SNAPSHOT_EVERY, callback_sink, recovery_of
from flows.notify import Notifier
from flows.settings.models import Settings
from flows.settings.secrets import secrets_of
from flows.settings.web import WEB_TOKEN
from flows.state import StateLayout

__all__ = ["follow"]

POLL_S: Final = 0.2
FollowState = tuple[float, int, list[str], tuple[Any, ...]]


def follow(
    sources: Sequence[str],
    out: Path,
    settings: Settings,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    *,
    leave_out_after_s: float,
) -> Counts:
    """Follow the instances until a shutdown, and return what was counted.

    `sources` are their state directories, or addresses of their live pages. `out` is a state directory of its own:
    results, outbox and snapshots. Raises VoicewatchError.
    """
    if not settings.groups.by:
        raise UsageError("--follow judges the incidents of groups: name their labels in [groups] by")
    if len(set(sources)) < len(sources):
        raise UsageError(f"an instance is named twice: {', '.join(sources)}")
    state = StateLayout(out)
    if state.journal.exists():
        raise UsageError(f"--out {out}: is the state directory of a run; choose another")
    settings = settings.model_copy(update={"state": settings.state.model_copy(update={"dir": out})})
    check_writable(state.dir)
    configure_tracing(environ)
    notifier, totals, keep_days = Notifier(settings, environ), CountsSink(), settings.state.keep_results_days
    outputs = Outputs(
        windows=DailyLinesSink(state.windows, "end", keep_days=keep_days),
        alerts=DailyLinesSink(state.alerts, "timestamp", keep_days=keep_days),
        groups=DailyLinesSink(state.groups, "end", keep_days=keep_days),
        callbacks=callback_sink(settings, secrets_of(environ), AuditLog(state.audit), notifier),
        audit=AuditSink(state.audit),
        counts=totals,
    )
    recovery = recovery_of(settings)
    token = environ.get(WEB_TOKEN, "").strip() or None
    parts = {source: parts_of(source, token) for source in sources}
    members = partial(Members, parts, Decisions(state.decisions), leave_out_after_s=leave_out_after_s)
    source = _FollowSource(state.lock, members, partial(span_of_groups, settings), shutdown)
    flow = build_outputs(source, outputs, notify=notifier.callbacks)
    cli_main(flow, epoch_interval=SNAPSHOT_EVERY, recovery_config=recovery)  # type: ignore[no-untyped-call]
    if source.failure is not None:
        raise source.failure
    return totals.total


class _FollowSource(FixedPartitionedSource[tuple[str, BlockResult], FollowState]):
    """The results of all instances together, as far as all have come.

    At least once: a run that is started again takes the parts since the last snapshot once more, with the same results.
    """

    def __init__(
        self, lock: Path, members: Callable[[], Members], span: Callable[[float], Span], shutdown: Shutdown
    ) -> None:
        self._lock = lock
        self._members = members
        self._span = span
        self._shutdown = shutdown
        self.failure: StateError | None = None

    def list_parts(self) -> list[str]:
        """Return the name of the one partition."""
        return ["parts"]

    def build_part(self, step_id: str, for_part: str, resume_state: FollowState | None) -> _FollowPartition:  # noqa: ARG002
        """Take the lock of the state directory, and go on. Raises StateError."""
        with logged_failures("follow_failed"):
            lock = StateLock(self._lock)
            lock.acquire()
            return _FollowPartition(self, lock, self._members(), self._span, self._shutdown, resume_state)


class _FollowPartition(PolledPartition[tuple[str, BlockResult], FollowState]):
    def __init__(
        self,
        source: _FollowSource,
        lock: StateLock,
        members: Members,
        span: Callable[[float], Span],
        shutdown: Shutdown,
        resume_state: FollowState | None,
    ) -> None:
        self._source = source
        self._lock = lock
        self._members = members
        self._span = span
        self._stop = shutdown.requested
        self._incidents = GroupIncidents()
        self._has_begun = False
        if resume_state is not None:
            reached, followed, left_out, incidents = resume_state
            self._members.resume(reached, followed, left_out)
            self._incidents.restore(incidents)

    def next_batch(self) -> list[tuple[str, BlockResult]]:
        if self._stop.is_set():
            raise StopIteration
        if not self._has_begun:  # so that what an earlier run has not delivered is taken up
            self._has_begun = True
            return [(ALL, BlockResult(b"", b"", b"", [], Counts()))]
        try:
            parts = self._members.next_parts(time.monotonic())
        except StateError as error:
            self._source.failure = error
            # Bytewax would print the traceback of any other exception, and there is nothing to debug.
            raise AbortExecution from error
        if parts is None:
            self._stop.wait(POLL_S)
            return []
        with logged_failures("follow_failed"):
            judged = self._incidents.apply([self._span(self._members.reached)], parts, [], last=False)
        raised = sum(alert.state == "raised" for alert in judged.alerts)
        result = BlockResult(
            windows=b"",
            groups=b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in judged.lines),
            alert_lines=b"".join(alert.body + b"\n" for alert in judged.alerts),
            rejected=b"",
            alerts=judged.alerts,
            counts=Counts(windows=len(judged.lines), raised=raised, resolved=len(judged.alerts) - raised),
        )
        return [(ALL, result)]

    def snapshot(self) -> FollowState:
        members = self._members
        return (members.reached, members.followed, members.left_out, self._incidents.snapshot())

    def close(self) -> None:
        self._lock.release()
