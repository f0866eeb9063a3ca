"""Read what the live page needs on request only: the windows of a conversation, the receivers, sizes of files."""

from __future__ import annotations

import os
import shutil
import sqlite3
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from connectors.journal.segments import segments
from flows.state import StateLayout
from flows.web.results import DAY_BYTES, places

__all__ = ["WindowsRead", "files_of", "receivers", "windows_of"]

MAX_WINDOWS: Final = 20_000
# A line is about 450 bytes, unless its conversation has long labels or many legs.
LINE_BYTES: Final = 1024


class WindowsRead:
    """Hold the windows of a conversation; `complete` is False if some were left out."""

    def __init__(self) -> None:
        self.windows: list[dict[str, Any]] = []
        self.complete = True


def windows_of(path: Path, conversation_id: str, offsets: Sequence[int]) -> WindowsRead:
    """Return the windows of a conversation at these offsets of the results; the newest if there are very many."""
    found = WindowsRead()
    found.complete = len(offsets) <= MAX_WINDOWS
    wanted = sorted(offsets[-MAX_WINDOWS:])
    for base, file in places(path):
        own = wanted[bisect_left(wanted, base) : bisect_left(wanted, base + DAY_BYTES)]
        if not own:
            continue
        try:
            with file.open("rb", buffering=0) as lines:
                read = [_window_at(lines.fileno(), offset - base) for offset in own]
        except FileNotFoundError:  # removed, or renamed a moment ago
            continue
        found.windows += [one for one in read if one is not None and one.get("conversation_id") == conversation_id]
    found.complete = found.complete and len(found.windows) == len(wanted)
    return found


def _window_at(fd: int, offset: int) -> dict[str, Any] | None:
    """Return the window whose line begins at an offset; None if none does."""
    size = LINE_BYTES
    while b"\n" not in (data := os.pread(fd, size, offset)) and len(data) == size:
        size *= 4
    try:
        window = orjson.loads(data[: data.find(b"\n")])
    except orjson.JSONDecodeError:
        return None
    return window if isinstance(window, dict) else None


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
