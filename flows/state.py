"""Where everything is in a state directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connectors.state.files import LOCK_NAME

__all__ = ["FLOW_ID", "JOURNAL_STEP", "StateLayout"]

# Under these names Bytewax keeps its snapshots.
FLOW_ID: Final = "voice_qa"
JOURNAL_STEP: Final = f"{FLOW_ID}.journal"


@dataclass(frozen=True)
class StateLayout:
    """Where everything is in a state directory."""

    dir: Path

    @property
    def lock(self) -> Path:
        """Return the lock file, which the one run that uses the directory holds."""
        return self.dir / LOCK_NAME

    @property
    def stop(self) -> Path:
        """Return the stop marker: created by a process that receives a signal, polled by the one with the source."""
        return self.dir / "stop"

    @property
    def journal(self) -> Path:
        """Return the directory of the journal's segments."""
        return self.dir / "journal"

    @property
    def outbox(self) -> Path:
        """Return the database of the callbacks that are due, under way or dead."""
        return self.dir / "outbox" / "outbox.sqlite3"

    @property
    def recovery(self) -> Path:
        """Return the directory of Bytewax' snapshots."""
        return self.dir / "recovery"

    @property
    def files(self) -> list[Path]:
        """Return all files that are in the directory now, those of its folders included."""
        return [path for path in self.dir.rglob("*") if path.suffix != ".html" and path.is_file()]

    def enrichment(self, feed: str) -> Path:
        """Return the file of the conversations whose media a feed has yet to ask for."""
        return self.dir / "enrichment" / f"{feed}.sqlite3"

    def sweep(self, feed: str) -> Path:
        """Return the file of the ended calls that a feed's sweep has recorded."""
        return self.dir / "sweep" / f"{feed}.sqlite3"

    def spool(self, results: str) -> Path:
        """Return the file of the lines of some results that wait for their Kafka topic."""
        return self.dir / "kafka" / f"{results}.sqlite3"

    @property
    def spools(self) -> dict[str, Path]:
        """Return the files of lines that wait for Kafka, by the results that they hold."""
        return {path.stem: path for path in sorted((self.dir / "kafka").glob("*.sqlite3"))}

    @property
    def audit(self) -> Path:
        """Return the file of the audit log."""
        return self.dir / "audit.jsonl"

    @property
    def interceptors(self) -> Path:
        """Return the file of the interceptors that the bootstrap has created."""
        return self.dir / "interceptors.json"

    @property
    def names(self) -> Path:
        """Return the file of the names of queues, users and divisions that were looked up."""
        return self.dir / "names.json"

    @property
    def windows(self) -> Path:
        """Return the file of the windows, a line each."""
        return self.dir / "windows.jsonl"

    @property
    def groups(self) -> Path:
        """Return the file of the windows of groups, a line each."""
        return self.dir / "groups.jsonl"

    @property
    def parts(self) -> Path:
        """Return the file of what this instance of several adds to groups, a line for each end of windows."""
        return self.dir / "parts.jsonl"

    @property
    def decisions(self) -> Path:
        """Return the file of the instances that merged groups do without, and since when."""
        return self.dir / "decisions.jsonl"

    @property
    def alerts(self) -> Path:
        """Return the file of the alerts, a line each."""
        return self.dir / "alerts.jsonl"
