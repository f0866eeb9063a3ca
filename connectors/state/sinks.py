"""The Bytewax sink that writes JSON Lines exactly once."""

from __future__ import annotations

import os
from pathlib import Path

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.errors import StateError
from connectors.runtime.logs import get_logger
from connectors.runtime.platform import sync_data
from connectors.state.files import logged_failures, make_private_dir, open_private, state_errors, write_all

__all__ = ["JsonLinesPartition", "JsonLinesSink"]


class JsonLinesPartition(StatefulSinkPartition[bytes, int]):
    """Append chunks of lines to a file that is cut back to `resume_at` bytes first; the state is its length."""

    def __init__(self, path: Path, resume_at: int) -> None:
        self._path = path
        make_private_dir(path.parent)
        self._fd = open_private(path, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(self._fd).st_size
            if size < resume_at:
                raise StateError(
                    f"{path} is {size} bytes long but held {resume_at} at the last snapshot: it was cut, replaced or "
                    "lost; put the file back, or move the recovery directory away to start afresh"
                )
            with state_errors(f"truncating {path}"):
                os.ftruncate(self._fd, resume_at)
        except BaseException:
            os.close(self._fd)
            raise
        self._size = resume_at
        self._synced = resume_at

    def write_batch(self, values: list[bytes]) -> None:
        """Append chunks."""
        data = b"".join(values)
        with (
            logged_failures("output_write_failed", path=str(self._path)),
            state_errors(f"writing {self._path}"),
        ):
            if data:
                write_all(self._fd, data)
        self._size += len(data)

    def snapshot(self) -> int:
        """Sync what was written, and return the length."""
        if self._size != self._synced:
            with (
                logged_failures("output_sync_failed", path=str(self._path)),
                state_errors(f"syncing {self._path}"),
            ):
                sync_data(self._fd)
            self._synced = self._size
        return self._size

    def close(self) -> None:
        """Close the file."""
        # Must not raise: Bytewax calls it while another exception unwinds, and a second one aborts the process.
        try:
            os.close(self._fd)
        except OSError as error:
            get_logger(__name__).warning("output_close_failed", path=str(self._path), error=str(error))


class JsonLinesSink(FixedPartitionedSink[bytes, int]):
    """Bytewax sink of items `(key, chunk)` into one file; a chunk is one or more complete lines as bytes.

    Without a resume state the file starts empty. With one it is cut back to its length at that snapshot, and the
    flow writes the rest again. A file that is shorter than that raises StateError. The file is synced at each
    snapshot that follows a write, so the recovery store never runs ahead of it.

    Delivery guarantee: exactly once, with recovery on. A crash (`kill -9`) or a power loss costs nothing; lines
    past the last snapshot are on view before they are final.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def list_parts(self) -> list[str]:
        """Return the name of the one partition, whatever the number of workers."""
        return ["file"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> JsonLinesPartition:  # noqa: ARG002
        """Open the files; raises StateError if that fails."""
        with logged_failures("output_open_failed", step=step_id, path=str(self._path)):
            return JsonLinesPartition(self._path, resume_state or 0)
