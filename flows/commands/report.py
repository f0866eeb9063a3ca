"""Report a period from the results of a state directory, or of a replay, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.errors import StateError, UsageError
from connectors.journal.recording import Progress, no_progress
from connectors.state.files import state_errors
from flows.report.contents import contents
from flows.report.gather import gather, size_of
from flows.report.page import page_of
from flows.state import StateLayout

__all__ = ["Reported", "report"]


@dataclass(frozen=True)
class Reported:
    """Hold what a report was made of, and its size in bytes."""

    windows: int
    conversations: int
    incidents: int
    covered: float | None
    size: int


def report(
    source: Path,
    out: Path,
    *,
    journal: Sequence[Path],
    begin: float,
    end: float,
    names_agents: bool,
    now: float,
    progress: Progress = no_progress,
) -> Reported:
    """Write the report of the results in `source` from `begin` until before `end` (epoch seconds) to the file `out`.

    `journal` are the recordings that a replay was of; a state directory has its own. Raises UsageError if `source`
    holds no results or `out` is one of the files of `source` or `journal`, RecordingError and
    StateError for files that cannot be read or written.
    """
    if out.is_dir():
        raise UsageError(f"--out {out}: is a directory; name the file to write, such as {out / 'report.html'}")
    total, done = size_of(source, journal), 0

    def read(size: int) -> None:
        nonlocal done
        done += size
        progress(min(done, total), total)

    gathered = gather(source, journal, begin, end, read)
    state = StateLayout(source)
    if out.exists() and any(path.exists() and out.samefile(path) for path in (*gathered.files, *state.files)):
        raise UsageError(f"--out {out}: is one of the files that a run wrote; choose another file")
    shown = contents(gathered, names_agents=names_agents, now=now)
    page = page_of(shown).encode("utf-8", "backslashreplace")
    try:
        with state_errors(f"writing {out}"):
            out.write_bytes(page)
    except StateError as error:  # whose advice names the directory of a run
        raise StateError(str(error).replace("[state] dir", "--out")) from error
    totals = shown["now"]["totals"]
    return Reported(
        totals.windows, totals.conversations, shown["now"]["incidents"], shown["now"]["coverage"].share, len(page)
    )
