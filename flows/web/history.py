"""Read what the live page needs on request only: the windows of a conversation, the receivers, sizes of files."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from connectors.journal.segments import segments
from flows.state import StateLayout
from flows.web.results import spans

__all__ = ["WindowsRead", "files_of", "receivers", "windows_of"]

MAX_READ_BYTES: Final = 256 * 1024 * 1024
MAX_WINDOWS: Final = 20_000
PIECE_BYTES: Final = 1024 * 1024


class WindowsRead:
    """Hold the windows of a conversation; `complete` is False if the oldest were left out."""

    def __init__(self) -> None:
        self.windows: list[dict[str, Any]] = []
        self.complete = True


def windows_of(path: Path, conversation_id: str, offset: int, past: int) -> WindowsRead:
    """Return the windows of a conversation between two offsets of the results; the newest if there are very many."""
    found = WindowsRead()
    mark = orjson.dumps(conversation_id)
    left = MAX_READ_BYTES
    for file, begin, end in spans(path, offset, past):  # the newest first
        first = max(begin, end - left)
        found.complete = found.complete and first == begin
        found.windows[:0] = _windows_between(file, first, end, mark, conversation_id, is_cut=first > begin)
        left -= end - first
    if len(found.windows) > MAX_WINDOWS:
        found.windows = found.windows[-MAX_WINDOWS:]
        found.complete = False
    return found


def _windows_between(
    path: Path, begin: int, end: int, mark: bytes, conversation_id: str, *, is_cut: bool
) -> list[dict[str, Any]]:
    """Return the windows of one conversation in a part of a file; `is_cut` if it may begin within a line."""
    windows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        file.seek(begin)
        if is_cut:
            file.readline()
        rest = b""
        while file.tell() - len(rest) < end and (piece := file.read(PIECE_BYTES)):
            data = rest + piece
            complete = data.rfind(b"\n") + 1
            rest = data[complete:]
            windows += _matching(data[:complete], mark, conversation_id)
    return windows


def _matching(data: bytes, mark: bytes, conversation_id: str) -> list[dict[str, Any]]:
    """Return the windows of one conversation among some lines; searching is much faster than decoding them all."""
    windows = []
    at = data.find(mark)
    while at >= 0:
        end = data.find(b"\n", at)
        line = data[data.rfind(b"\n", 0, at) + 1 : end]
        window = orjson.loads(line)
        if window.get("conversation_id") == conversation_id:
            windows.append(window)
        at = data.find(mark, end)
    return windows


_RECEIVERS: Final = """
SELECT url, SUM(state = 'pending') AS pending, SUM(state = 'dead') AS dead,
  SUM(state IN ('delivered', 'open')) AS delivered,
  MIN(CASE WHEN state = 'pending' THEN created_at END) AS oldest,
  MIN(CASE WHEN state = 'pending' AND head = 1 THEN due_at END) AS due,
  SUM(state = 'pending' AND attempts > 0) AS retrying,
  (SELECT last_error FROM callbacks AS c WHERE c.url = callbacks.url AND last_error IS NOT NULL
   ORDER BY seq DESC LIMIT 1) AS error
FROM callbacks GROUP BY url ORDER BY dead DESC, pending DESC, url
"""


def receivers(outbox: Path) -> list[dict[str, Any]]:
    """Return a row for each receiver in an outbox that others may be writing. Raises sqlite3.Error.

    Only the origin of its address is shown, as the rest may hold a secret: addresses of one origin are one receiver.
    """
    if not outbox.exists():
        return []
    with closing(sqlite3.connect(f"{outbox.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute(_RECEIVERS)]
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        endpoint = shown_of(row.pop("url"))
        found[endpoint] = _together(found[endpoint], row) if endpoint in found else row | {"endpoint": endpoint}
    return list(found.values())


def _together(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return one receiver for two addresses of it."""
    sums = {name: one[name] + other[name] for name in ("pending", "dead", "delivered", "retrying")}
    earliest = {
        name: min((at for at in (one[name], other[name]) if at is not None), default=None) for name in ("oldest", "due")
    }
    return one | sums | earliest | {"error": one["error"] or other["error"]}


def files_of(state: StateLayout) -> dict[str, Any]:
    """Return the size of the journal, the free space beside it, and when the dataflow's state was last saved."""
    journal = segments(state.journal) if state.journal.is_dir() else []
    sizes = [size for path in journal if (size := _size(path)) is not None]
    saved = [path.stat().st_mtime for path in state.recovery.glob("part-*.sqlite3*")] if state.recovery.is_dir() else []
    return {
        "journal_bytes": sum(sizes),
        "journal_segments": len(sizes),
        "free_bytes": shutil.disk_usage(state.dir).free,
        "saved_at": max(saved, default=None),
    }


def _size(path: Path) -> int | None:
    """Return the size of a file, None if it was removed or compressed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def shown_of(url: str) -> str:
    """Return what may be shown of a receiver: the origin of an address, or the name of a target.

    >>> [shown_of(url) for url in ("https://me:pw@qa.example.com:8443/hook?key=hush", "notify:ops")]
    ['https://qa.example.com:8443', 'notify:ops']
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else url
