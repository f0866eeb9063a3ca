"""The Bytewax sink that writes the audit log exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.errors import StateError
from connectors.runtime.logs import get_logger
from connectors.state.audit import AuditEntry, AuditLog, read
from connectors.state.files import logged_failures

__all__ = ["AuditSink"]


class _AuditPartition(StatefulSinkPartition[AuditEntry, int]):
    def __init__(self, path: Path, now: Callable[[], float], resume_at: int) -> None:
        self._log = AuditLog(path, now)
        self._written = {
            (record["action"], record["id"])
            for record in (read(path, start=resume_at) if path.exists() else ())
            if "action" in record and isinstance(record.get("id"), str)
        }
        self._synced = True

    def write_batch(self, values: list[AuditEntry]) -> None:
        with logged_failures("audit_write_failed"):
            self._log.extend(e for e in values if (e.action, e.details["id"]) not in self._written)
        self._synced = False

    def snapshot(self) -> int:
        with logged_failures("audit_sync_failed"):
            if not self._synced:
                self._log.sync()
                self._synced = True
            return self._log.size()

    def close(self) -> None:
        # Must not raise: Bytewax calls it while another exception unwinds, and a second one aborts the process.
        try:
            self._log.close()
        except (OSError, StateError):
            get_logger(__name__).exception("audit_close_failed")


class AuditSink(FixedPartitionedSink[AuditEntry, int]):
    """Bytewax sink of items `(key, AuditEntry)`, each with an `id` in its details, into the audit log at `path`.

    The log is shared with other writers and never cut back. Instead, a resumed flow reads what the log has gained
    since the snapshot and skips the entries that are there already, known by action and id.

    Delivery guarantee: exactly once, with recovery on, across crashes (`kill -9`). The log is synced at each snapshot
    that follows a write, so a power loss costs nothing either.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = Path(path)
        self._now = now

    def list_parts(self) -> list[str]:
        """Return the name of the one partition, whatever the number of workers."""
        return ["log"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _AuditPartition:  # noqa: ARG002
        """Open the files; raises StateError if that fails."""
        with logged_failures("audit_open_failed", step=step_id):
            return _AuditPartition(self._path, self._now, resume_state or 0)
