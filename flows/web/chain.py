"""Follow the chain of hashes of the audit log while it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connectors.state.audit import head_of
from flows.web.lines import Audit

__all__ = ["AuditChain"]


class AuditChain:
    """Check that each line carries the hash of the line before it, as far as the log was read.

    `voicewatch audit verify` checks the whole log, and says which line was changed.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.breaks = 0
        self.begins_at: float | None = None
        self.checked_at: float | None = None
        self._previous: str | None = None
        self._offset = 0

    def take(self, offset: int, data: bytes, records: Sequence[Audit]) -> None:
        """Take whole lines that were read at an offset, and the records that they are."""
        lines = data.split(b"\n")[:-1]
        if len(lines) != len(records):  # some are not records
            self.breaks += 1
        else:
            previous = self._previous
            for line, record in zip(lines, records, strict=True):
                self.breaks += previous is not None and record.prev != previous
                previous = hashlib.sha256(line).hexdigest()
        self.lines += len(lines)
        if records:
            self.begins_at = records[0].time if self.begins_at is None else self.begins_at
            self.checked_at = records[-1].time
        self._previous = hashlib.sha256(lines[-1]).hexdigest() if lines else self._previous
        self._offset = offset + len(data)

    def verdict(self, path: Path) -> dict[str, Any]:
        """Return whether the chain holds (None where no line was read), and from when to when it was checked."""
        head = head_of(path)
        is_cut = head is not None and self.lines > 0 and self._contradicts(head, path)
        return {
            "audit_ok": None if not self.lines else not (self.breaks or is_cut),
            "audit_lines": self.lines,
            "audit_from": self.begins_at,
            "audit_to": self.checked_at,
        }

    def _contradicts(self, head: tuple[int, str], path: Path) -> bool:
        """Return whether the head of the log names another end: lines were cut off, or the last one was changed."""
        size, last = head
        if size == self._offset:
            return last != self._previous
        try:
            return size > path.stat().st_size
        except FileNotFoundError:
            return True
